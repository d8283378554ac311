"""Reports this worker's load to the fleet, and reads that of all workers, for operators.

``/status`` is answered by one process, while an operator needs to see all of them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

from shieldmw.core.lane import Rank
from shieldmw.core.load import WorkerLoad, by_class
from shieldmw.core.seats import Audience
from shieldmw.errors import StoreError
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock
from shieldmw.gate.refresher import Refresher
from shieldmw.gate.seats.seats import Seats
from shieldmw.store.port import LoadRegister

from .overload import Overload

# Interval between two reports, longer in a large fleet.
REPORT_S = 2.0

# Shortest interval between two reports, after a change of the mode: operators wait for the workers to follow it.
LEAST_S = 0.2


class LoadReports:
    """This worker's reports and the fleet's. ``overload`` is None in a process without a lane, which only reads.

    ``store_now_s`` is the store's clock, in Unix seconds. The owner sets ``on_measure``, called before each report, or
    as often where there are none.
    """

    on_measure: Callable[[], Awaitable[None]]

    def __init__(
        self,
        register: LoadRegister,
        seats: Seats,
        overload: Overload | None,
        store_now_s: Callable[[], float],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.on_measure = _nothing
        self._register = register
        self._seats = seats
        self._overload = overload
        self._store_now_s = store_now_s
        self._now_s = clock.now_s
        self._own: WorkerLoad | None = None
        self._shed = Audience()
        self._measured_s = self._now_s()
        self._refresher = Refresher("load reports", self.refresh, interval_s=REPORT_S, least_s=LEAST_S)

    async def start(self) -> None:
        """Report now, and then every few seconds."""
        await self._refresher.start()

    async def stop(self) -> None:
        """Stop reporting, and withdraw the last report."""
        await self._refresher.stop()
        if self._own is not None:
            self._own = None
            with suppress(StoreError):  # a report that stays is soon too old to be shown
                await self._register.drop_load(self._seats.worker)

    def refresh_soon(self) -> None:
        """Report soon, since the mode of this worker has changed."""
        self._refresher.refresh_soon()

    async def refresh(self) -> None:
        """Report the app's load now."""
        await self.on_measure()
        if self._overload is None:
            return
        self._refresher.interval_s, self._refresher.least_s = self._seats.pace_s(REPORT_S), self._seats.pace_s(LEAST_S)
        self._own = self._measure(self._overload)
        self._overload.begin_period()
        await self._register.report_load(self._own)

    def here(self) -> list[WorkerLoad]:
        """The last report of this worker, sent or not; empty if it has no lane."""
        return [] if self._own is None else [self._own]

    async def known(self) -> list[WorkerLoad]:
        """The last reports of all workers; only that of this one if the store does not answer."""
        try:
            return await self.of_fleet()
        except StoreError:
            return self.here()

    async def of_fleet(self) -> list[WorkerLoad]:
        """The last reports of all workers.

        Raises:
            StoreError: the store does not answer, or its answer makes no sense.
        """
        loads = await self._register.loads(self._store_now_s())
        others = [load for load in loads if load.worker != self._seats.worker]
        return sorted([*self.here(), *others], key=lambda load: (load.host, load.pid, load.worker))

    def _measure(self, overload: Overload) -> WorkerLoad:
        lane, now_s = overload.lane, self._now_s()
        before, self._shed = self._shed, by_class(overload.shed_by_rank)
        lately_ms, self._measured_s = round((now_s - self._measured_s) * 1000), now_s
        return WorkerLoad(
            worker=self._seats.worker,
            host=socket.gethostname(),
            pid=os.getpid(),
            at_s=self._store_now_s(),
            turn_us=lane.longest_turn_us,
            in_flight=lane.places.inside,
            in_flight_limit=lane.places.limit,
            waiting=by_class([lane.waiting_of(rank) for rank in Rank]),
            shed=self._shed,
            shed_lately=self._shed - before,
            lately_ms=lately_ms,
            mode_version=self._seats.mode_version,
            unseated=self._seats.unseated(),
        )


async def _nothing() -> None:
    """Measure nothing."""
