-- give_back: take back charges that were never spent, of buckets that nobody has charged since.
--
-- KEYS     buckets, each holding a TAT (see take.lua)
-- ARGV     for each two whole numbers: ceiling_us, the TAT as it stood when they were charged; give_us, by how
--          much it goes back
-- returns  how many buckets took something back
-- TTL      until the bucket is full again
--
-- Only where the TAT is still exactly the ceiling: another worker may have leased behind it, and counts on all
-- that was charged before. What is not given back comes back by itself, as the bucket refills.

local time = redis.call('TIME')
local now = (tonumber(time[1]) - 1735689600) * 1000000 + tonumber(time[2])

local given = 0
local tats = redis.call('MGET', unpack(KEYS))
for i, key in ipairs(KEYS) do
  if tats[i] == ARGV[2 * i - 1] then
    local tat = tonumber(tats[i]) - tonumber(ARGV[2 * i])
    if tat > now then
      redis.call('SET', key, tat, 'PX', math.ceil((tat - now) / 1000))
    else
      redis.call('DEL', key)
    end
    given = given + 1
  end
end
return given
