"""What operators should hear of without asking: limits that changed, networks that were denied, alarms.

Every worker looks, but of the workers that share their metrics only the first tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

from shieldmw.core.alarms import Alarm, Sight, Watched, conditions, step
from shieldmw.core.deny import DenyList
from shieldmw.core.metrics import STORE_UP, cell
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


class News:
    """Looks every few seconds, and tells ``observer``. What was there at the first look is no news."""

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
        self.refresher = Refresher("news", self.refresh, interval_s=LOOK_S, least_s=LOOK_S)

    async def refresh(self) -> None:
        """Look now."""
        running = [worker for worker in self._meter.workers() if worker.is_running]
        tells = not running or running[0].worker == self._meter.counts.worker
        self._look_at_limits(tells=tells)
        await self._look_at_deny_list(tells=tells)
        sight = await self._sight(running)
        holding = conditions(sight)
        now, before = step(self._watched, holding, sight.now_s), self._watched
        self._watched = now
        if tells:
            for alarm, watched in now.items():
                if watched.begun_s is not None and (alarm not in before or before[alarm].begun_s is None):
                    self._observer.alarm_begun(alarm, holding[alarm], sight.mode, sight.now_s)
            for alarm, known in before.items():
                if known.begun_s is not None and alarm not in now:
                    self._observer.alarm_ended(alarm, sight.now_s)

    def _look_at_limits(self, *, tells: bool) -> None:
        state = self._limits_watch.state
        before, self._limits_version = self._limits_version, state.version
        if tells and before is not None and state.version > before:
            self._observer.limits_changed(state)

    async def _look_at_deny_list(self, *, tells: bool) -> None:
        before, now = self._deny_list, self._deny_watch.deny_list
        self._deny_list = now
        if not tells or before is None or now is before:
            return
        # In a thread, since a full list takes 50 ms, and requests would wait for so long.
        if added := await asyncio.to_thread(now.added, before):
            self._observer.denied(added, self._mode_watch.store_now_s())

    async def _sight(self, running: Sequence[WorkerValues]) -> Sight:
        sample = self._recent.now()
        return Sight(
            sample.at_s,
            self._mode_watch.state,
            self._recent.lately(sample, WINDOW_S),
            sample.demand,
            sample.seats,
            await self._versions(),
            all(worker.cells[cell(STORE_UP)] for worker in running),
        )

    async def _versions(self) -> Collection[int]:
        """The versions of the mode that the workers follow; none if the store does not answer."""
        with suppress(StoreError):
            loads = await self._load_reports.of_fleet()
            return {load.mode_version for load in loads if load.mode_version is not None}
        return ()
