"""The waiting room: when a number is called, and how often to poll. Two counters, however large the crowd. Pure."""

from __future__ import annotations

from dataclasses import dataclass

SHORTEST_POLL_S = 5.0
LONGEST_POLL_S = 120.0

# Position at which the poll interval has doubled: members far back need not poll as often.
POLL_STRETCH = 500


@dataclass(frozen=True, slots=True)
class QueueCounters:
    """The fleet's counters after numbers were given out: our first one, the last given, the last called."""

    first: int
    given: int
    called: int


EMPTY = QueueCounters(1, 0, 0)


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """A member's place in the waiting room. ``position`` 1 is next; ``wait_s`` is None if unknown."""

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
