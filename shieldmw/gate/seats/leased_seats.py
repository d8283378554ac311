"""The lease seats that this worker counts: clients that poll hold them, and hold no connection in between.

A client may renew at any worker, and is counted by the one that renewed. So the seats move between workers with the
clients, and what a worker may grant to new ones is what it was granted when it last reported, less all that it has
granted since: a lease that has ended here may have been renewed elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field

from shieldmw.core.client import ListenerClass
from shieldmw.core.leased import TOLERANCE, LeaseCounts, LeaseCut, rooms
from shieldmw.core.seats import NOBODY, Audience, Capacity, Grant

# How long leases that have ended are still reported, in seconds: longer than the time between two reports of a worker,
# which is a second, and longer in a large fleet.
KEPT_S = 3
WORKERS_PER_S = 100


@dataclass(slots=True)
class _OfClass:
    """The leases of one class. ``base``: as last reported, and answered; ``new``: granted to new clients since.

    ``in_fleet``: how many the fleet has; ``at_cut``: how many it had when a cut began. ``streams_beyond``: how many of
    the fleet's streams are too many once the leases that are not renewed have ended.
    """

    counts: LeaseCounts = field(default_factory=lambda: LeaseCounts(KEPT_S))
    cut: LeaseCut = field(default_factory=LeaseCut)
    base: int = 0
    new: int = 0
    in_fleet: int = 0
    at_cut: int = 0
    streams_beyond: int = 0

    @property
    def staying(self) -> int:
        """How many remain after the cut: of those here the part that remains in the fleet, since clients move."""
        here = self.counts.present
        if not self.cut.is_on:
            return max(here, self.base + self.new)
        return min(here, here * self.cut.part(self.at_cut) // max(1, self.in_fleet))

    def in_cut(self, present: int, room: int, leased: int) -> None:
        """Take in how many of the class are in the fleet, how many there is room for, and how many hold a lease."""
        self.in_fleet = leased
        self.at_cut = max(self.at_cut, leased) if self.cut.is_on else 0
        self.streams_beyond = max(0, present - leased + min(leased, self.cut.part(self.at_cut)) - room)


@dataclass(frozen=True, slots=True)
class Leases:
    """What a worker reports of its leases (see ``Report``).

    ``for_s`` is how long the last one may run, of those that it grants before its next report, too.
    """

    present: Audience
    for_s: float
    coming: int
    left: int


class LeasedSeats:
    """Counts leases by class, and says which of them may be renewed. ``now_s`` is the store's clock.

    ``longest_s``: the longest lease of any path. So long a cut takes on a worker that has not granted any itself.
    """

    def __init__(self, now_s: Callable[[], float], longest_s: int) -> None:
        self._now_s = now_s
        self._longest_of_any_path_s = longest_s
        self._of: Mapping[ListenerClass, _OfClass] = {name: _OfClass() for name in ListenerClass}
        self._reported: Mapping[ListenerClass, tuple[int, int]] = {}
        self._capacity: Capacity | None = None
        self._longest_s = 0.0
        self._is_used = False

    def __bool__(self) -> bool:
        """Whether any lease runs that this worker counts, or has ended so lately that it is still reported."""
        return self._is_used and any(
            leases.counts.present or leases.counts.left(self._now_s()) or leases.base for leases in self._of.values()
        )

    def grant(self, name: ListenerClass, until_s: int) -> None:
        """Count a new client's lease from now on."""
        now_s = self._now_s()
        self._of[name].counts.add(0, until_s, now_s)
        self._of[name].new += 1
        self._longest_s = max(self._longest_s, until_s - now_s)
        self._is_used = True

    def renew(self, name: ListenerClass, from_s: int, until_s: int) -> None:
        """Count a lease that was renewed from the end of the old one, which it needs no other seat than."""
        now_s = self._now_s()
        self._of[name].counts.add(from_s, until_s, now_s)
        self._longest_s = max(self._longest_s, until_s - now_s)
        self._is_used = True

    def recount(self, name: ListenerClass, from_s: int, until_s: int, to_s: int) -> None:
        """Count a lease that was granted or renewed here from ``to_s`` on: until then another one holds its seat."""
        self._of[name].counts.move(from_s, until_s, to_s, self._now_s())

    def present(self) -> Audience:
        """How many clients hold a lease that this worker counts."""
        return self._audience(lambda leases: leases.counts.present)

    def held(self) -> Audience:
        """How many seats the leases hold here: of those that ended since the last report, too."""
        return self._audience(lambda leases: max(leases.counts.present, leases.base + leases.new))

    def staying(self) -> Audience:
        """How many of them remain after the cut that is under way; all if there is none."""
        return self._audience(lambda leases: leases.staying)

    def most_to_leave(self, streams: Audience) -> Audience:
        """The most of these streams that leave in a cut: no more than are too many in the fleet."""
        return Audience(
            *(
                min(count, leases.streams_beyond) if leases.cut.is_on and leases.in_fleet else count
                for count, leases in zip(astuple(streams), self._of.values(), strict=True)
            )
        )

    def may_renew(self, name: ListenerClass, cohort: int) -> bool:
        """Whether leases of a cohort may be renewed: not if the cut has reached it."""
        return cohort < self._of[name].cut.level

    def is_cut(self, name: ListenerClass) -> bool:
        """Whether a class must shrink, so that nobody of it may come."""
        return self._of[name].cut.is_on

    def report(self) -> Leases:
        """What to report."""
        now_s = self._now_s()
        left = {name: leases.counts.left(now_s) for name, leases in self._of.items()}
        self._reported = {name: (leases.counts.present + left[name], leases.new) for name, leases in self._of.items()}
        lasts_s = max(self._longest_s, *(leases.counts.left_s(now_s) for leases in self._of.values()))
        coming = sum(leases.counts.coming(now_s) for leases in self._of.values())
        return Leases(self.present(), lasts_s, coming, sum(left.values()))

    def follow(self, grant: Grant, capacity: Capacity | None, guest_share: float) -> None:
        """Take in the answer to a report: seats that came free may be given again, and too many clients must go."""
        for name, (count, new) in self._reported.items():
            self._of[name].base = count
            self._of[name].new -= new
            self._of[name].counts.kept_s = KEPT_S + grant.workers // WORKERS_PER_S
        is_new, self._capacity = capacity != self._capacity, capacity
        waiting = grant.demand.favoured - grant.present.favoured
        # A few too many are no cut, unless there is a reason: the reports are not of the same moment.
        tolerance = 0 if is_new or waiting > 0 else -(-grant.leased.total // TOLERANCE)
        here, now_s, lease_s = grant.present, self._now_s(), self._longest_s or self._longest_of_any_path_s
        everybody = here.members, here.guests if guest_share > 0 else 0
        members, guests = everybody if capacity is None else rooms(capacity, grant.demand)
        self._of[ListenerClass.GUEST].cut.follow(here.guests, guests, now_s, lease_s, tolerance)
        # No member goes while there are guests.
        go = here.members if not here.guests or self.is_cut(ListenerClass.MEMBER) else min(here.members, members)
        self._of[ListenerClass.MEMBER].cut.follow(go, members, now_s, lease_s, tolerance)
        self._of[ListenerClass.GUEST].in_cut(here.guests, guests, grant.leased.guests)
        self._of[ListenerClass.MEMBER].in_cut(here.members, members, grant.leased.members)

    def _audience(self, count: Callable[[_OfClass], int]) -> Audience:
        if not self._is_used:
            return NOBODY
        now_s = self._now_s()
        for leases in self._of.values():
            leases.counts.advance(now_s)
        return Audience(*(count(leases) for leases in self._of.values()))
