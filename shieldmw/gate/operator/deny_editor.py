"""Edits the fleet's deny list for operators, from a worker or through the store alone."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from math import ceil

from shieldmw.core.address import IPNetwork, Networks
from shieldmw.core.client import Address
from shieldmw.core.deny import MOST_ENTRIES, DenyEntry, DenyList
from shieldmw.errors import NotPermitted, StoreError, StoreUnavailable
from shieldmw.gate.fleet.deny_watch import DenyWatch
from shieldmw.store.port import DenyRegister

# Maximum number of expired entries that are removed from a full deny list to make room for a new one.
SWEPT_AT_ONCE = 100

FULL_LINE = f"The deny list is full: it has {MOST_ENTRIES:,} entries. Remove some, or deny wider ones."


class DenyRefusal(StrEnum):
    """The reason why a network was not denied."""

    OWN_ADDRESS = "own-address"
    FULL = "full"


class DenyEditor:
    """Reads and changes the deny list. ``now_s`` is the store's clock, in Unix seconds."""

    def __init__(self, register: DenyRegister, deny_watch: DenyWatch, now_s: Callable[[], float]) -> None:
        self._register = register
        self._deny_watch = deny_watch
        self._now_s = now_s

    async def denied(self) -> list[DenyEntry]:
        """Every network that is denied now."""
        return (await self.fresh_list()).in_force(self._now_s())

    async def denied_network(self, network: IPNetwork) -> DenyEntry | None:
        """The entry of exactly this network, if there is one."""
        return next((entry for entry in await self.denied() if entry.network == network), None)

    async def deny(
        self, network: IPNetwork, for_s: int, *, actor: str, reason: str, own: Address | None, force: bool
    ) -> DenyEntry | DenyRefusal:
        """Deny a network at once on every worker; the operator's ``own`` address only with ``force``."""
        if own in Networks((network,)) and not force:
            return DenyRefusal.OWN_ADDRESS
        deny_list = await self.fresh_list()
        known = any(entry.network == network for entry in deny_list.entries)
        if not known and len(deny_list.entries) >= MOST_ENTRIES and not await self._sweep(deny_list):
            return DenyRefusal.FULL
        # A whole second, as the store keeps it, so that the end is the one that the operator is told.
        entry = DenyEntry(network, float(ceil(self._now_s() + for_s)), actor, reason)
        await self._register.deny(entry)
        await self._obey()
        return entry

    async def undeny(self, network: IPNetwork, actor: str) -> bool:
        """Lift the denial of a network, at once on every worker; returns whether it was denied."""
        if await self.denied_network(network) is None:
            return False
        dropped = await self._register.undeny(str(network), actor)
        await self._obey()
        return dropped

    async def fresh_list(self) -> DenyList:
        """The current list; the last known one if foreign data is stored in its place, which the next change
        replaces."""
        try:
            await self._deny_watch.refresh()
        except (StoreUnavailable, NotPermitted):
            raise
        except StoreError:
            pass
        return self._deny_watch.deny_list

    async def _sweep(self, deny_list: DenyList) -> int:
        """Drop expired entries; returns how many."""
        in_force = set(deny_list.in_force(self._now_s()))
        over = [entry for entry in deny_list.entries if entry not in in_force][:SWEPT_AT_ONCE]
        for entry in over:
            await self._register.undeny(str(entry.network), "shieldmw")
        return len(over)

    async def _obey(self) -> None:
        """Apply a change of the deny list here. It is already stored, so a failure only delays it."""
        try:
            await self._deny_watch.refresh()
        except StoreError:
            self._deny_watch.refresh_soon()
