"""This worker's copy of the deny list that operators edit during the event."""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import ceil

from shieldmw.core.client import Address
from shieldmw.core.deny import DenyList
from shieldmw.core.limits import US_PER_S
from shieldmw.gate.refresher import Refresher
from shieldmw.store.port import DenyRegister

log = logging.getLogger(__name__)

# Interval between two polls of the list's version.
POLL_S = 1.0


class DenyWatch:
    """Holds the list, read each second and when a change is announced. While the store is away, the last one holds."""

    def __init__(self, register: DenyRegister, now_s: Callable[[], float]) -> None:
        self._register = register
        self._now_s = now_s
        self.deny_list = DenyList()  # the last one read
        self._version: int | None = None
        self.refresher = Refresher("deny list", self.refresh, interval_s=POLL_S, least_s=POLL_S / 10)

    @property
    def has_read(self) -> bool:
        """Whether the list has been read at all."""
        return self._version is not None

    def left_us(self, address: Address | None) -> int:
        """The time for which the address is still refused; 0 if it is not."""
        if not self.deny_list.entries:
            return 0
        now_s = self._now_s()
        until_s = self.deny_list.until_s(address, now_s)
        return 0 if until_s is None else ceil((until_s - now_s) * US_PER_S)

    async def refresh(self) -> None:
        """Read the list again if its version has changed; restore it if the store has lost it."""
        deny_list = await self._register.deny_list(self._version)
        if deny_list is not None and deny_list.version == 0 and (lost := self.deny_list.in_force(self._now_s())):
            # A list that operators have emptied still has a version, so this one was lost with the store's data.
            log.warning("the store had lost the deny list: %d networks are restored", len(lost))
            await self._register.restore_deny(lost)
            deny_list = await self._register.deny_list(None)
        if deny_list is not None:
            self.deny_list, self._version = deny_list, deny_list.version

    def refresh_soon(self) -> None:
        """Read the list again now, since a change was announced."""
        self.refresher.refresh_soon()
