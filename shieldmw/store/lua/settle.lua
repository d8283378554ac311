-- settle: charge what a worker admitted by itself while it could not ask. Never refuses: it has been spent.
--
-- KEYS     buckets, each holding a TAT (see take.lua)
-- ARGV     for each two whole numbers: owed_us, by how much its TAT moves; tau_us, how long an empty one takes to fill
-- returns  how many buckets were charged
-- TTL      until the bucket is full again
--
-- A bucket cannot be emptier than empty: what is owed beyond that is forgiven.

local time = redis.call('TIME')
local now = (tonumber(time[1]) - 1735689600) * 1000000 + tonumber(time[2])

local tats = redis.call('MGET', unpack(KEYS))
for i, key in ipairs(KEYS) do
  local tat = tonumber(tats[i] or now) or now
  tat = tat == tat and tat or now -- "nan" is a number to Lua
  tat = math.min(math.max(tat, now) + tonumber(ARGV[2 * i - 1]), now + tonumber(ARGV[2 * i]))
  redis.call('SET', key, tat, 'PX', math.max(1, math.ceil((tat - now) / 1000)))
end
return #KEYS
