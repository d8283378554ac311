"""Leases: a client that is hot is charged ahead, so that most of its requests need no call.

Whoever asks the store twice within a tenth of a second is hot, and is charged ahead for about what it spends in
that time. What is left of a lease after half a second is given back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from shieldmw.core.bucket import Charge, Charges
from shieldmw.core.lease import Lease, Unspent
from shieldmw.core.limits import AGGREGATE_FACTOR
from shieldmw.errors import StoreError

from . import ticks
from .batch import Told
from .refresher import Refresher
from .standing import Standing

HOT_US = 100_000
FIRST_AHEAD = 8
MOST_AHEAD = 1024

# A lease shrinks while its bucket refills (core/lease.py): it is long enough to last as long as this.
LASTS_US = 100_000

# Clients charged ahead at once; the others ask for each request.
MOST_LEASES = 4096

OLD_US = 500_000
SWEEP_S = 0.25

GIVE_BACK_AT_ONCE = 256


class Leases:
    """Opens, spends and gives back leases."""

    def __init__(
        self,
        give_back: Callable[[Sequence[Unspent]], Awaitable[None]],
        *,
        most: int = MOST_LEASES,
        now_us: Callable[[], int] = ticks.now_us,
    ) -> None:
        self._give_back = give_back
        self._most = most
        self._now_us = now_us
        self._open: dict[Standing, None] = {}
        self._asking = 0
        self._sweeper = Refresher("leases", self.sweep, interval_s=SWEEP_S, least_s=SWEEP_S / 2)

    def __len__(self) -> int:
        return len(self._open)

    def spent(self, standing: Standing, now_us: int) -> None:
        """Too little is left of a lease for the request at hand."""
        standing.asked_us = now_us
        self._close(standing)

    def ahead(self, standing: Standing, now_us: int) -> int:
        """How often more the charges should be taken with the call that is due; its end must be told.

        0 for a client that is not hot. While one request asks for a lease the client's others ask for themselves alone.
        """
        hot = now_us - standing.asked_us <= HOT_US
        standing.asked_us = now_us
        if not hot:
            standing.ahead = 0
            return 0
        full = len(self._open) + self._asking >= self._most
        if full or standing.asking or standing.lease is not None or not _of_one_pace(standing.charges):
            return 0
        if now_us - standing.opened_us <= HOT_US:
            standing.ahead *= 2
        standing.ahead = min(max(FIRST_AHEAD, standing.ahead), MOST_AHEAD)
        standing.asking = True
        self._asking += 1
        return standing.ahead + max(_while_refilling(charge) for charge in standing.charges)

    def answered(self, standing: Standing, told: Told | None) -> None:
        """The call that asked for charges ahead has ended; None: with nothing that still holds."""
        standing.asking = False
        self._asking -= 1
        if told is None or told.sent_us is None or not told.outcome.leased:
            return
        standing.lease = Lease(standing.charges, told.outcome, told.sent_us - told.outcome.now_us)
        standing.opened_us = told.sent_us
        self._open[standing] = None

    def clear(self) -> None:
        """Forget all leases: buckets that were made full again hold nothing of them."""
        for standing in list(self._open):
            self._close(standing)

    async def sweep(self) -> None:
        """Give back what old leases still hold."""
        until_us = self._now_us() - OLD_US
        await self._end([standing for standing in self._open if standing.opened_us <= until_us])

    async def start(self) -> None:
        """Sweep in the background."""
        await self._sweeper.start(first_s=1.0)

    async def stop(self) -> None:
        """Sweep no longer."""
        await self._sweeper.stop()

    async def give_all_back(self) -> None:
        """Give everything back; where the store is away it comes back by itself, as buckets refill."""
        with suppress(StoreError):
            await self._end(list(self._open))

    async def _end(self, standings: Sequence[Standing]) -> None:
        now_us = self._now_us()
        unspent: list[Unspent] = []
        for standing in standings:
            if standing.lease is not None:
                unspent += standing.lease.unspent(now_us)
                standing.ahead //= 2
            self._close(standing)
        for start in range(0, len(unspent), GIVE_BACK_AT_ONCE):
            await self._give_back(unspent[start : start + GIVE_BACK_AT_ONCE])

    def _close(self, standing: Standing) -> None:
        standing.lease = None
        self._open.pop(standing, None)


def _of_one_pace(charges: Charges) -> bool:
    """Whether the buckets refill about as fast: beside a fast one a slow one would pay for what is never spent."""
    steps_us = [charge.step_us for charge in charges if charge.cost]
    return bool(steps_us) and max(steps_us) <= AGGREGATE_FACTOR * min(steps_us)


def _while_refilling(charge: Charge) -> int:
    """How often the charge comes back to its bucket while a lease lasts."""
    return LASTS_US // charge.step_us if charge.step_us else 0
