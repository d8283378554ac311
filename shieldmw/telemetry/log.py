"""Refusals in the log: one line for many, however fast they come."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

from shieldmw.core.decision import Reason, Verdict
from shieldmw.gate.events import Decided, Evicted

log = logging.getLogger("shieldmw.refusals")
evictions = logging.getLogger("shieldmw.evictions")

EVERY_S = 10.0


class RefusalLog:
    """Logs refused requests (in a dry run: those that would have been) at most every ten seconds.

    The first is logged at once; the rest are counted and told with the next line.
    """

    hears_all = False

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._since_s: float | None = None
        self._counts: Counter[tuple[Verdict, Reason]] = Counter()

    def decided(self, event: Decided) -> None:
        """Count the decision; log when it is time."""
        decision = event.decision
        self._counts[decision.verdict, decision.reason] += 1
        now_s = self._now_s()
        if self._since_s is not None and now_s - self._since_s < EVERY_S:
            return
        counts = ", ".join(f"{verdict} {reason}: {count}" for (verdict, reason), count in sorted(self._counts.items()))
        log.info(
            "%s; the last one: %s %s at %r by %s",
            counts,
            decision.listener_class,
            _who(event),
            event.facts.path[:200],
            ", ".join(decision.violated) or decision.reason,
        )
        self._since_s = now_s
        self._counts.clear()

    def evicted(self, event: Evicted) -> None:
        """Say how many had to leave; a cut has at most a step a second."""
        evictions.info("%d live %ss had to leave", event.count, event.listener_class)


def _who(event: Decided) -> str:
    """The address; what the request says of it, where it was refused without anybody working that out."""
    facts, decision = event
    if decision.address is not None:
        return str(decision.address)
    return repr((", ".join(facts.forwarded) or facts.peer or "")[-100:])
