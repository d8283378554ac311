-- decided: the decisions of the whole fleet, as the sum of what each worker has counted since its start.
--
-- KEYS     1 the sums: a hash of numbers by name   2 the same of one worker, as it last reported them
-- ARGV     1 TTL in ms   then the name of each, the worker's number, which never falls, and what of it the store has
--          confirmed before
-- returns  the sums, in the same order
-- TTL      ARGV 1, renewed by each call
--
-- What a worker that has died had reported stays in the sums. A call whose answer was lost is repeated, and adds nothing.
-- If the sums were lost they begin anew at what has not been confirmed yet: counters that jump would look like a flood.
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
only('hash', KEYS[2])
-- If a script's first write needs no memory, the server lets it finish, however full it is.
redis.call('PEXPIRE', KEYS[1], ARGV[1])
local sums = {}
for at = 2, #ARGV, 3 do
  local name, number, confirmed = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local stored = redis.call('HGET', KEYS[2], name)
  local more = math.max(0, number - (stored and whole(stored) or confirmed))
  local sum = whole(redis.call('HGET', KEYS[1], name)) + more
  if more > 0 then
    redis.call('HSET', KEYS[1], name, string.format('%.0f', sum))
    redis.call('HSET', KEYS[2], name, string.format('%.0f', number))
  end
  sums[#sums + 1] = sum
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return sums
