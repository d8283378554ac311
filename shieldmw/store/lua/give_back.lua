-- give_back: return unspent charges to buckets that nobody has charged since.
--
-- KEYS     buckets, each holding a TAT (see take.lua)
-- ARGV     for each bucket two whole numbers: ceiling_us, its TAT after the charges; give_us, by how much the TAT
--          goes back
-- returns  how many buckets took something back
-- TTL      until the bucket is full again
--
-- Only if the TAT is still exactly the ceiling: otherwise another worker may have leased behind it, relying on all
-- that was charged before. What is not given back comes back by itself as the bucket refills.

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
