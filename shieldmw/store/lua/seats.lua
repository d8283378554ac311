-- seats: take one worker's report and grant it seats. The twin of core/seats.py.
--
-- KEYS     1 the seats: a hash, worker -> "until_ms wantH wantM wantG hereH hereM hereG seats guest_seats",
--            (of a worker with lease seats these follow: "leasedH leasedM leasedG leased_until_ms coming left"),
--            and the fields "#guard" -> until_ms, while grants must not grow, "#told" -> until_ms
-- ARGV     1 worker  2 seats of the fleet  3 most of them for guests  4 lease in ms
--          5-7 wanted by hosts, members, guests (including those present)  8-10 present, likewise
--          11-12 seats and guest seats that the worker was granted, -2 if it has no grant (any more), -1 if it is new
--          13 the channel on which other workers are notified, at most every 250 ms, that a worker has less than its
--             share, or that it is the first to report
--          14-16 those present with a lease seat, by class  17 after how many ms the last of these ends
--          18 clients that have renewed a lease seat there, and are counted when their old lease ends
--          19 clients whose lease has just ended there, and who may have renewed elsewhere
-- returns  {seats, guest_seats, member_level, guest_level, workers, presentH, presentM, presentG,
--           wantH, wantM, wantG, leasedH, leasedM, leasedG}
-- TTL      twice the lease, or until the last lease seat ends; renewed by each report
--
-- only() is a copy of the one in mode.lua, since a script cannot import; a test compares them.

-- A key of another type is foreign: drop it.
local function only(kind, key)
  local found = redis.call('TYPE', key)['ok']
  if found ~= kind and found ~= 'none' then
    redis.call('DEL', key)
  end
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local me, lease = ARGV[1], tonumber(ARGV[4])
local latest = now + lease
local COHORTS = 128
-- Milliseconds without a report after which a worker's listeners are no longer counted (SILENT_S).
local SILENT = 7000
-- Milliseconds without a report after which a worker with lease seats may be dead (LATE_S).
local LATE = 3000
-- Milliseconds in which no grant grows once no worker has reported for SILENT (PAUSE_S, FIRST_S).
local PAUSE, FIRST = 2000, 600
-- Shortest interval in ms between two messages on the channel; a listener that waits for a seat waits for the reports
-- that they cause.
local TOLD = 250
-- One match for a whole entry: with 200 workers a loop over its numbers made a call take 0.8 ms instead of 0.5 ms.
local NINE_NUMBERS = '^(%d+)' .. string.rep(' (%d+)', 8) .. '(.*)$'
local LEASED = '^' .. string.rep(' (%d+)', 6) .. '$'
-- Longest time in ms that a lease seat runs (LONGEST_LEASED_S).
local LONGEST_LEASED = 900000

only('hash', KEYS[1])
-- If a script's first write needs no memory, the server lets it finish, however full it is.
redis.call('PEXPIRE', KEYS[1], 2 * lease)

-- Sums over the other workers: seats wanted by all; wanted and used by those that report; wanted by those sorted before
-- this worker; seats granted, and those held. In one pass, without a table per worker or a sort: with 200 workers that halves the call.
local total, heard, before = {0, 0, 0}, {0, 0, 0, 0, 0, 0}, {0, 0, 0}
local given, held, favoured_held, guests_held, count, index = 0, 0, 0, 0, 1, 0
local mine, guard, told = nil, 0, 0
-- Whether there are others, and whether one has reported lately.
local has_others, is_heard = false, false
-- Lease seats: of workers that report, whether there are any, and when the last one ends.
local leased, any_leased, last_leased = {0, 0, 0}, false, 0
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local name, value = fields[i], fields[i + 1]
  local ends, wantH, wantM, wantG, hereH, hereM, hereG, seats, guest_seats, more = string.match(value, NINE_NUMBERS)
  ends = tonumber(ends)
  local leasedH, leasedM, leasedG, leased_until, coming, left = 0, 0, 0, 0, 0, 0
  if ends and more ~= '' then
    leasedH, leasedM, leasedG, leased_until, coming, left = string.match(more, LEASED)
    leased_until = tonumber(leased_until)
    ends = leased_until and ends
  end
  -- An entry whose sum is beyond any number of listeners is foreign.
  local sum = ends and wantH + wantM + wantG + hereH + hereM + hereG + seats + guest_seats + leasedH + leasedM + leasedG + coming + left
  local is_foreign = not ends or sum > 1e15
  if not is_foreign and name ~= me and ends <= latest then
    has_others, is_heard = true, is_heard or latest - ends < SILENT
  end
  if name == '#guard' then
    guard = tonumber(value) or 0
  elseif name == '#told' then
    told = tonumber(value) or 0
  elseif not is_foreign and ends <= now and leased_until > now and leased_until <= now + LONGEST_LEASED then
    -- The clients of a dead worker hold the seats that it has leased, and renew them at other workers. After its report
    -- it may also have leased the seats granted beyond the present ones, and counted those coming.
    if name ~= me then
      local unseen = math.max(0, seats - hereH - hereM - hereG) + coming + left
      held = held + leasedH + leasedM + leasedG + unseen
      favoured_held = favoured_held + leasedH + leasedM + unseen
      guests_held = guests_held + leasedG + math.max(0, guest_seats - hereG) + coming + left
      any_leased, last_leased = true, math.max(last_leased, leased_until)
    end
  elseif is_foreign or ends <= now or ends > latest then
    redis.call('HDEL', KEYS[1], name)
  elseif name == me then
    mine = {latest, 0, 0, 0, 0, 0, 0, seats + 0, guest_seats + 0}
  else
    total[1], total[2], total[3] = total[1] + wantH, total[2] + wantM, total[3] + wantG
    if latest - ends < SILENT then
      heard[1], heard[2], heard[3] = heard[1] + wantH, heard[2] + wantM, heard[3] + wantG
      heard[4], heard[5], heard[6] = heard[4] + hereH, heard[5] + hereM, heard[6] + hereG
      if latest - ends < LATE then
        leased[1], leased[2], leased[3] = leased[1] + leasedH, leased[2] + leasedM, leased[3] + leasedG
      else
        -- Clients that poll are on their way to other workers sooner than listeners whose stream has not ended yet.
        heard[1], heard[2], heard[3] = heard[1] - leasedH, heard[2] - leasedM, heard[3] - leasedG
        heard[4], heard[5], heard[6] = heard[4] - leasedH, heard[5] - leasedM, heard[6] - leasedG
      end
    end
    if leased_until > 0 then
      any_leased, last_leased = true, math.max(last_leased, leased_until)
    end
    if name < me then
      before[1], before[2], before[3] = before[1] + wantH, before[2] + wantM, before[3] + wantG
      index = index + 1
    end
    if latest - ends < LATE then
      coming = 0 -- it reports them itself
    end
    given = given + seats
    held = held + math.max(seats, hereH + hereM + hereG + left) + coming
    favoured_held = favoured_held + math.max(seats, hereH + hereM + left) + coming
    guests_held = guests_held + math.max(guest_seats, hereG + left) + coming
    count = count + 1
  end
end

local unleased, is_first = 0, false
if not mine then
  is_first = not is_heard
  mine = {latest, 0, 0, 0, 0, 0, 0, math.max(0, tonumber(ARGV[11])), math.max(0, tonumber(ARGV[12]))}
  local is_lost, guarded = tonumber(ARGV[11]) == -2, guard > now and guard <= latest
  if tonumber(ARGV[11]) >= 0 then
    -- An unknown worker has a grant, so the state was lost: others may hold seats until their leases end.
    guard = latest
  else
    unleased = ARGV[8] + ARGV[9] + ARGV[10]
    if (guarded and is_lost) or not is_heard then
      guard = math.max(guarded and guard or 0, now + (is_lost and PAUSE or has_others and FIRST or 0))
    end
  end
  if guard > now and guard <= latest then
    redis.call('HSET', KEYS[1], '#guard', string.format('%.0f', guard))
  end
end
for i = 1, 6 do
  mine[i + 1] = tonumber(ARGV[4 + i])
  heard[i] = heard[i] + mine[i + 1]
end
for c = 1, 3 do
  total[c] = total[c] + mine[c + 1]
end
if ARGV[14] + ARGV[15] + ARGV[16] + ARGV[18] + ARGV[19] > 0 then
  for i = 1, 3 do
    mine[9 + i] = tonumber(ARGV[13 + i])
    leased[i] = leased[i] + mine[9 + i]
  end
  mine[13], mine[14], mine[15] = now + ARGV[17], tonumber(ARGV[18]), tonumber(ARGV[19])
end

local function slice(amount, weights, weights_before, weight)
  if weights == 0 then
    return 0
  end
  return math.floor(amount * (weights_before + weight) / weights) - math.floor(amount * weights_before / weights)
end

local function part(left, c)
  if total[c] <= left then
    return mine[c + 1], left - total[c]
  end
  return slice(left, total[c], before[c], mine[c + 1]), 0
end

local capacity, guest_capacity = tonumber(ARGV[2]), tonumber(ARGV[3])
local left = capacity
local hosts, members, guests, guest_rest
hosts, left = part(left, 1)
members, left = part(left, 2)
local guest_left = math.min(left, guest_capacity)
guests, guest_rest = part(guest_left, 3)
left = left - (guest_left - guest_rest)
local headroom = slice(left, count, index, 1)
local guest_headroom = math.min(headroom, slice(math.min(left, guest_rest), count, index, 1))

local room, favoured_room, guest_room = capacity - held, capacity - favoured_held, guest_capacity - guests_held
if guard > now and guard <= latest then
  room, favoured_room, guest_room = 0, 0, 0
end

local function granted(fair, has, free)
  if has >= fair then
    return fair
  end
  return math.min(fair, math.max(free, has))
end

local has, has_guests = math.max(mine[8], mine[5] + mine[6] + mine[7]), math.max(mine[9], mine[7])
local has_favoured = math.max(mine[8], mine[5] + mine[6], unleased)
local fair = hosts + members + guests + headroom
-- Guests who must still leave are no reason for a grant: members would take their seats.
mine[8] = math.min(granted(fair, has, room), granted(fair, has_favoured, favoured_room))
mine[9] = math.min(mine[8], granted(guests + guest_headroom, has_guests, guest_room))
if mine[13] then
  any_leased, last_leased = true, math.max(last_leased, mine[13])
end
if any_leased then
  mine[8] = math.min(mine[8], math.max(mine[5] + mine[6] + mine[7] + (mine[15] or 0), room))
  mine[9] = math.min(mine[8], mine[9], math.max(mine[7] + (mine[15] or 0), guest_room))
end
if heard[4] + heard[5] > capacity then
  -- The others' shares are of other moments, and may be smaller now: no more must leave than are too many.
  mine[8] = math.max(mine[8], math.min(mine[5] + mine[6], capacity - given))
end

-- If no other worker has reported, the state may have been lost: the message makes any others report at once.
if (mine[8] < fair or is_first) and (told <= now or told > now + TOLD) then
  redis.call('HSET', KEYS[1], '#told', string.format('%.0f', now + TOLD))
  redis.pcall('PUBLISH', ARGV[13], 'seats')
end

local text = {}
for i = 1, #mine do
  text[i] = string.format('%.0f', mine[i])
end
redis.call('HSET', KEYS[1], me, table.concat(text, ' '))
redis.call('PEXPIRE', KEYS[1], math.max(2 * lease, math.min(last_leased - now, LONGEST_LEASED)))

local function level(seats, wanted)
  if wanted <= seats then
    return COHORTS
  end
  return math.floor(COHORTS * seats / wanted)
end
local for_members = math.max(0, capacity - heard[1])
local for_guests = math.max(0, math.min(for_members - heard[2], guest_capacity))
local member_level, guest_level = level(for_members, heard[2]), level(for_guests, heard[3])
if heard[4] + heard[5] < capacity then
  member_level = COHORTS
end
if heard[4] + heard[5] + heard[6] < capacity and heard[6] < guest_capacity then
  guest_level = COHORTS
end
return {mine[8], mine[9], member_level, guest_level, count,
  heard[4], heard[5], heard[6], heard[1], heard[2], heard[3], leased[1], leased[2], leased[3]}
