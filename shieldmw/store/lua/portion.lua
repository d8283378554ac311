-- portion: take several units at once from a bucket that many clients share. The twin of core/portion.py.
--
-- KEYS     1 the bucket, holding a TAT (see take.lua)
-- ARGV     1 unit_us   2 tau_us   3 how many units are wanted   4 the least that is of use: fewer are not taken
-- returns  {now_us, how many units were granted, the bucket's TAT afterwards}
-- TTL      until the bucket is full again
--
-- How far ahead a TAT counts: see take.lua.

local time = redis.call('TIME')
local now = (tonumber(time[1]) - 1735689600) * 1000000 + tonumber(time[2])
local unit, tau = tonumber(ARGV[1]), tonumber(ARGV[2])
local want, least = tonumber(ARGV[3]), tonumber(ARGV[4])

local tat = redis.call('MGET', KEYS[1])[1]
tat = tonumber(tat or now) or now
tat = tat == tat and tat or now -- "nan" is a number to Lua
tat = math.min(math.max(tat, now), now + math.max(2 * tau, 86400 * 1000000))

local units = math.min(want, math.floor((now + tau - tat) / unit))
if units < least then
  return {now, 0, tat}
end
tat = tat + units * unit
redis.call('SET', KEYS[1], tat, 'PX', math.max(1, math.ceil((tat - now) / 1000)))
return {now, units, tat}
