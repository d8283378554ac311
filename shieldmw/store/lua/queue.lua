-- queue: the waiting room's two counters, however large the crowd: numbers given out, and numbers called.
--
-- KEYS     1 the queue: a hash of given, called
-- ARGV     1 numbers to give out   2 free seats, for each of which a number is called   3 TTL in ms
--          4-5 given and called as the caller knows them: a store that lost its own continues from there
-- returns  {first number given, given, called}
-- TTL      ARGV 3, renewed by each call: a room without calls for that long starts over
--
-- only() is a copy of the one in mode.lua, and whole() is a copy of the one in mode.lua, since a script cannot import;
-- a test compares them.

-- A key of another type is foreign: drop it.
local function only(kind, key)
  local found = redis.call('TYPE', key)['ok']
  if found ~= kind and found ~= 'none' then
    redis.call('DEL', key)
  end
end

-- A foreign number counts as 0.
local function whole(text)
  local number = tonumber(text or 0) or 0
  return number >= 0 and number <= 2 ^ 52 and number == math.floor(number) and number or 0
end

only('hash', KEYS[1])
-- If a script's first write needs no memory, the server lets it finish, however full it is.
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local give, free = tonumber(ARGV[1]), tonumber(ARGV[2])
local kept = redis.call('HMGET', KEYS[1], 'given', 'called')
local given = math.max(whole(kept[1]), tonumber(ARGV[4])) + give
local called = math.max(whole(kept[2]), tonumber(ARGV[5]))
called = math.max(called, math.min(given, called + free))
redis.call('HSET', KEYS[1], 'given', string.format('%.0f', given), 'called', string.format('%.0f', called))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {given - give + 1, given, called}
