-- change: change a hash, log and audit the change, and announce it, all as one; even if the server's memory is full.
--
-- KEYS     1 the hash   then its log, a stream, if it has versions   then the audit log, a stream, if the change is
--          audited
-- ARGV     1 TTL in ms   2 the new version, '' if the hash has none   3 length of the log   4 most names in an entry
--          5 text for the audit log, '' for none   6 length of the audit log   7 the channel   8 the message, '' for
--          none   9 "always", or "lost": only if the hash has no version   10 how many fields are dropped
--          then their names, then the name and value of each field that is set
-- returns  how many fields were dropped; -1 for "lost" if the hash has a version
-- TTL      ARGV 1, renewed by each change
--
-- Each log entry names the version it follows, so a change that is not logged (made by hand, or by a release without a
-- log) leaves a gap. Commands that may fail, such as PUBLISH without the right to it, come after the change itself and
-- cannot undo it.
--
-- only() is a copy of the one in mode.lua, since a script cannot import; a test compares them.

-- A key of another type is foreign: drop it.
local function only(kind, key)
  local found = redis.call('TYPE', key)['ok']
  if found ~= kind and found ~= 'none' then
    redis.call('DEL', key)
  end
end

local function append(stream, length, ...)
  only('stream', stream)
  redis.pcall('XADD', stream, 'MAXLEN', length, '*', ...)
  redis.call('PEXPIRE', stream, ARGV[1])
end

only('hash', KEYS[1])
if ARGV[9] == 'lost' and redis.call('HEXISTS', KEYS[1], 'version') == 1 then
  return -1
end
-- If a script's first write needs no memory, the server lets it finish, however full it is.
redis.call('PEXPIRE', KEYS[1], ARGV[1])

local names, dropped, first = {}, 0, 11 + tonumber(ARGV[10])
for i = 11, first - 1 do
  names[#names + 1] = ARGV[i]
  dropped = dropped + redis.call('HDEL', KEYS[1], ARGV[i])
end
for i = first, #ARGV, 2 do
  names[#names + 1] = ARGV[i]
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end

if ARGV[2] ~= '' then
  local before = redis.call('HGET', KEYS[1], 'version') or '0'
  redis.call('HSET', KEYS[1], 'version', ARGV[2])
  local logged = #names <= tonumber(ARGV[4]) and table.concat(names, ' ') or ''
  append(KEYS[2], ARGV[3], 'before', before, 'version', ARGV[2], 'fields', logged)
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])

if ARGV[5] ~= '' then
  append(KEYS[#KEYS], ARGV[6], 'entry', ARGV[5])
end
if ARGV[8] ~= '' then
  redis.pcall('PUBLISH', ARGV[7], ARGV[8])
end
return dropped
