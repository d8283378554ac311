-- take: charge several buckets, all or nothing. The twin of core/bucket.py.
--
-- KEYS     the buckets, each holding a TAT: microseconds since 2025-01-01, as decimal text
-- ARGV     for each bucket three whole numbers: unit_us, tau_us, cost in units
-- returns  {1 if allowed else 0, now_us, TAT in force of each bucket ...}
-- TTL      until the bucket is full again, never less: a key that is gone is a full bucket
--
-- Numbers are doubles, exact to 2^53. tostring() and .. would cut them to 14 digits, hence %.0f.

local time = redis.call('TIME')
local now = (tonumber(time[1]) - 1735689600) * 1000000 + tonumber(time[2])

local allowed = 1
local old, new = {}, {}
for i, key in ipairs(KEYS) do
  local unit, tau, cost = tonumber(ARGV[3 * i - 2]), tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i])
  local stored = tonumber(redis.call('GET', key) or now) or now
  if stored ~= stored then -- "nan" is a number to Lua
    stored = now
  end
  old[i] = math.min(math.max(stored, now), now + tau)
  new[i] = old[i] + cost * unit
  if new[i] - now > tau then
    allowed = 0
  end
end

if allowed == 0 then
  return {0, now, unpack(old)}
end

for i, key in ipairs(KEYS) do
  if tonumber(ARGV[3 * i]) > 0 then
    local ttl_ms = math.max(1, math.ceil((new[i] - now) / 1000))
    redis.call('SET', key, string.format('%.0f', new[i]), 'PX', string.format('%.0f', ttl_ms))
  end
end
return {1, now, unpack(new)}
