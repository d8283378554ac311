"""Seats: how the fleet's capacity is divided among workers. The twin of ``store/lua/seats.lua``.

Each worker reports its demand, and is granted seats until its next report. Higher classes come first, a class that
cannot be served in full is divided pro rata, and seats without demand are spread as headroom, so that a worker can
admit without a call. **Promise:** grants never sum to more than the capacity, and after a cut no grant grows until the
fleet is below it. Guests who must still leave are no reason for a grant: members would take their seats.

Reports are not of the same moment, so shares made of them may sum to less than there is. While there are more hosts and
members than seats, a worker is therefore left all that the others' grants leave of the capacity: no more of them leave
than must, whoever reports first.

Clients with lease seats move between workers as they poll. So where there are any, a worker is granted no seat beyond
those in use unless there is room for it in the fleet, and the leases of a worker that is dead are counted until they
end.

While others may hold seats that are missing from the table, as after an outage of the store, no grant grows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

# Number of cohorts in a class: listeners are admitted and evicted cohort by cohort.
COHORTS = 128

# Lease of a grant: a dead worker's seats return when it ends without being renewed.
LEASE_S = 15.0

# Silence after which a worker may be dead: reports come every 5 s, and one may be late. It keeps its seats until the
# lease ends, but its listeners are on their way to other workers, and are no longer counted.
SILENT_S = 7.0

# Silence after which a worker with lease seats may be dead: it reports each second or two. Clients that have renewed
# there are counted then, since it would have reported them.
LATE_S = 3.0

# Largest capacity that an operator may set, and that is read from the store.
MOST_SEATS = 1_000_000_000

# Longest time that a lease seat runs: ten minutes, with room for clocks that differ.
LONGEST_LEASED_S = 900.0

# Reported in place of a grant: by a worker that has never requested one; by a worker whose grant was lost or never
# arrived.
NO_GRANT = -1
LOST_GRANT = -2

# If no worker has reported for ``SILENT_S``, the store was away or has lost its state, and others may hold seats. Then
# no grant grows for ``PAUSE_S`` after the report of each worker that comes back (all of them try twice a second), and
# for ``FIRST_S`` if the first to report is a new worker: all of the others may be dead.
PAUSE_S = 2.0
FIRST_S = 0.6


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many seats there are, and how many of them guests may hold."""

    seats: int
    guest_seats: int


# Reported if there is no limit, so that the fleet is counted even then.
UNLIMITED = Capacity(2**31, 2**31)

# Reported by a stopping worker that counts lease seats: it is granted nothing more.
NO_SEATS = Capacity(0, 0)


@dataclass(frozen=True, slots=True)
class Audience:
    """Numbers of listeners by class, in the order of favour; in load reports, of requests."""

    hosts: int = 0
    members: int = 0
    guests: int = 0

    @property
    def total(self) -> int:
        """The sum over all classes."""
        return self.hosts + self.members + self.guests

    @property
    def favoured(self) -> int:
        """Hosts and members: those who come before guests."""
        return self.hosts + self.members

    def __add__(self, other: Audience) -> Audience:
        return Audience(self.hosts + other.hosts, self.members + other.members, self.guests + other.guests)

    def __sub__(self, other: Audience) -> Audience:
        return Audience(self.hosts - other.hosts, self.members - other.members, self.guests - other.guests)


NOBODY = Audience()


@dataclass(frozen=True, slots=True)
class Report:
    """One worker's report: listeners present, listeners who want a seat (including those present), and its grant.

    ``seats``: those granted, or ``NO_GRANT`` or ``LOST_GRANT``.
    ``leased`` are those present that hold a lease seat; the last of these ends after ``leased_for_s``. ``coming``:
    clients that have renewed here, and are counted once their old lease ends. ``left``: clients whose lease has just
    ended here; they may have renewed at a worker that has not reported since.
    """

    worker: str
    present: Audience
    demand: Audience
    seats: int = NO_GRANT
    guest_seats: int = NO_GRANT
    leased: Audience = NOBODY
    leased_for_s: float = 0.0
    coming: int = 0
    left: int = 0


@dataclass(frozen=True, slots=True)
class Grant:
    """What a worker may hold until its lease ends, and the state of the fleet.

    ``member_level`` and ``guest_level`` are how many of the 128 cohorts are admitted if they are new.
    """

    seats: int
    guest_seats: int
    member_level: int
    guest_level: int
    workers: int
    present: Audience
    demand: Audience
    leased: Audience = NOBODY


@dataclass(frozen=True, slots=True)
class Fleet:
    """The state of the fleet: workers whose lease has not ended, and the listeners of those that report."""

    workers: int
    present: Audience
    demand: Audience
    leased: Audience = NOBODY


@dataclass(slots=True)
class SeatEntry:
    """One worker's last report, and its grant until ``until_s`` (Unix time); its lease seats until
    ``leased_until_s``."""

    until_s: float
    demand: Audience
    present: Audience
    seats: int
    guest_seats: int
    leased: Audience = NOBODY
    leased_until_s: float = 0.0
    coming: int = 0
    left: int = 0

    @property
    def unseen(self) -> int:
        """Seats that may have been leased after the report: those granted beyond the present ones, or renewed."""
        return max(0, self.seats - self.present.total) + self.coming + self.left

    @property
    def unseen_guests(self) -> int:
        """Guest seats that may have been leased after the report: those granted beyond the present ones, or renewed."""
        return max(0, self.guest_seats - self.present.guests) + self.coming + self.left


@dataclass(slots=True)
class SeatTable:
    """The reference implementation: the state that Redis keeps, and a worker's refresh of it."""

    entries: dict[str, SeatEntry] = field(default_factory=dict)
    guard_until_s: float = 0.0

    def refresh(self, report: Report, capacity: Capacity, now_s: float) -> Grant:
        """Take a worker's report and grant it seats for ``LEASE_S``."""
        # An entry that ends later than any lease was written before the clock stepped back; it is dropped, too.
        latest_s = now_s + LEASE_S
        known = self.entries.get(report.worker)
        if known is not None and not now_s < known.until_s <= latest_s:
            known = None
        if known is None:
            self._guard(report, now_s)
        self._drop_old(now_s)
        unleased = report.present.total if known is None and report.seats < 0 else 0
        known = known or SeatEntry(0, report.demand, report.present, max(0, report.seats), max(0, report.guest_seats))
        known.demand, known.present = report.demand, report.present
        is_leasing = report.leased.total + report.coming + report.left > 0
        known.leased, known.leased_until_s = report.leased, now_s + report.leased_for_s if is_leasing else 0.0
        known.coming, known.left = (report.coming, report.left) if is_leasing else (0, 0)
        known.until_s = latest_s
        self.entries[report.worker] = known
        left = [entry for entry in self.entries.values() if entry.until_s <= now_s]
        late_ms = round((LEASE_S - LATE_S) * 1000)
        names = sorted(name for name, entry in self.entries.items() if entry.until_s > now_s)
        index = names.index(report.worker)
        entries = [self.entries[name] for name in names]
        share = fair_share(capacity, [entry.demand for entry in entries], index)
        others = entries[:index] + entries[index + 1 :]
        has = max(known.seats, known.present.total)
        has_guests = max(known.guest_seats, known.present.guests)
        has_favoured = max(known.seats, known.present.favoured, unleased)
        room = capacity.seats - sum(max(entry.seats, entry.present.total + entry.left) for entry in others)
        favoured_room = capacity.seats - sum(max(entry.seats, entry.present.favoured + entry.left) for entry in others)
        guest_room = capacity.guest_seats - sum(
            max(entry.guest_seats, entry.present.guests + entry.left) for entry in others
        )
        # The clients of a dead worker hold the seats that it has leased, and renew them at other workers.
        coming = sum(entry.coming for entry in others if round((entry.until_s - now_s) * 1000) <= late_ms)
        room, favoured_room, guest_room = room - coming, favoured_room - coming, guest_room - coming
        room -= sum(entry.leased.total + entry.unseen for entry in left)
        favoured_room -= sum(entry.leased.favoured + entry.unseen for entry in left)
        guest_room -= sum(entry.leased.guests + entry.unseen_guests for entry in left)
        if self._is_guarded(now_s):
            room = favoured_room = guest_room = 0
        known.seats = min(granted(share.seats, has, room), granted(share.seats, has_favoured, favoured_room))
        known.guest_seats = min(known.seats, granted(share.guest_seats, has_guests, guest_room))
        if left or any(entry.leased_until_s for entry in entries):
            known.seats = min(known.seats, max(known.present.total + known.left, room))
            known.guest_seats = min(known.seats, known.guest_seats, max(known.present.guests + known.left, guest_room))
        fleet = self.fleet(now_s)
        if fleet.present.favoured > capacity.seats:
            left_by_others = capacity.seats - sum(entry.seats for entry in others)
            known.seats = max(known.seats, min(known.present.favoured, left_by_others))
        members, guests = levels(capacity, fleet.demand, fleet.present)
        return Grant(
            known.seats, known.guest_seats, members, guests, fleet.workers, fleet.present, fleet.demand, fleet.leased
        )

    def _is_guarded(self, now_s: float) -> bool:
        """Whether no grant may grow; a guard that ends later than any was set before the clock stepped back."""
        return now_s < self.guard_until_s <= now_s + LEASE_S

    def _guard(self, report: Report, now_s: float) -> None:
        """Let no grant grow for a while after an unknown worker's report, if there may be more unknown workers."""
        if report.seats >= 0:
            # It has a grant, so the state was lost: others may hold seats until their leases end.
            self.guard_until_s = now_s + LEASE_S
            return
        ages_ms = [
            round((now_s + LEASE_S - entry.until_s) * 1000)
            for name, entry in self.entries.items()
            if name != report.worker and entry.until_s <= now_s + LEASE_S
        ]
        is_guarded, is_lost = self._is_guarded(now_s), report.seats == LOST_GRANT
        if (is_guarded and is_lost) or not any(age < SILENT_S * 1000 for age in ages_ms):
            pause_s = PAUSE_S if is_lost else FIRST_S if ages_ms else 0.0
            self.guard_until_s = max(now_s + pause_s, self.guard_until_s if is_guarded else 0.0)

    def _drop_old(self, now_s: float) -> None:
        """Drop the entries of dead workers, except those whose lease seats have not ended yet."""
        self.entries = {
            name: entry
            for name, entry in self.entries.items()
            if now_s < entry.until_s <= now_s + LEASE_S
            or entry.until_s <= now_s < entry.leased_until_s <= now_s + LONGEST_LEASED_S
        }

    def fleet(self, now_s: float, late_s: float = 0.0) -> Fleet:
        """The state of the fleet, without reporting anything; ``now_s`` may be late by ``late_s``."""
        latest_s = now_s + LEASE_S
        entries = [entry for entry in self.entries.values() if now_s < entry.until_s <= latest_s + late_s]
        heard = [entry for entry in entries if round((latest_s - entry.until_s) * 1000) < SILENT_S * 1000]
        # Clients that poll are on their way to other workers sooner than listeners whose stream has not ended yet.
        gone = [entry for entry in heard if round((latest_s - entry.until_s) * 1000) >= LATE_S * 1000]
        elsewhere = sum((entry.leased for entry in gone), Audience())
        present = sum((entry.present for entry in heard), Audience()) - elsewhere
        demand = sum((entry.demand for entry in heard), Audience()) - elsewhere
        leased = sum((entry.leased for entry in heard), Audience()) - elsewhere
        return Fleet(len(entries), present, demand, leased)

    def release(self, worker: str) -> None:
        """Give back everything of a worker that stops."""
        self.entries.pop(worker, None)


def granted(fair: int, has: int, room: int) -> int:
    """The grant of a worker whose fair share is ``fair`` and which holds ``has``, while others leave ``room``.

    Shrinking is granted at once. Growing is granted only into room that really exists, but never below what the worker
    has: ``min(want, room)`` alone would starve the worker that reports last after a cut.
    """
    return fair if has >= fair else min(fair, max(room, has))


def fair_share(capacity: Capacity, demands: Sequence[Audience], index: int) -> Capacity:
    """The seats and guest seats of the worker at ``index`` if every worker had exactly its share."""
    served, left, guest_rest = divided(capacity, demands, index)
    even = [1] * len(demands)
    headroom = _slice(left, even, index)
    guest_headroom = min(headroom, _slice(min(left, guest_rest), even, index))
    return Capacity(served.total + headroom, served.guests + guest_headroom)


def divided(capacity: Capacity, demands: Sequence[Audience], index: int) -> tuple[Audience, int, int]:
    """One worker's listeners who are served, by class; then the seats that nobody wants, and how many of them guests
    may hold."""
    left = capacity.seats
    hosts, left = _part(left, [demand.hosts for demand in demands], index)
    members, left = _part(left, [demand.members for demand in demands], index)
    guest_left = min(left, capacity.guest_seats)
    guests, guest_rest = _part(guest_left, [demand.guests for demand in demands], index)
    return Audience(hosts, members, guests), left - (guest_left - guest_rest), guest_rest


def _part(left: int, wants: Sequence[int], index: int) -> tuple[int, int]:
    """The seats one worker gets for a class out of ``left`` seats, and the seats left after that class."""
    total = sum(wants)
    if total <= left:
        return wants[index], left - total
    return _slice(left, wants, index), 0


def _slice(amount: int, weights: Iterable[int], index: int) -> int:
    """One slice of ``amount`` divided by weights: all slices sum to it, and each is within one of its exact part."""
    weights = list(weights)
    total = sum(weights)
    if total == 0:
        return 0
    before = sum(weights[:index])
    return amount * (before + weights[index]) // total - amount * before // total


def levels(capacity: Capacity, demand: Audience, present: Audience) -> tuple[int, int]:
    """The numbers of cohorts of members and of guests that are admitted if they are new.

    While the class has a free seat, all its cohorts are admitted, so nobody is turned away while a seat is empty.
    Otherwise, as many as would find a seat if all seats were given out afresh.
    """
    for_members = max(0, capacity.seats - demand.hosts)
    for_guests = max(0, min(for_members - demand.members, capacity.guest_seats))
    member_seat_is_free = present.hosts + present.members < capacity.seats
    guest_seat_is_free = present.total < capacity.seats and present.guests < capacity.guest_seats
    return (
        COHORTS if member_seat_is_free else _level(for_members, demand.members),
        COHORTS if guest_seat_is_free else _level(for_guests, demand.guests),
    )


def _level(seats: int, wanted: int) -> int:
    return COHORTS if wanted <= seats else COHORTS * seats // wanted
