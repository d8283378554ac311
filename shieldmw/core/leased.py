"""Lease seats: seats of clients that poll and hold no connection in between. Pure; ``now_s`` is the store's time.

A lease is signed into the client's ticket; all that a worker keeps of its leases is how many end in which second. A
lease that is renewed early is counted from where the old one ends. So a client is counted once, whichever worker
renews, and what one worker no longer counts another one does.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import inf

from .seats import COHORTS, Audience, Capacity

# The part of a lease in which a poll renews it: its last third. A lease is three target durations or more, so a player
# polls at least once in there, and none loses its seat between two polls.
RENEWED_IN = 3

# No cut starts for a surplus below 1/TOLERANCE of the leases, or one that lasts less than PATIENCE_S.
TOLERANCE = 16
PATIENCE_S = 5.0

# Longest gap of the clock that is counted second by second; beyond it every lease is over.
LONGEST_GAP_S = 4096


# How far a worker's view of the store's clock may go back by itself: what a slow answer makes of it. More is a step.
CLOCK_STEP_S = 2


class LeaseCounts:
    """Counts a worker's leases of one class. Its size depends on the length of the leases, not on their number.

    ``kept_s`` is how long a lease that ended here is still reported, in seconds. Its client may have renewed elsewhere,
    and that worker must report first, or another client would get the seat.
    """

    __slots__ = ("_at_s", "_begin", "_end", "_flows", "_last_s", "kept_s", "present")

    def __init__(self, kept_s: int) -> None:
        self.present = 0
        self._begin: dict[int, int] = {}
        self._end: dict[int, int] = {}
        self._flows: deque[int] = deque()
        self.kept_s = kept_s
        self._at_s = 0
        self._last_s = 0

    def add(self, from_s: int, until_s: int, now_s: float) -> None:
        """Count a lease until ``until_s``: from now on, or from ``from_s``, when the one that it renews ends."""
        self.advance(now_s)
        if from_s > self._at_s:
            self._begin[from_s] = self._begin.get(from_s, 0) + 1
        else:
            self.present += 1
        self._end[until_s] = self._end.get(until_s, 0) + 1
        self._last_s = max(self._last_s, until_s)

    def move(self, from_s: int, until_s: int, to_s: int, now_s: float) -> None:
        """Count a lease that was added from ``from_s`` on from ``to_s`` on instead; not at all if it ends by then."""
        self.advance(now_s)
        if not self._end.get(until_s):
            return  # it has ended
        if self._begin.get(from_s):
            self._begin[from_s] -= 1
        else:
            self.present -= 1
        if to_s >= until_s:
            self._end[until_s] -= 1
        elif to_s > self._at_s:
            self._begin[to_s] = self._begin.get(to_s, 0) + 1
        else:
            self.present += 1

    def advance(self, now_s: float) -> None:
        """Let time pass. If the clock is set back, what has ended stays ended, and other leases end by the new time."""
        second = int(now_s)
        if second < self._at_s - CLOCK_STEP_S:
            self._at_s = second
        if second - self._at_s > LONGEST_GAP_S:
            self.present = 0
            self._begin.clear()
            self._end.clear()
            self._flows.clear()
            self._at_s = second
        while self._at_s < second:
            self._at_s += 1
            flow = self._begin.pop(self._at_s, 0) - self._end.pop(self._at_s, 0)
            self.present += flow
            self._flows.append(flow)
            while len(self._flows) > self.kept_s:
                self._flows.popleft()

    def left(self, now_s: float) -> int:
        """The largest net loss since any of the last ``kept_s`` seconds: leases that ended, less those that began."""
        self.advance(now_s)
        left = most_left = 0
        for flow in reversed(self._flows):
            left -= flow
            most_left = max(most_left, left)
        return most_left

    def coming(self, now_s: float) -> int:
        """The leases renewed here whose previous lease still runs: until that ends it is counted, perhaps by another
        worker."""
        self.advance(now_s)
        return sum(self._begin.values())

    def left_s(self, now_s: float) -> float:
        """Seconds until the last lease ends."""
        return max(0.0, self._last_s - now_s)


@dataclass(slots=True)
class LeaseCut:
    """The number of cohorts of one class that may renew their leases. It is lowered until no seat is taken too many."""

    level: int = COHORTS
    _present: int = 0
    _until_s: float = 0.0
    _over_s: float = inf

    @property
    def is_on(self) -> bool:
        """Whether a cut is under way: some leases may not be renewed, and no new client is admitted."""
        return self._present > 0

    def follow(self, present: int, room: int, now_s: float, lease_s: float, slack: int) -> None:
        """Adjust the cut to the number of clients of the class in the fleet, and to the room for them.

        The level follows from how many there were when the cut began. Once the leases of those who could not renew
        have ended, it is lowered if there are still too many. With ``slack`` above 0, a
        cut begins only once the surplus has exceeded it for ``PATIENCE_S``: reports are not of the same moment.
        """
        if present <= room + (0 if self.is_on else slack):
            self.level, self._present, self._over_s = COHORTS, 0, inf
            return
        self._over_s = min(self._over_s, now_s)
        if not self.is_on:
            if slack and now_s < self._over_s + PATIENCE_S:
                return
            self._present, self._until_s = present, now_s + lease_s
        elif now_s >= self._until_s:
            self.level, self._until_s = self.level * room // present, now_s + lease_s
        self.level = min(self.level, COHORTS * room // self._present)

    def part(self, count: int) -> int:
        """The approximate number of ``count`` leases that remain after the cut."""
        return -(-count * self.level // COHORTS) if self.is_on else count


def rooms(capacity: Capacity, demand: Audience) -> tuple[int, int]:
    """The fleet's seats for members and for guests, given the demand of each class."""
    members = max(0, capacity.seats - demand.hosts)
    return members, max(0, min(members - demand.members, capacity.guest_seats))
