"""Logs an overload: when it begins, every ten seconds while it lasts, and when it is over."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from shieldmw.core.lane import Rank
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock
from shieldmw.gate.log_throttle import LogThrottle

log = logging.getLogger(__name__)

# Time without shedding after which an overload is over, so that one that comes in waves is logged as one.
OVER_S = 10.0


class OverloadLog:
    """Writes to the log while requests are shed; in ``shadow`` mode, while they would have been.

    ``state`` describes the app's load. ``look`` must be called every few seconds to find the end, so that shedding a
    request costs no more than counting it.
    """

    def __init__(self, state: Callable[[], str], *, shadow: bool = False, clock: Clock = SYSTEM_CLOCK) -> None:
        self._state = state
        self._words = "would have shed" if shadow else "shed"
        self._now_s = clock.now_s
        self._throttle: LogThrottle | None = None
        self._began_s = 0.0
        self._seen = 0
        self._quiet_since_s = 0.0

    def shed(self, rank: Rank) -> None:
        """Count a request that was shed."""
        if self._throttle is None:
            self._throttle = LogThrottle(self._now_s)
            self._began_s = self._quiet_since_s = self._now_s()
            self._seen = 0
        if (counts := self._throttle.due(*rank.name.lower().split("_"))) is not None:
            log.warning("the app is asked for more than it can do: %s %s; %s", self._words, counts, self._state())

    def look(self) -> None:
        """Log the end of the overload, if it is over."""
        if self._throttle is None:
            return
        totals, now_s = self._throttle.totals, self._now_s()
        if totals.total() != self._seen:
            self._seen, self._quiet_since_s = totals.total(), now_s
        elif now_s - self._quiet_since_s >= OVER_S:
            self._throttle = None
            took_s = self._quiet_since_s - self._began_s
            log.warning("no longer overloaded: %s %s in all, in %.0f s", self._words, _counted(totals), took_s)


def _counted(totals: Counter[tuple[str, ...]]) -> str:
    return ", ".join(f"{' '.join(words)}: {count}" for words, count in sorted(totals.items()))
