"""The last quarter of an hour in a few numbers, so that an operator who opens the page sees what led to now."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from shieldmw.core.load import unseated
from shieldmw.core.seats import NOBODY, Audience
from shieldmw.core.traffic import Outcome, Rates, Totals, excused, rate, rates, totals
from shieldmw.gate.metrics.slots import WorkerValues
from shieldmw.gate.overload.load_reports import LoadReports
from shieldmw.gate.refresher import Refresher
from shieldmw.gate.seats.seats import Seats

# Interval between two samples, and how many are kept: 15 minutes.
SAMPLE_S = 5.0
SAMPLES = 180

# In a fleet of more workers than this the load reports are read less often: all workers read those of all others, and
# 200 reports take a worker up to 40 ms.
WORKERS_A_SAMPLE = 20


@dataclass(frozen=True, slots=True)
class Sample:
    """The state at ``at_s`` (Unix seconds by the store's clock). ``totals`` are those of this ``serve``'s workers,
    ``excused`` those among them that were sent away as the seats tell or the operator wants. The listeners are those of
    the fleet; ``seats`` None means no limit."""

    at_s: float
    workers: int
    totals: Totals
    present: Audience
    demand: Audience
    seats: int | None
    excused: Audience


class Recent:
    """Keeps samples. ``workers`` reads the metrics of all workers of this ``serve``."""

    def __init__(self, workers: Callable[[], Sequence[WorkerValues]], seats: Seats, load_reports: LoadReports) -> None:
        self._workers = workers
        self._seats = seats
        self._load_reports = load_reports
        self._unseated = NOBODY
        self._read_in = 0  # samples until the load reports are read again
        self._kept: deque[Sample] = deque(maxlen=SAMPLES)
        self.refresher = Refresher("recent traffic", self.refresh, interval_s=SAMPLE_S, least_s=SAMPLE_S)

    async def refresh(self) -> None:
        """Keep the state now."""
        if not self._read_in:
            self._unseated = unseated(await self._load_reports.known())
            self._read_in = ceil(self._seats.workers / WORKERS_A_SAMPLE)
        self._read_in -= 1
        self._kept.append(self.now())

    def now(self) -> Sample:
        """The state now; listeners without a seat as of the last look at the load reports."""
        seats, grant, capacity = self._seats, self._seats.grant, self._seats.capacity()
        present = seats.ledger.held() if grant is None else grant.present
        workers = self._workers()
        return Sample(
            seats.now_s(),
            sum(worker.is_running for worker in workers),
            totals(worker.cells for worker in workers),
            present,
            present + self._unseated,
            None if capacity is None else capacity.seats,
            excused(worker.cells for worker in workers),
        )

    def samples(self) -> Sequence[Sample]:
        """Those kept, the oldest first."""
        return tuple(self._kept)

    def lately(self, now: Sample, seconds: float = SAMPLE_S) -> Mapping[Outcome, Rates]:
        """Requests per second since a sample that is as many ``seconds`` old, or the oldest one."""
        old = self._before(now, seconds)
        return rates(old.totals, now.totals, now.at_s - old.at_s)

    def excused(self, now: Sample, seconds: float = SAMPLE_S) -> Rates:
        """Those among them that were sent away because no seat was free, or the path is closed in the emergency."""
        old = self._before(now, seconds)
        return rate(old.excused, now.excused, now.at_s - old.at_s)

    def _before(self, now: Sample, seconds: float) -> Sample:
        old = [sample for sample in self._kept if now.at_s - sample.at_s >= seconds] or list(self._kept)[:1] or [now]
        return old[-1]
