"""Leases: charges are prefetched for a hot client, so that most of its requests need no call.

A client with two calls to the store within a tenth of a second is hot: about as much as it spends in that time is
prefetched. The rest of a lease is given back after half a second.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from shieldmw.core.bucket import Charge, Charges
from shieldmw.core.cache import BoundedCache
from shieldmw.core.lease import Lease, Unspent
from shieldmw.core.plan import Requester
from shieldmw.errors import StoreError
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock
from shieldmw.gate.refresher import Refresher

from .batch import TakeReply

# Longest time between two calls of a hot client.
HOT_US = 100_000

# First and maximum number of additional charges prefetched by one call; it doubles while the client stays hot.
FIRST_PREFETCH = 8
MOST_PREFETCH = 1024

# Time that a lease must last. It shrinks while its bucket refills (core/lease.py), so more is prefetched.
LASTS_US = 100_000

# Maximum number of clients with a lease; others need a call for each request.
MOST_LEASES = 4096

# Maximum number of clients whose last call is remembered.
CLIENTS_KEPT = 65_536

# Age at which a lease is given back, and interval between two checks for such leases.
OLD_US = 500_000
SWEEP_S = 0.25

# Maximum number of buckets in one call.
GIVE_BACK_AT_ONCE = 256


class Leases:
    """Opens, spends and gives back leases."""

    def __init__(
        self,
        give_back: Callable[[Sequence[Unspent]], Awaitable[None]],
        *,
        most: int = MOST_LEASES,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._give_back = give_back
        self._most = most
        self._now_us = clock.now_us
        self.open: dict[bytes, Lease] = {}  # by the client's key
        self._asking: dict[bytes, Charges] = {}
        # The time of each client's last call. Only numbers: a flood of new clients fills this table, and the garbage
        # collector would traverse objects again and again.
        self._asked_us: BoundedCache[bytes, int] = BoundedCache(CLIENTS_KEPT)
        # For hot clients: how much was last prefetched, and when the last lease was opened.
        self._paces: BoundedCache[bytes, tuple[int, int]] = BoundedCache(2 * MOST_LEASES)
        self.refresher = Refresher("leases", self.sweep, interval_s=SWEEP_S, least_s=SWEEP_S / 2)

    def exhausted(self, key: bytes, now_us: int) -> None:
        """Close the lease of a client, which has too little left for the current request."""
        del self.open[key]
        self._asked_us.put(key, now_us)

    def prefetch(self, requester: Requester, charges: Charges, now_us: int) -> int:
        """The number of additional times that the next call should take the charges; report its end to ``answered``.

        0 for a client that is not hot. While one call prefetches for a client, its other calls do not.
        """
        key = requester.key
        asked_us = self._asked_us.get(key)
        self._asked_us.put(key, now_us)
        if asked_us is None:
            return 0
        if now_us - asked_us > HOT_US:
            self._paces.drop(key)
            return 0
        full = len(self.open) + len(self._asking) >= self._most
        if full or key in self._asking or key in self.open or not requester.plan.is_of_one_pace:
            return 0
        prefetch, opened_us = self._paces.get(key) or (0, 0)
        if now_us - opened_us <= HOT_US:
            prefetch *= 2
        prefetch = min(max(FIRST_PREFETCH, prefetch), MOST_PREFETCH)
        self._paces.put(key, (prefetch, opened_us))
        self._asking[key] = charges
        return prefetch + max(_while_refilling(charge) for charge in charges)

    def answered(self, key: bytes, told: TakeReply | None) -> None:
        """Note that the call with a client's prefetch has ended; ``told`` is None if its reply must not be used."""
        charges = self._asking.pop(key)
        if told is None or told.sent_us is None or not told.outcome.leased:
            return
        self.open[key] = Lease(charges, told.outcome, told.sent_us - told.outcome.now_us, told.sent_us)
        prefetch, _ = self._paces.get(key) or (0, 0)
        self._paces.put(key, (prefetch, told.sent_us))

    def clear(self) -> None:
        """Forget all leases, because buckets were reset."""
        self.open.clear()

    async def sweep(self) -> None:
        """Give back what old leases still hold."""
        until_us = self._now_us() - OLD_US
        await self._end([key for key, lease in self.open.items() if lease.opened_us <= until_us])

    async def give_all_back(self) -> None:
        """Give everything back; if the store is away, the buckets refill by themselves."""
        with suppress(StoreError):
            await self._end(list(self.open))

    async def _end(self, keys: Sequence[bytes]) -> None:
        now_us = self._now_us()
        unspent: list[Unspent] = []
        for key in keys:
            unspent += self.open.pop(key).unspent(now_us)
            prefetch, opened_us = self._paces.get(key) or (0, 0)
            self._paces.put(key, (prefetch // 2, opened_us))
        for start in range(0, len(unspent), GIVE_BACK_AT_ONCE):
            await self._give_back(unspent[start : start + GIVE_BACK_AT_ONCE])


def _while_refilling(charge: Charge) -> int:
    """How many times the charge refills in its bucket while a lease lasts."""
    return LASTS_US // charge.step_us if charge.step_us else 0
