"""Reports this worker's busiest clients to the fleet, and merges the reports of all workers, for operators."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from shieldmw.core.top import FleetTop, TopReport, fleet_top
from shieldmw.errors import StoreError
from shieldmw.gate.decided import DecidedRequests
from shieldmw.gate.refresher import Refresher
from shieldmw.gate.seats.seats import Seats
from shieldmw.store.port import TopRegister

# Interval between two reports, longer in a large fleet.
REPORT_S = 5.0

# Names of each kind that a worker reports.
REPORTED = 50


class TopReports:
    """This worker's reports and the fleet's. ``decided`` is None in a process that serves no clients.

    ``store_now_s`` is the store's clock, in Unix seconds.
    """

    def __init__(
        self, register: TopRegister, seats: Seats, decided: DecidedRequests | None, store_now_s: Callable[[], float]
    ) -> None:
        self._register = register
        self._seats = seats
        self._decided = decided
        self._store_now_s = store_now_s
        self._refresher = Refresher("top reports", self.refresh, interval_s=REPORT_S, least_s=REPORT_S)

    async def start(self) -> None:
        """Report now, and then every few seconds."""
        if self._decided is not None:
            await self._refresher.start()

    async def stop(self) -> None:
        """Stop reporting, and withdraw the last report."""
        await self._refresher.stop()
        if self._decided is not None:
            with suppress(StoreError):  # a report that stays is soon too old to be shown
                await self._register.drop_top(self._seats.worker)

    async def refresh(self) -> None:
        """Report now."""
        self._refresher.least_s = self._seats.pace_s(REPORT_S)
        for report in self._here():
            await self._register.report_top(report)

    async def of_fleet(self, count: int) -> FleetTop:
        """The busiest of all workers: this one's as counted now, others' as last reported. Without the store this
        worker's alone.

        Raises:
            StoreError: the store does not answer, and this process serves no clients.
        """
        try:
            reports = await self._register.tops(self._store_now_s())
        except StoreError:
            if self._decided is None:
                raise
            reports = []
        others = [report for report in reports if report.worker != self._seats.worker]
        return fleet_top([*self._here(), *others], count)

    def _here(self) -> list[TopReport]:
        if self._decided is None:
            return []
        return [TopReport(self._seats.worker, self._store_now_s(), *self._decided.tallies(REPORTED))]
