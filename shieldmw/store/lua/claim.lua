-- claim: count how often tickets are renewed in the whole fleet (see core/claims.py).
--
-- KEYS     1 the tickets renewed in this slot of time: a hash, by digest, of five doubles: when the last round began,
--          the length of its lease, until when the seat is held, renewals in the round, the copy that was let   2 those
--          of the slot before
-- ARGV     1 for each claim a digest of 8 bytes and four doubles, little-endian: when, length of the lease, its end
--          (0: a copy asks whether it may renew), and which copy that is; all times in s   2 TTL in ms   3 most tickets
--          in a slot   4 most renewals in a round   5 the part of a lease, from its end, in which copies may ask
-- returns  for each claim its rank in the round, and until when the seat is held by those before it, in s
-- TTL      ARGV 2
--
-- only() is a copy of the one in mode.lua, since a script cannot import; a test compares them.

-- A key of another type is foreign: drop it.
local function only(kind, key)
  local found = redis.call('TYPE', key)['ok']
  if found ~= kind and found ~= 'none' then
    redis.call('DEL', key)
  end
end

local SIZE = 40
local now, before = KEYS[1], KEYS[2]
only('hash', now)
only('hash', before)
-- If a script's first write needs no memory, the server lets it finish, however full it is.
redis.call('PEXPIRE', now, ARGV[2])
local most_tickets, most, asks_in = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local tickets = redis.call('HLEN', now)

-- Whether the last round of a ticket is recorded in this slot of time, and that round.
local function round_of(digest)
  local value = redis.call('HGET', now, digest)
  local is_of_now = value and true or false
  value = value or redis.call('HGET', before, digest)
  if not value or #value ~= SIZE then
    return is_of_now, nil, 0, 0, 0, 0
  end
  return is_of_now, struct.unpack('<ddddd', value)
end

local ranks = {}
for at = 1, #ARGV[1], SIZE do
  local digest, when, lease, ends, copy = struct.unpack('<c8dddd', ARGV[1], at)
  local is_of_now, began, length, held, count, let = round_of(digest)
  local rank, last = 1, 0
  if is_of_now or tickets < most_tickets then
    last = held
    local is_let = began and count == 0 and let == copy
    if ends == 0 and asks_in * (last - when) > lease and not is_let then
      rank = most + 1
    else
      if ends == 0 then
        -- The seat is held for this copy, and for no other that asks.
        began, length, held, count, let = when, lease, when + lease, 0, copy
      else
        if not began or 3 * (when - began + 1) >= 2 * length then
          began, length, count, let = when, lease, 0, 0
        end
        count = count + 1
        rank = count
        if count <= most then
          held = math.max(held, ends)
        end
      end
      redis.call('HSET', now, digest, struct.pack('<ddddd', began, length, held, count, let))
      tickets = is_of_now and tickets or tickets + 1
    end
  end
  ranks[#ranks + 1] = rank
  ranks[#ranks + 1] = last
end
redis.call('PEXPIRE', now, ARGV[2])
return ranks
