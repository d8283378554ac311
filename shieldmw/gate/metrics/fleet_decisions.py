"""Adds this worker's decisions to those of the whole fleet, which the store keeps: they never fall if workers die."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from shieldmw.core.metrics import FLEET_DECISIONS, by_outcome
from shieldmw.errors import StoreError
from shieldmw.gate.decided import DecidedRequests
from shieldmw.gate.refresher import Refresher
from shieldmw.gate.seats.seats import Seats
from shieldmw.store.port import DecisionRegister

# Interval between two reports; a worker that is killed takes with it what it has not reported.
REPORT_S = 5.0


class FleetDecisions:
    """This worker's reports, and the fleet's sums. ``decided`` is None in a process that decides nothing."""

    def __init__(self, register: DecisionRegister, seats: Seats, decided: DecidedRequests | None) -> None:
        self._register = register
        self._seats = seats
        self._decided = decided
        # A worker goes on from the counts of the one before it in its place, which has reported them.
        self._before = self._counted()
        self._confirmed: Sequence[int] = [0] * len(self._before)
        self._refresher = Refresher("decisions", self.refresh, interval_s=REPORT_S, least_s=REPORT_S)

    async def start(self) -> None:
        """Report now, and then every few seconds."""
        await self._refresher.start()

    async def stop(self) -> None:
        """Stop, and report once more."""
        await self._refresher.stop()
        with suppress(StoreError):
            await self.refresh()

    async def refresh(self) -> None:
        """Report now."""
        self._refresher.least_s = self._seats.pace_s(REPORT_S)
        await self.of_fleet()

    async def of_fleet(self) -> Sequence[int]:
        """The sums over all workers that there ever were, in the order of ``FLEET_DECISIONS``, with this one's as of
        now.

        Raises:
            StoreError: the store does not answer, or its answer makes no sense.
        """
        own = [now - before for now, before in zip(self._counted(), self._before, strict=True)]
        sums = await self._register.decided(self._seats.worker, own, self._confirmed)
        self._confirmed = list(map(max, self._confirmed, own))  # an earlier answer may come later
        return sums

    def _counted(self) -> Sequence[int]:
        if self._decided is None:
            return [0] * len(FLEET_DECISIONS.series)
        self._decided.count()
        return by_outcome(self._decided.counts.cells.tolist())
