"""The limits in force on this worker: those of the settings, with what operators changed during the event."""

from __future__ import annotations

import logging
from collections.abc import Callable

from shieldmw.core.overrides import Overrides, OverridesChange, OverridesState
from shieldmw.core.text import harmless
from shieldmw.errors import NotPermitted, StoreError, StoreUnavailable
from shieldmw.gate.refresher import Refresher
from shieldmw.settings import Settings
from shieldmw.settings.overrides import limits_in_force
from shieldmw.store.port import LimitsRegister, StoredLimits

log = logging.getLogger(__name__)

# Interval between two polls.
POLL_S = 1.0

# Attempts of a change that does not name a version, if others change the limits at the same time.
ATTEMPTS = 3


class LimitsWatch:
    """Holds the overrides of the highest version that this worker has ever seen, and the limits that follow from them.

    They are read each second and when a change is announced. Losing the store changes nothing, and they end at their
    end time nevertheless; if the store has lost them, they are restored. The owner sets ``on_change``, called when
    the limits in force have changed.
    """

    on_change: Callable[[], None]

    def __init__(self, register: LimitsRegister, settings: Settings, now_s: Callable[[], float]) -> None:
        self.on_change = lambda: None
        self._register = register
        self._settings = settings
        self._now_s = now_s
        self._applied = Overrides()
        self.state = OverridesState()
        self.in_force = limits_in_force(settings)
        self.since_s = 0.0  # when the limits in force began, by the store's clock
        self.refresher = Refresher("limits", self.refresh, interval_s=POLL_S, least_s=POLL_S / 10)

    async def set(
        self, overrides: Overrides, *, actor: str, reason: str, for_s: int | None, expected_version: int | None
    ) -> bool:
        """Replace the overrides of the fleet; False if their version is not the expected one.

        What they replace is kept with them, so it must be known: without an expected version another attempt follows if
        they have changed meanwhile. If foreign data is stored in their place, it is replaced.

        Raises:
            StoreError: the store could not be changed; nothing has changed here.
        """
        if expected_version is not None and expected_version != self.state.version:
            await self.look()  # the operator may have seen a change that has not come here yet
            if expected_version != self.state.version:
                return False
        for _ in range(ATTEMPTS):
            expected = self.state.version if expected_version is None else expected_version
            try:
                changed = await self._set_once(overrides, actor, reason, for_s, expected)
            except (StoreUnavailable, NotPermitted):
                raise
            except StoreError:
                break
            if changed or expected_version is not None:
                return changed
        if expected_version is not None:
            return False
        return await self._set_once(overrides, actor, reason, for_s, None)

    async def _set_once(
        self, overrides: Overrides, actor: str, reason: str, for_s: int | None, expected: int | None
    ) -> bool:
        change = OverridesChange(overrides, actor, reason, for_s, self.state.earlier())
        changed, stored = await self._register.set_limits(change, was=self.state, expected_version=expected)
        self._adopt(stored)
        return changed

    async def refresh(self) -> None:
        """End the overrides at their end time, even if the store is away; read them; restore them if they are lost."""
        self._apply()
        stored = await self._register.limits()
        if stored.state.version < self.state.version:
            log.warning("the store had lost limits version %d: they are restored", self.state.version)
            stored = await self._register.restore_limits(self.state)
        self._adopt(stored)
        state = self.state
        if state.overrides and not state.at(self._now_s()):
            change = OverridesChange(Overrides(), "shieldmw", "their end time has come", None, state.earlier())
            _, stored = await self._register.set_limits(change, was=state, expected_version=state.version)
            self._adopt(stored)

    async def look(self) -> None:
        """Read the overrides without restoring or ending anything: for a process that is not a worker.

        Raises:
            StoreError: they could not be read; the known ones stay.
        """
        self._adopt(await self._register.limits())

    def refresh_soon(self) -> None:
        """Read the overrides again now, since a change was announced."""
        self.refresher.refresh_soon()

    def _adopt(self, stored: StoredLimits) -> None:
        if stored.state.version > self.state.version:
            self.state = stored.state
            self._apply()

    def _apply(self) -> None:
        """Make the overrides that are due now the ones in force."""
        state, now_s = self.state, self._now_s()
        due = state.at(now_s)
        if due == self._applied:
            return
        self._applied = due
        self.in_force = limits_in_force(self._settings, due)
        is_over = state.until_s is not None and state.until_s <= now_s
        self.since_s = state.until_s if is_over and state.until_s is not None else state.since_s
        why = "their end time has come" if is_over else state.reason or "no reason given"
        log.warning(
            "limits: %s (version %d) by %s: %s", harmless(due), state.version, harmless(state.actor), harmless(why)
        )
        if self.in_force.ignored:
            log.warning("limits that do not fit the settings of this worker: %s", harmless(self.in_force.ignored_line))
        self.on_change()
