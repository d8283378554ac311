"""The load of a worker's app, as reported for operators. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .distinct import Distinct, together
from .lane import Rank
from .seats import Audience, Fleet

# Maximum age of a report. Workers report every 2 s, in the largest fleets every 4 s: a worker with no newer report has
# died, hangs, or cannot reach the store.
FRESH_S = 7.0


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """One worker's report at ``at_s`` (Unix seconds by the store's clock).

    ``turn_us`` is the longest turn of its event loop in the last ``lately_ms``. ``waiting``, ``shed`` and
    ``shed_lately`` count requests by class, returning guests as guests: those in the queue, those refused since the
    worker's start, and those refused in the last ``lately_ms``. ``mode_version``: the mode that it follows; None if it
    is of a release that does not say. ``unseated``: listeners that lately found no seat there, by class.
    """

    worker: str
    host: str
    pid: int
    at_s: float
    turn_us: int
    in_flight: int
    in_flight_limit: int
    waiting: Audience
    shed: Audience
    shed_lately: Audience
    lately_ms: int
    mode_version: int | None = None
    unseated: tuple[Distinct, Distinct, Distinct] = (Distinct(), Distinct(), Distinct())

    def is_fresh(self, now_s: float) -> bool:
        """Whether the report still counts. One from the future was not written by us, or the clock has stepped back."""
        return abs(now_s - self.at_s) <= FRESH_S

    def shed_per_s(self, count: int) -> float:
        """A count of ``shed_lately``, as requests per second."""
        return count * 1000 / self.lately_ms if self.lately_ms else 0.0


def unseated(loads: Sequence[WorkerLoad]) -> Audience:
    """The number of distinct listeners, by class, who found no seat lately at any worker."""
    return Audience(*(together([load.unseated[of_class] for load in loads]) for of_class in range(3)))


def asked_once(fleet: Fleet, loads: Sequence[WorkerLoad]) -> Fleet:
    """The fleet with its demand as operators see it: a listener that asks several workers counts once.

    The demand that seats are divided by counts such a listener at each worker.
    """
    return replace(fleet, demand=fleet.present + unseated(loads))


def by_class(counts: Sequence[int]) -> Audience:
    """Convert counts by rank into counts by class."""
    guests = counts[Rank.RETURNING_GUEST] + counts[Rank.GUEST]
    return Audience(counts[Rank.HOST], counts[Rank.MEMBER], guests)
