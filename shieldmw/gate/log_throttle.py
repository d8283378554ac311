"""Throttles log lines: at most one every ten seconds, with the events counted since the last."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

# Shortest interval between two lines.
EVERY_S = 10.0


class LogThrottle:
    """Counts events by reason (one or more words). The first is logged at once, the rest are summed in the next line.

    Reasons must come from a fixed set, never from outside text, since a count is kept for each.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._next_s = float("-inf")
        self._logged: Counter[tuple[str, ...]] = Counter()
        self._unlogged: Counter[tuple[str, ...]] = Counter()

    @property
    def totals(self) -> Counter[tuple[str, ...]]:
        """Events of each reason since the start."""
        return self._logged + self._unlogged

    def due(self, *reason: str) -> str | None:
        """Count an event. If a line is due, returns the counts since the last one: ``expired: 3, signature: 1``."""
        self._unlogged[reason] += 1
        now_s = self._now_s()
        if now_s < self._next_s:
            return None
        self._next_s = now_s + EVERY_S
        counts = ", ".join(f"{' '.join(words)}: {count}" for words, count in sorted(self._unlogged.items()))
        self._logged.update(self._unlogged)
        self._unlogged.clear()
        return counts
