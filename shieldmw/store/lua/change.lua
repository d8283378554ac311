-- change: change a hash, note it in the audit and tell the workers, as one; also where the server's memory is full.
--
-- KEYS     1 the hash   2 the audit, a stream, where there is anything to note
-- ARGV     1 TTL in ms   2 the audit's text, '' for none   3 audit length   4 the channel   5 what is told there, ''
--          for nothing   6 "always", or "lost": only where the hash has no version   7 how many fields are dropped
--          then their names, then name and value of each that is set
-- returns  how many fields were dropped, -1 where the hash was not lost
-- TTL      ARGV 1, renewed by each change
--
-- What may fail comes after the change itself and cannot undo it: the user may have no right to publish.

-- What is of another type was written by somebody else.
local function only(kind, key)
  local found = redis.call('TYPE', key)['ok']
  if found ~= kind and found ~= 'none' then
    redis.call('DEL', key)
  end
end

only('hash', KEYS[1])
if ARGV[6] == 'lost' and redis.call('HEXISTS', KEYS[1], 'version') == 1 then
  return -1
end
-- A script whose first write needs no memory is let finish, however full the server is.
redis.call('PEXPIRE', KEYS[1], ARGV[1])

local dropped, first = 0, 8 + tonumber(ARGV[7])
for i = 8, first - 1 do
  dropped = dropped + redis.call('HDEL', KEYS[1], ARGV[i])
end
for i = first, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])

if ARGV[2] ~= '' then
  only('stream', KEYS[2])
  redis.pcall('XADD', KEYS[2], 'MAXLEN', ARGV[3], '*', 'entry', ARGV[2])
  redis.call('PEXPIRE', KEYS[2], ARGV[1])
end
if ARGV[5] ~= '' then
  redis.pcall('PUBLISH', ARGV[4], ARGV[5])
end
return dropped
