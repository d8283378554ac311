"""The deny list that operators write during the event, as this worker knows it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from shieldmw.core.client import IPAddress
from shieldmw.core.deny import DenyEntry, DenyList
from shieldmw.store.port import DenyRegister

from .refresher import Refresher

log = logging.getLogger(__name__)

POLL_S = 1.0


class DenyWatch:
    """Holds the list, polled each second and at once when told; the last known one while the store is away."""

    def __init__(self, register: DenyRegister, now_s: Callable[[], float]) -> None:
        self._register = register
        self._now_s = now_s
        self.entries = DenyList()  # as it is known
        self._version: int | None = None
        self._refresher = Refresher("deny list", self.refresh, interval_s=POLL_S, least_s=POLL_S / 10)

    def left_s(self, address: IPAddress | None) -> float:
        """For how long the address is still refused; 0 if it is not."""
        now_s = self._now_s()
        until_s = self.entries.until_s(address, now_s)
        return 0.0 if until_s is None else until_s - now_s

    async def refresh(self) -> None:
        """Read the list again if its version has changed; tell the store again what it has lost."""
        deny_list = await self._register.deny_list(self._version)
        if deny_list is not None and deny_list.version == 0 and (lost := self._in_force()):
            # Whatever operators take off leaves a list with a version, so this one went with the store's data.
            log.warning("the store had lost the deny list: %d networks are told again", len(lost))
            await self._register.restore_deny(lost)
            deny_list = await self._register.deny_list(None)
        if deny_list is not None:
            self.entries, self._version = deny_list, deny_list.version

    def _in_force(self) -> list[DenyEntry]:
        now_s = self._now_s()
        return [entry for entry in self.entries.entries if entry.until_s > now_s]

    def soon(self) -> None:
        """Somebody said that it has changed."""
        self._refresher.soon()

    async def start(self) -> None:
        """Read the list and keep it fresh."""
        await self._refresher.start(first_s=1.0)

    async def stop(self) -> None:
        """Keep it fresh no longer."""
        await self._refresher.stop()
