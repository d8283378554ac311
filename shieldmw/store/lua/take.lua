-- take: decide requests one after the other, each one's charges all or nothing. The twin of core/bucket.py.
--
-- KEYS     the buckets, each once, each holding a TAT: microseconds since 2025-01-01, as decimal text
-- ARGV     one: whole numbers packed as little-endian doubles, which is much less work than as many arguments. For
--          each request the number of its charges, and how many times more to prefetch them; then for each charge
--          four: index of its bucket in KEYS, unit_us, tau_us, cost in units
-- returns  {now_us, and for each request: -1 if it is refused, otherwise how many times more it was prefetched;
--          then the TAT of each of its charges' buckets}
-- TTL      until the bucket is full again, never less: a missing key is a full bucket
--
-- A bucket may be overdrawn by as much as it holds (see settle.lua), or by a longer limit that it had before. A TAT
-- counts up to a day ahead, or twice tau if that is more: further ahead is garbage (FURTHEST_US in core/bucket.py).
-- Numbers are doubles, exact to 2^53. tostring() and .. would cut them to 14 digits; redis.call() keeps 17.

local time = redis.call('TIME')
local now = (tonumber(time[1]) - 1735689600) * 1000000 + tonumber(time[2])

local tats = redis.call('MGET', unpack(KEYS))
for bucket = 1, #KEYS do
  local tat = tonumber(tats[bucket] or now) or now
  tats[bucket] = tat == tat and tat or now -- "nan" is a number to Lua
end

local furthest = 86400 * 1000000
local max, min, floor, ceil = math.max, math.min, math.floor, math.ceil
local asked = {struct.unpack('<' .. string.rep('d', #ARGV[1] / 8), ARGV[1])} -- the last value is where unpacking ended
local reply, filled = {now}, 1
local charged = {}
local at, last = 1, #asked
while at < last do
  local count, prefetch = asked[at], asked[at + 1]
  local first, after = at + 2, at + 2 + 4 * count
  local fits, times = true, 1 + prefetch
  local olds, steps = {}, {}
  for i = first, after - 1, 4 do
    local tau, step = asked[i + 2], asked[i + 1] * asked[i + 3]
    local old = min(max(tats[asked[i]], now), now + max(2 * tau, furthest))
    local used = old + step - now
    fits = fits and (used <= tau or step == 0)
    if prefetch > 0 and step > 0 then
      times = min(times, 1 + floor((tau - 2 * used) / (8 * step)))
    end
    olds[i], steps[i] = old, step
  end
  times = max(times, 1)
  filled = filled + 1
  reply[filled] = fits and times - 1 or -1
  for i = first, after - 1, 4 do
    local tat = olds[i]
    if fits and steps[i] > 0 then
      local bucket = asked[i]
      tat = tat + times * steps[i]
      tats[bucket], charged[bucket] = tat, true
    end
    filled = filled + 1
    reply[filled] = tat
  end
  at = after
end

for bucket in pairs(charged) do
  redis.call('SET', KEYS[bucket], tats[bucket], 'PX', max(1, ceil((tats[bucket] - now) / 1000)))
end
return reply
