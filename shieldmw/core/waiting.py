"""The waiting room: positions, estimated waits and poll intervals, all from two counters. Pure."""

from __future__ import annotations

from dataclasses import dataclass

# Poll interval of the next in line, and the longest.
SHORTEST_POLL_S = 5.0
LONGEST_POLL_S = 120.0

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
    wait_s = position / calls_per_s if calls_per_s > 0 else None
    poll_s = min(LONGEST_POLL_S, SHORTEST_POLL_S * (1 + position / POLL_STRETCH))
    return QueuePosition(number, position, wait_s, poll_s * (1 + jitter / 5))
