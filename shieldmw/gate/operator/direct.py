"""Operators' requests by way of the store alone: for commands with ``--direct``, if no worker can be reached.

Unlike ``Control`` it runs nothing in the background, restores nothing that the store has lost, and makes no change but
the one requested. (Like every reader of the load reports, it drops those that are too old.)
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from shieldmw.core.load import WorkerLoad, asked_once
from shieldmw.core.mode import ModeChange
from shieldmw.core.overrides import Overrides
from shieldmw.core.seats import Fleet
from shieldmw.errors import NotPermitted, StoreError, StoreUnavailable
from shieldmw.gate.fleet.deny_watch import DenyWatch
from shieldmw.gate.fleet.limits_watch import LimitsWatch
from shieldmw.gate.fleet.mode_watch import ModeWatch
from shieldmw.gate.overload.load_reports import LoadReports
from shieldmw.gate.seats.capacity import SeatPlan
from shieldmw.gate.seats.seats import Seats
from shieldmw.settings import Settings
from shieldmw.store.port import AuditEntry, Store

from .deny_editor import DenyEditor
from .limits_report import LimitsReport, LimitsStatus
from .status import OverloadStatus, SeatStatus, Status, shown_settings


class DirectControl:
    """The mode, the limits, the deny list and the status of the fleet, read from and written to the store.

    Values that a change leaves as configured are shown from the ``settings`` of this process; workers use their own.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._mode_watch = ModeWatch(store)
        self._limits_watch = LimitsWatch(store, settings, self._mode_watch.store_now_s)
        self._seats = Seats(
            store, self._mode_watch, SeatPlan.of(self._limits_watch.in_force)
        )  # never started, so it reports nothing
        self._load_reports = LoadReports(store, self._seats, None, self._mode_watch.store_now_s)
        self._settings = settings
        self._denials = DenyEditor(store, DenyWatch(store, self._mode_watch.store_now_s), self._mode_watch.store_now_s)

    def now_s(self) -> float:
        """The store's clock, in Unix seconds, once it was read."""
        return self._mode_watch.store_now_s()

    async def status(self) -> Status:
        """The state of the fleet.

        Raises:
            StoreUnavailable: the store does not answer.
            NotPermitted: its user may not read it.
        """
        readable = await self._look()
        await self._look_at_limits()
        overload = await OverloadStatus.of(self._settings, self._load_reports)
        seats = SeatStatus.of(self._seats, await self._fleet(overload.workers))
        return Status(
            self._mode_watch.store_now_s(),
            self._mode_watch.state,
            seats,
            readable,
            {**shown_settings(self._settings), **self._limits_watch.in_force.texts},
            overload,
            self._settings.dry_run,
            LimitsStatus.of(self._limits_watch),
        )

    async def set_mode(self, change: ModeChange, expected_version: int | None) -> bool:
        """Change the mode of the fleet; False if its version is not the expected one.

        Raises:
            NotApplied: the store was not changed.
            StoreError: it is not known whether it was.
        """
        await self._look()  # the audit log shows the mode before
        return await self._mode_watch.set(change.with_end(), expected_version)

    async def limits(self) -> LimitsReport:
        """The limits in force. Those of foreign data in their place, which the next change replaces, are not known."""
        await self._look()
        readable = True
        try:
            await self._limits_watch.look()
        except (StoreUnavailable, NotPermitted):
            raise
        except StoreError:
            readable = False
        return LimitsReport.of(self._limits_watch, self._settings, self.now_s(), store_is_up=readable)

    async def set_limits(
        self, overrides: Overrides, *, actor: str, reason: str, for_s: int | None, expected_version: int | None
    ) -> bool:
        """As ``LimitsWatch.set``."""
        return await self._limits_watch.set(
            overrides, actor=actor, reason=reason, for_s=for_s, expected_version=expected_version
        )

    async def denials(self) -> DenyEditor:
        """The deny list, by the store's clock. Nobody's own address is known here."""
        await self._look()
        return self._denials

    async def audit(self, count: int) -> list[AuditEntry]:
        """The last changes, newest first."""
        return await self._store.audit(count)

    async def _look(self) -> bool:
        """Read the mode. False if foreign data is stored in its place, which the next change replaces."""
        try:
            await self._mode_watch.look()
        except (StoreUnavailable, NotPermitted):
            raise
        except StoreError:
            return False
        return True

    async def _look_at_limits(self) -> None:
        """Read the limits that operators changed; those of the settings if that fails, which must not prevent the
        switch."""
        with suppress(StoreError):
            await self._limits_watch.look()
        self._seats.use(SeatPlan.of(self._limits_watch.in_force), self._limits_watch.since_s)

    async def _fleet(self, loads: Sequence[WorkerLoad]) -> Fleet | None:
        """The workers' reports; None if they cannot be read, which must not prevent the switch."""
        try:
            return asked_once(await self._store.fleet(self._mode_watch.store_now_s()), loads)
        except StoreError:
            return None
