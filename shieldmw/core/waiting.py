"""The waiting room: when a number is called, who is expected, and how often to poll. Pure; time is an argument.

The fleet shares two counters, however large the crowd: the last number given, and the last one called.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from dataclasses import dataclass

# Poll interval of the member next in line, and the longest poll interval.
SHORTEST_POLL_S = 5.0
LONGEST_POLL_S = 120.0

# Longest estimate that is shown: the pace of the last seconds says nothing about longer waits.
LONGEST_ESTIMATE_S = 3600.0

# How long a member that was called counts as waiting, after the call and after each of its polls: those in front poll
# within 6 s, and its worker may hear of the call a second late. After that it has probably given up.
AWAITED_S = 10.0

# Maximum number of called members that are remembered for having polled: enough that newcomers wait for all of them.
MOST_POLLED = 1024

# Position at which the poll interval has doubled: members far back in line need not poll as often.
POLL_STRETCH = 500


@dataclass(frozen=True, slots=True)
class QueueCounters:
    """The fleet's counters after numbers were given out: the first for this caller, the last given, the last called."""

    first: int
    given: int
    called: int


EMPTY = QueueCounters(1, 0, 0)


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """A member's place in the waiting room. Position 1 is next; the estimate ``wait_s`` is None if unknown."""

    number: int
    position: int
    wait_s: float | None
    poll_s: float


def place(number: int, called: int, calls_per_s: float, jitter: float) -> QueuePosition:
    """The place of a number. ``jitter`` in [0, 1) lengthens the poll interval by up to a fifth."""
    position = max(1, number - called)
    # By multiplication: a pace that has decayed to almost nothing would make the quotient infinite.
    wait_s = position / calls_per_s if position <= LONGEST_ESTIMATE_S * calls_per_s else None
    poll_s = min(LONGEST_POLL_S, SHORTEST_POLL_S * (1 + position / POLL_STRETCH))
    return QueuePosition(number, position, wait_s, poll_s * (1 + jitter / 5))


@dataclass(slots=True)
class _Call:
    """Numbers that were called together, how many of them have not come yet, and until when they are expected."""

    first: int
    last: int
    missing: int
    until_s: float


class Calls:
    """The members who still wait, as far as one worker knows: not called yet, or called recently and not yet seated."""

    def __init__(self) -> None:
        self._calls: deque[_Call] = deque()
        self._called: int | None = None
        self._early: list[int] = []  # sorted
        self._polled: dict[int, float] = {}

    def heard(self, called: int, now_s: float) -> None:
        """Note the last number called. Members called before the first such note are not expected."""
        before, self._called = called if self._called is None else self._called, called
        came = bisect_right(self._early, called)
        del self._early[:came]
        if called > before:
            missing = called - before - came
            self._calls.append(_Call(before + 1, called, missing, now_s + AWAITED_S))

    def came(self, number: int) -> None:
        """Note, once per member, that it has a seat, perhaps before this worker knows that it was called."""
        self._polled.pop(number, None)
        if number > (self._called or 0):
            insort(self._early, number)
            return
        place = bisect_left(self._calls, number, key=lambda call: call.last)
        if place < len(self._calls) and number >= self._calls[place].first:
            self._calls[place].missing -= 1

    def polled(self, number: int, now_s: float) -> None:
        """Note that a called member has polled, here or on another worker, and still waits: more members are called
        than there are seats, so its seat may have gone to one before it."""
        if number in self._polled or len(self._polled) < MOST_POLLED:
            self._polled[number] = now_s + AWAITED_S

    def ahead_of(self, number: int, now_s: float) -> int:
        """The number of members with a lower number who still wait: not called yet, or called but not seated."""
        while self._calls and self._calls[0].until_s <= now_s:
            self._calls.popleft()
        self._polled = {polled: until_s for polled, until_s in self._polled.items() if until_s > now_s}
        first = min(number, self._calls[0].first if self._calls else (self._called or 0) + 1)
        called_long_ago = sum([polled < first for polled in self._polled])
        uncalled = number - 1 - (self._called or 0) - bisect_left(self._early, number)
        return max(0, uncalled) + called_long_ago + sum([call.missing for call in self._calls if call.last < number])
