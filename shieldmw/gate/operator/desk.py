"""Runs a ``Control`` in the process of ``serve --admin``, which is not a worker: it has no requests and no seats."""

from __future__ import annotations

from collections.abc import Callable

from shieldmw.core.seats import COHORTS, Capacity, Grant, Report
from shieldmw.gate.fleet.deny_watch import DenyWatch
from shieldmw.gate.fleet.limits_watch import LimitsWatch
from shieldmw.gate.fleet.mode_watch import ModeWatch
from shieldmw.gate.limiter.limiter import Limiter
from shieldmw.gate.refresher import Refresher
from shieldmw.gate.seats.capacity import SeatPlan
from shieldmw.gate.seats.seats import LEAST_S, Seats
from shieldmw.store.port import SeatRegister

from .control import Control

# Interval between two reads of the seats in use, for the status. One call a second is negligible for the store.
LOOK_S = 1.0


class OnlookersGrants:
    """Reads the fleet's seats without reporting any, so that this process does not count as a worker."""

    def __init__(self, register: SeatRegister, store_now_s: Callable[[], float]) -> None:
        self._register = register
        self._store_now_s = store_now_s

    async def seats(self, _report: Report, _capacity: Capacity) -> Grant:
        """The fleet's seats, as a grant of none."""
        fleet = await self._register.fleet(self._store_now_s())
        return Grant(0, 0, COHORTS, COHORTS, fleet.workers, fleet.present, fleet.demand, fleet.leased)

    async def release_seats(self, _worker: str) -> None:
        """Do nothing: this process holds no seats."""


class Desk:
    """A ``control`` and the refreshers of its state: the mode, the limits, the deny list and the seats.

    Start it before use.
    """

    def __init__(
        self,
        control: Control,
        mode_watch: ModeWatch,
        limits_watch: LimitsWatch,
        deny_watch: DenyWatch,
        seats: Seats,
        limiter: Limiter,
    ) -> None:
        self.control = control
        self._limiter = limiter
        self._seats = seats
        self._look = Refresher("seats", seats.refresh, interval_s=LOOK_S, least_s=LEAST_S)
        self._mode_watch = mode_watch
        self._limits_watch = limits_watch
        self._deny_watch = deny_watch
        self._seats = seats
        mode_watch.on_change = self._look.refresh_soon  # the number of seats depends on the mode
        limits_watch.on_change = self._limits_changed

    async def start(self) -> None:
        """Read the state, and start refreshing it. Never fails because the store is away."""
        await self._mode_watch.refresher.start()
        await self._limits_watch.refresher.start()
        await self._deny_watch.refresher.start()
        await self._look.start()
        await self.control.recent.refresher.start()

    def leave(self) -> None:
        """Prepare to stop: open pages must go, since the server waits for them."""
        self._seats.leave()

    async def stop(self) -> None:
        """Stop refreshing, and close the connections."""
        await self._seats.stop()
        await self.control.recent.refresher.stop()
        await self._look.stop()
        await self._deny_watch.refresher.stop()
        await self._limits_watch.refresher.stop()
        await self._mode_watch.refresher.stop()
        await self._limiter.aclose()

    def _limits_changed(self) -> None:
        self._seats.use(SeatPlan.of(self._limits_watch.in_force), self._limits_watch.since_s)
        self._look.refresh_soon()
