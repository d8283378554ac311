-- mode: read the mode of the fleet, change it, or restore it after the store lost it; even if its memory is full.
-- The same for the limits that operators change, whose record is of the same form.
--
-- KEYS     1 the mode, or the limits: a hash of version, since_us, until_us, data (and the epoch, which is left alone)
--          2 the audit log: a stream
-- ARGV     1 "read", which ignores the other arguments; "set"; or "restore"
--          2 set: the version it must follow, -1 for any    restore: the version to restore
--          3 the highest version the caller knows
--          4 set: microseconds it lasts, 0 for no end       restore: until_us, 0 for no end
--          5 restore: since_us                              (set: ignored)
--          6 data, opaque text   7 text for the audit log   8 the channel   9 TTL in ms   10 length of the audit log
--          11 what is announced
-- returns  {1 if changed, 2 if there can be no later version, else 0, version, since_us, until_us, now_us, data, epoch}; times are Unix microseconds
-- TTL      ARGV 9, renewed by each change
--
-- Commands that may fail, such as PUBLISH without the right to it, come after the change itself and cannot undo it.
--
-- only() is a copy of the one in change.lua, whole() is a copy of the one in queue.lua, since a script cannot import;
-- a test compares them.

-- A foreign number counts as 0. Versions must be exact in a double; 2^52 changes are enough.
local function whole(text)
  local number = tonumber(text or 0) or 0
  return number >= 0 and number <= 2 ^ 52 and number == math.floor(number) and number or 0
end

-- A key of another type is foreign: drop it.
local function only(kind, key)
  local found = redis.call('TYPE', key)['ok']
  if found ~= kind and found ~= 'none' then
    redis.call('DEL', key)
  end
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

local function current(changed)
  local kept = redis.call('HMGET', KEYS[1], 'version', 'since_us', 'until_us', 'data', 'epoch')
  return {changed, whole(kept[1]), whole(kept[2]), whole(kept[3]), now, kept[4] or '', kept[5] or ''}
end

if ARGV[1] == 'read' then
  return current(0)
end

only('hash', KEYS[1])
local version = whole(redis.call('HGET', KEYS[1], 'version'))
local asked, known = tonumber(ARGV[2]), tonumber(ARGV[3])
local since, ends

if ARGV[1] == 'restore' then
  if version >= asked then
    return current(0)
  end
  version, since, ends = asked, tonumber(ARGV[5]), tonumber(ARGV[4])
else
  version = math.max(version, known)
  if asked >= 0 and asked ~= version then
    return current(0)
  end
  if version >= 2 ^ 52 then
    return current(2)
  end
  version, since, ends = version + 1, now, 0
  if tonumber(ARGV[4]) > 0 then
    ends = now + tonumber(ARGV[4])
  end
end

-- If a script's first write needs no memory, the server lets it finish, however full it is.
redis.call('PEXPIRE', KEYS[1], ARGV[9])
redis.call('HSET', KEYS[1], 'version', string.format('%.0f', version), 'since_us', string.format('%.0f', since),
  'until_us', string.format('%.0f', ends), 'data', ARGV[6])
redis.call('PEXPIRE', KEYS[1], ARGV[9])
only('stream', KEYS[2])
redis.pcall('XADD', KEYS[2], 'MAXLEN', ARGV[10], '*', 'entry', ARGV[7], 'version', string.format('%.0f', version))
redis.call('PEXPIRE', KEYS[2], ARGV[9])
redis.pcall('PUBLISH', ARGV[8], ARGV[11])
return current(1)
