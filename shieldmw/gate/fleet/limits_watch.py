"""The limits in force on this worker: those of the settings, with what operators changed during the event."""

from __future__ import annotations

import logging
from collections.abc import Callable

from shieldmw.core.overrides import ENDED, Overrides, OverridesChange, OverridesState
from shieldmw.core.text import harmless
from shieldmw.core.versioned import SHIELD
from shieldmw.errors import NotPermitted, SettingsError, StoreError, StoreUnavailable
from shieldmw.settings import Settings
from shieldmw.settings.overrides import limits_in_force, problems
from shieldmw.store.documents import LIMITS
from shieldmw.store.port import DocumentRegister

from .versioned_watch import VersionedWatch

log = logging.getLogger(__name__)

# Attempts of a change that does not name a version, if others change the limits at the same time.
ATTEMPTS = 3


class LimitsWatch(VersionedWatch[OverridesChange, OverridesState]):
    """The overrides of limits on this worker, and the limits that follow from them.

    They end at their end time even while the store is away.
    """

    def __init__(self, register: DocumentRegister, settings: Settings, now_s: Callable[[], float]) -> None:
        super().__init__(register, LIMITS, now_s, "the store had lost limits version %d: they are restored")
        self._settings = settings
        self._applied = Overrides()
        self.in_force = limits_in_force(settings)
        self.since_s = 0.0  # when the limits in force began, by the store's clock

    async def set(
        self, overrides: Overrides, *, actor: str, reason: str, for_s: int | None, expected_version: int | None
    ) -> bool:
        """Replace the overrides of the fleet; False if their version is not the expected one.

        What they replace is kept with them, so it must be known: without an expected version another attempt follows if
        they have changed meanwhile. If foreign data is stored in their place, it is replaced.

        Raises:
            SettingsError: the overrides do not fit the settings; nothing was changed.
            NotApplied: the store was not changed.
            StoreError: it is not known whether it was; nothing has changed here.
        """
        if lines := problems(self._settings, overrides):
            raise SettingsError(lines)
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
                if expected_version is not None:
                    raise
                break
            if changed or expected_version is not None:
                return changed
        return await self._set_once(overrides, actor, reason, for_s, None)

    async def _set_once(
        self, overrides: Overrides, actor: str, reason: str, for_s: int | None, expected: int | None
    ) -> bool:
        return await self._set(OverridesChange(overrides, actor, reason, for_s, self.state.earlier()), expected)

    async def refresh(self) -> None:
        """End the overrides at their end time, even if the store is away; read them; restore them if they are lost."""
        self._apply()
        await super().refresh()

    def _ending(self) -> OverridesChange | None:
        state = self.state
        is_over = state.overrides and state.is_over(self._now_s())
        return OverridesChange(Overrides(), SHIELD, ENDED, None, state.earlier()) if is_over else None

    def _adopted(self, was: OverridesState) -> None:
        self._apply()

    def _apply(self) -> None:
        """Make the overrides that are due now the ones in force."""
        state, now_s = self.state, self._now_s()
        due = state.at(now_s)
        if due == self._applied:
            return
        self._applied = due
        self.in_force = limits_in_force(self._settings, due)
        is_over = state.is_over(now_s)
        self.since_s = state.until_s if is_over and state.until_s is not None else state.since_s
        why = ENDED if is_over else state.reason or "no reason given"
        log.warning(
            "limits: %s (version %d) by %s: %s", harmless(due), state.version, harmless(state.actor), harmless(why)
        )
        if self.in_force.ignored:
            log.warning("limits that do not fit the settings of this worker: %s", harmless(self.in_force.ignored_line))
        self.on_change()
