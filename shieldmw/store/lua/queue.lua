-- queue: the waiting room's two counters, whatever the crowd: numbers given out, and numbers called.
--
-- KEYS     1 the queue: a hash of given, called
-- ARGV     1 numbers to give out   2 seats that came free, to call numbers into   3 TTL in ms
-- returns  {first number given, given, called}
-- TTL      ARGV 3, renewed by each call: a room that is empty so long begins anew

local give, free = tonumber(ARGV[1]), tonumber(ARGV[2])
local given = redis.call('HINCRBY', KEYS[1], 'given', give)
local called = tonumber(redis.call('HGET', KEYS[1], 'called') or 0)
local next_called = math.min(given, called + free)
if next_called ~= called then
  called = redis.call('HINCRBY', KEYS[1], 'called', next_called - called)
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {given - give + 1, given, called}
