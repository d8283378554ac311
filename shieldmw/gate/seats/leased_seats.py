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
class _ClassLeases:
    """The leases of one class: ``base`` in the last report that was answered, ``new`` granted to new clients since.

    ``in_fleet`` leases run in the fleet, and ``at_cut`` ran when a cut began. ``streams_beyond`` is the number of the
    fleet's streams that will still be too many once the leases that may not be renewed have ended.
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
        """The number of leases here that remain after the cut: the same fraction as in the fleet."""
        here = self.counts.present
        if not self.cut.is_on:
            return max(here, self.base + self.new)
        return min(here, here * self.cut.part(self.at_cut) // max(1, self.in_fleet))

    def in_cut(self, present: int, room: int, leased: int) -> None:
        """Record the fleet's clients of this class, the room for them, and how many of them hold a lease."""
        self.in_fleet = leased
        self.at_cut = max(self.at_cut, leased) if self.cut.is_on else 0
        self.streams_beyond = max(0, present - leased + min(leased, self.cut.part(self.at_cut)) - room)


@dataclass(frozen=True, slots=True)
class Leases:
    """What a worker reports of its leases (see ``Report``).

    ``for_s`` is how long any of its leases may still run, including those it grants before its next report.
    """

    present: Audience
    for_s: float
    coming: int
    left: int


class LeasedSeats:
    """Counts leases by class, and says which of them may be renewed. ``now_s`` is the store's clock.

    ``longest_s`` is the longest lease of any path, in seconds: the length of a cut on a worker that has granted none.
    """

    def __init__(self, now_s: Callable[[], float], longest_s: int) -> None:
        self._now_s = now_s
        self._longest_of_any_path_s = longest_s
        self._by_class: Mapping[ListenerClass, _ClassLeases] = {name: _ClassLeases() for name in ListenerClass}
        self._reported: Mapping[ListenerClass, tuple[int, int]] = {}
        self._capacity: Capacity | None = None
        self._longest_s = 0.0
        self._is_used = False

    def __bool__(self) -> bool:
        """Whether this worker counts any running lease, or still reports one that has just ended."""
        return self._is_used and any(
            leases.counts.present or leases.counts.left(self._now_s()) or leases.base
            for leases in self._by_class.values()
        )

    def grant(self, name: ListenerClass, until_s: int) -> None:
        """Count a new client's lease from now on."""
        now_s = self._now_s()
        self._by_class[name].counts.add(0, until_s, now_s)
        self._by_class[name].new += 1
        self._longest_s = max(self._longest_s, until_s - now_s)
        self._is_used = True

    def renew(self, name: ListenerClass, from_s: int, until_s: int) -> None:
        """Count a renewed lease from ``from_s``, the end of the old one, on; it keeps the old one's seat."""
        now_s = self._now_s()
        self._by_class[name].counts.add(from_s, until_s, now_s)
        self._longest_s = max(self._longest_s, until_s - now_s)
        self._is_used = True

    def recount(self, name: ListenerClass, from_s: int, until_s: int, to_s: int) -> None:
        """Count a lease from ``to_s`` on, rather than ``from_s``: until then another lease holds its seat."""
        self._by_class[name].counts.move(from_s, until_s, to_s, self._now_s())

    def present(self) -> Audience:
        """The number of running leases that this worker counts, by class."""
        return self._audience(lambda leases: leases.counts.present)

    def held(self) -> Audience:
        """The number of seats that leases hold here, by class, including leases that ended since the last report."""
        return self._audience(lambda leases: max(leases.counts.present, leases.base + leases.new))

    def staying(self) -> Audience:
        """The number of leases here that remain after a cut under way, by class; ``held`` if there is none."""
        return self._audience(lambda leases: leases.staying)

    def most_to_leave(self, streams: Audience) -> Audience:
        """The most of ``streams`` that may be evicted here in a cut, by class: no more than the fleet's surplus."""
        return Audience(
            *(
                min(count, leases.streams_beyond) if leases.cut.is_on and leases.in_fleet else count
                for count, leases in zip(astuple(streams), self._by_class.values(), strict=True)
            )
        )

    def may_renew(self, name: ListenerClass, cohort: int) -> bool:
        """Whether leases of a cohort may be renewed: not if the cut has reached it."""
        return cohort < self._by_class[name].cut.level

    def is_cut(self, name: ListenerClass) -> bool:
        """Whether a class must shrink, so that none of its clients is admitted."""
        return self._by_class[name].cut.is_on

    def report(self) -> Leases:
        """The next report of this worker's leases."""
        now_s = self._now_s()
        left = {name: leases.counts.left(now_s) for name, leases in self._by_class.items()}
        self._reported = {
            name: (leases.counts.present + left[name], leases.new) for name, leases in self._by_class.items()
        }
        lasts_s = max(self._longest_s, *(leases.counts.left_s(now_s) for leases in self._by_class.values()))
        coming = sum(leases.counts.coming(now_s) for leases in self._by_class.values())
        return Leases(self.present(), lasts_s, coming, sum(left.values()))

    def follow(self, grant: Grant, capacity: Capacity | None, guest_share: float) -> None:
        """Apply the answer to a report: freed seats may be given again, and a surplus starts or deepens a cut."""
        for name, (count, new) in self._reported.items():
            self._by_class[name].base = count
            self._by_class[name].new -= new
            self._by_class[name].counts.kept_s = KEPT_S + grant.workers // WORKERS_PER_S
        is_new, self._capacity = capacity != self._capacity, capacity
        waiting = grant.demand.favoured - grant.present.favoured
        # A small surplus starts a cut only if the capacity has changed or listeners wait: reports differ in time.
        tolerance = 0 if is_new or waiting > 0 else -(-grant.leased.total // TOLERANCE)
        here, now_s, lease_s = grant.present, self._now_s(), self._longest_s or self._longest_of_any_path_s
        everybody = here.members, here.guests if guest_share > 0 else 0
        members, guests = everybody if capacity is None else rooms(capacity, grant.demand)
        self._by_class[ListenerClass.GUEST].cut.follow(here.guests, guests, now_s, lease_s, tolerance)
        # Members are cut only once there are no guests.
        go = here.members if not here.guests or self.is_cut(ListenerClass.MEMBER) else min(here.members, members)
        self._by_class[ListenerClass.MEMBER].cut.follow(go, members, now_s, lease_s, tolerance)
        self._by_class[ListenerClass.GUEST].in_cut(here.guests, guests, grant.leased.guests)
        self._by_class[ListenerClass.MEMBER].in_cut(here.members, members, grant.leased.members)

    def _audience(self, count: Callable[[_ClassLeases], int]) -> Audience:
        if not self._is_used:
            return NOBODY
        now_s = self._now_s()
        for leases in self._by_class.values():
            leases.counts.advance(now_s)
        return Audience(*(count(leases) for leases in self._by_class.values()))
