"""What operators should hear of without asking: limits that changed, networks that were denied, alarms.

Every worker looks, but of the workers that share their metrics only the first that is not silent tells. The next one
takes over from it, so two may tell the same; the observer drops what has been told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

from shieldmw.core.alarms import Alarm, Sight, Watched, conditions, step
from shieldmw.core.deny import DenyList
from shieldmw.core.metrics import STORE_UP, UPDATED, cell
from shieldmw.errors import StoreError
from shieldmw.gate.events import NewsObserver
from shieldmw.gate.fleet.deny_watch import DenyWatch
from shieldmw.gate.fleet.limits_watch import LimitsWatch
from shieldmw.gate.fleet.mode_watch import ModeWatch
from shieldmw.gate.metrics.meter import Meter
from shieldmw.gate.metrics.slots import WorkerValues
from shieldmw.gate.overload.load_reports import LoadReports
from shieldmw.gate.refresher import Refresher

from .recent import Recent

# Interval between two looks, and the time over which requests are counted.
LOOK_S = 5.0
WINDOW_S = 60.0

# A worker whose values are this old hangs, so that another one tells.
SILENT_S = 15.0


class News:
    """Looks every few seconds, and tells ``observer``. What was there when the store was first read is no news."""

    def __init__(
        self,
        observer: NewsObserver,
        meter: Meter,
        recent: Recent,
        mode_watch: ModeWatch,
        limits_watch: LimitsWatch,
        deny_watch: DenyWatch,
        load_reports: LoadReports,
    ) -> None:
        self._observer = observer
        self._meter = meter
        self._recent = recent
        self._mode_watch = mode_watch
        self._limits_watch = limits_watch
        self._deny_watch = deny_watch
        self._load_reports = load_reports
        self._limits_version: int | None = None
        self._deny_list: DenyList | None = None
        self._watched: Mapping[Alarm, Watched] = {}
        self._announced: set[Alarm] = set()  # by this worker
        self.refresher = Refresher("news", self.refresh, interval_s=LOOK_S, least_s=LOOK_S)

    async def refresh(self) -> None:
        """Look now."""
        workers = self._awake()
        tells = workers[0].worker == self._meter.counts.worker
        self._look_at_limits(tells=tells)
        await self._look_at_deny_list(tells=tells)
        sight = await self._sight(workers, tells=tells)
        holding = conditions(sight)
        self._watched = step(self._watched, holding, sight.now_s)
        if tells:
            self._tell_begun(sight, holding)
        for over in self._announced - self._watched.keys():
            self._observer.alarm_ended(over, sight.now_s)
        self._announced &= self._watched.keys()

    def _awake(self) -> Sequence[WorkerValues]:
        """The workers that run and have not been silent for long, in the order of their slots; always this one."""
        workers, own = self._meter.workers(), self._meter.counts
        now_s, updated = own.cells[cell(UPDATED)], cell(UPDATED)
        awake = [it for it in workers if it.is_running and now_s - it.cells[updated] < SILENT_S]
        return awake or [WorkerValues(own.worker, own.cells.tolist(), is_running=True)]

    def _tell_begun(self, sight: Sight, holding: Mapping[Alarm, str]) -> None:
        """Announce the alarms that have begun, also those that another worker may have announced before it died."""
        for alarm, why in holding.items():
            begun_s = self._watched[alarm].begun_s
            if begun_s is not None and alarm not in self._announced:
                self._announced.add(alarm)
                self._observer.alarm_begun(alarm, why, sight.mode, begun_s)

    def _look_at_limits(self, *, tells: bool) -> None:
        if not self._limits_watch.has_read:
            return
        state = self._limits_watch.state
        before, self._limits_version = self._limits_version, state.version
        if tells and before is not None and state.version > before:
            self._observer.limits_changed(state)

    async def _look_at_deny_list(self, *, tells: bool) -> None:
        if not self._deny_watch.has_read:
            return
        before, now = self._deny_list, self._deny_watch.deny_list
        self._deny_list = now
        if not tells or before is None or now is before:
            return
        # In a thread, since a full list takes 50 ms, and requests would wait for so long.
        if added := await asyncio.to_thread(now.added, before):
            self._observer.denied(added, self._mode_watch.store_now_s())

    async def _sight(self, workers: Sequence[WorkerValues], *, tells: bool) -> Sight:
        sample = self._recent.now()
        return Sight(
            sample.at_s,
            self._mode_watch.state,
            self._recent.lately(sample, WINDOW_S),
            self._recent.excused(sample, WINDOW_S),
            sample.demand,
            sample.seats,
            await self._versions() if tells else (),  # one reader for each host: a fleet has many reports
            all(worker.cells[cell(STORE_UP)] for worker in workers),
        )

    async def _versions(self) -> Collection[int]:
        """The versions of the mode that the workers follow; none if the store does not answer."""
        with suppress(StoreError):
            loads = await self._load_reports.of_fleet()
            return {load.mode_version for load in loads if load.mode_version is not None}
        return ()
