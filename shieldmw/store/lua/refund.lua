-- refund: take back one charge, because another charge of the same request was refused.
--
-- KEYS     1 the bucket, holding a TAT (see take.lua)
-- ARGV     1 ceiling_us, the TAT after the charge   2 step_us, by how much the charge moved the TAT
--          3 charged_us, when it was made, by this server's clock
-- returns  by how much the TAT went back, in microseconds
-- TTL      until the bucket is full again
--
-- If the TAT is still the ceiling, all of the charge goes back. Otherwise others have charged the bucket since. Without
-- this charge it would have been full for at most the time since then, and would have refilled that much less. The rest
-- of the charge made no difference to anybody, and goes back. This requires that nobody has a lease behind the charge
-- (core/lease.py).

local tat = redis.call('GET', KEYS[1])
if not tat or not string.find(tat, '^%d+$') or #tat > 16 then
  return 0
end
local time = redis.call('TIME')
local now = (tonumber(time[1]) - 1735689600) * 1000000 + tonumber(time[2])
local give = tonumber(ARGV[2])
if tat ~= ARGV[1] then
  give = math.max(0, give - math.max(0, now - tonumber(ARGV[3])))
end
if give > 0 then
  tat = tonumber(tat) - give
  if tat > now then
    redis.call('SET', KEYS[1], tat, 'PX', math.ceil((tat - now) / 1000))
  else
    redis.call('DEL', KEYS[1])
  end
end
return give
