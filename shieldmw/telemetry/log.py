"""Logs refusals and evictions, with a bounded number of lines however many there are."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from shieldmw.core.client import address_text
from shieldmw.core.decision import Decision, Verdict
from shieldmw.core.facts import Facts
from shieldmw.core.mode import Mode
from shieldmw.core.text import counted
from shieldmw.gate.events import Evicted
from shieldmw.gate.log_throttle import LogThrottle

log = logging.getLogger("shieldmw.refusals")
evictions = logging.getLogger("shieldmw.evictions")


class RefusalLog:
    """Logs refused requests (in a dry run: those that would have been) at most every ten seconds.

    The first is logged immediately; the rest are counted and reported with the next line. Lines have level INFO, but
    WARNING in an emergency and in a dry run, which has no other output: most servers show nothing below WARNING.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic, *, dry_run: bool = False) -> None:
        self._had_to = "would have had to" if dry_run else "had to"
        self._throttle = LogThrottle(now_s)

    def decided(self, facts: Facts, decision: Decision) -> None:
        """Count the decision, and log a line if one is due."""
        counts = self._throttle.due(decision.verdict, decision.reason)
        if counts is None:
            return
        log.log(
            logging.WARNING if _is_watched(decision) else logging.INFO,
            "%s; the last one: %s %s at %r by %s",
            counts,
            decision.listener_class,
            _who(facts, decision),
            facts.path[:200],
            ", ".join(decision.violated) or decision.reason,
        )

    def evicted(self, event: Evicted) -> None:
        """Log how many listeners were evicted (in a dry run: would have been); a cut has at most one step a second."""
        evictions.info("%s %s leave", counted(event.count, f"live {event.listener_class}"), self._had_to)


def _is_watched(decision: Decision) -> bool:
    """Whether operators are likely to look for refusals in the log: in a dry run, or an emergency."""
    return decision.verdict is Verdict.DRY_RUN or decision.mode is Mode.EMERGENCY


def _who(facts: Facts, decision: Decision) -> str:
    """The client's address; if it was refused before that was determined, the text in the request."""
    if decision.address is not None:
        return address_text(decision.address) or ""
    return repr((", ".join(facts.forwarded) or facts.peer or "")[-100:])
