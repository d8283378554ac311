-- settle: charge what a worker admitted on its own while the store was away. Never refuses, since it is already spent.
--
-- KEYS     for each debt two: the bucket, holding a TAT (see take.lua); the record of what was charged of the worker's
--          last debt there, as "number:admitted_us"
-- ARGV     1 the worker's clock in microseconds; then for each debt six whole numbers: its number; admitted_us; the
--          TAT that this led to, by the worker's clock; the number of workers that shared the limit; deepest_us, how
--          far ahead the debt may move the bucket's TAT at most; the TTL of the record in ms
-- returns  how many buckets were charged
-- TTL      of a bucket: until it is full again; of the record: until nothing of the debt would be owed any more
--
-- A call whose answer was lost is repeated: the part of a debt that has been charged is not charged again.
-- A TAT that is further ahead than deepest_us is that of a longer limit, and stays. How far ahead it counts: see take.lua.

local time = redis.call('TIME')
local now = (tonumber(time[1]) - 1735689600) * 1000000 + tonumber(time[2])
local theirs = tonumber(ARGV[1])

local kept, charged = redis.call('MGET', unpack(KEYS)), 0
for key = 1, #KEYS, 2 do
  local at = 3 * key - 1
  local number, before = string.match(kept[key + 1] or '', '^(%d+):(%d+)$')
  local left = tonumber(ARGV[at + 1]) - (number == ARGV[at] and tonumber(before) or 0)
  left = math.min(left, tonumber(ARGV[at + 2]) - theirs)
  if left > 0 then
    local tat = tonumber(kept[key] or now) or now
    tat = tat == tat and tat or now -- "nan" is a number to Lua
    local deepest = tonumber(ARGV[at + 4])
    tat = math.min(math.max(tat, now), now + math.max(deepest, 86400 * 1000000))
    tat = math.max(tat, math.min(tat + math.ceil(left / tonumber(ARGV[at + 3])), now + deepest))
    redis.call('SET', KEYS[key], tat, 'PX', math.max(1, math.ceil((tat - now) / 1000)))
    redis.call('SET', KEYS[key + 1], ARGV[at] .. ':' .. ARGV[at + 1], 'PX', ARGV[at + 5])
    charged = charged + 1
  end
end
return charged
