"""Control of the fleet without a worker: talks to the store only, for when no worker can be reached.

It follows the rules of ``control``, is not counted as a worker, and changes only what it is asked to. Like every
reader of the load reports, it drops those that are too old.
"""

from __future__ import annotations

from shieldmw.core.mode import ModeChange
from shieldmw.core.seats import Audience, Fleet
from shieldmw.errors import NotPermitted, StoreError, StoreUnavailable
from shieldmw.gate.fleet.mode_watch import ModeWatch
from shieldmw.gate.overload.load_reports import LoadReports
from shieldmw.gate.seats.capacity import SeatPlan
from shieldmw.gate.seats.seats import Seats
from shieldmw.settings import Settings
from shieldmw.store.port import Store

from .status import ModeStatus, OverloadStatus, SeatStatus, Status, shown_settings


class DirectControl:
    """What operators can do and see without a worker. Nothing runs in the background.

    Whatever a change leaves as configured is shown by the ``settings`` of this process; each worker obeys its own.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._mode_watch = ModeWatch(store)
        self._seats = Seats(store, self._mode_watch, SeatPlan.of(settings))  # never started, so it reports nothing
        self._load_reports = LoadReports(store, self._seats, None, self._mode_watch.store_now_s)
        self._settings = settings

    async def status(self) -> Status:
        """The state of the fleet.

        Raises:
            StoreUnavailable: the store does not answer.
            NotPermitted: its user may not read it.
        """
        readable = await self._look()
        seats = self._seat_status(await self._fleet())
        return Status(
            ModeStatus.of(self._mode_watch),
            seats,
            readable,
            shown_settings(self._settings),
            await self._overload_status(),
        )

    async def set_mode(self, change: ModeChange, expected_version: int | None) -> bool:
        """Change the mode of the fleet; False if its version is not the expected one.

        Raises:
            NotApplied: the store was not changed.
            StoreError: it is not known whether it was.
        """
        await self._look()  # the audit log shows the mode before
        return await self._mode_watch.set(change.with_end(), expected_version)

    async def _look(self) -> bool:
        """Read the mode. False if something else is stored in its place, which the next change replaces."""
        try:
            await self._mode_watch.look()
        except (StoreUnavailable, NotPermitted):
            raise
        except StoreError:
            return False
        return True

    async def _fleet(self) -> Fleet | None:
        """What the workers have reported; None if it cannot be read, which must not keep anybody from the switch."""
        try:
            return await self._store.fleet(self._mode_watch.store_now_s())
        except StoreError:
            return None

    async def _overload_status(self) -> OverloadStatus:
        try:
            return OverloadStatus(self._settings.overload_in_force, True, await self._load_reports.of_fleet())
        except StoreError:
            return OverloadStatus(self._settings.overload_in_force, False, ())

    def _seat_status(self, fleet: Fleet | None) -> SeatStatus:
        capacity, guest_share = self._seats.capacity(), self._seats.guest_share
        if fleet is None:
            return SeatStatus(capacity, guest_share, None, False, Audience(), None, None)
        return SeatStatus(capacity, guest_share, None, True, fleet.present, fleet.demand, fleet.workers)
