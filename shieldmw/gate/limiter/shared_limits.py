"""Limits that many clients share: a worker fetches portions of their buckets, by demand, and spends them locally.

With a call for each request, such a bucket would be a hot key in the store. While the store is away, the fallback
decides by this worker's share.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from shieldmw.core.bucket import Charge, Charges, Outcome
from shieldmw.core.lease import Unspent
from shieldmw.core.limits import Limit
from shieldmw.errors import StoreError
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock
from shieldmw.gate.refresher import Refresher

from .breaker_store import BreakerStore
from .fallback import Fallback
from .pool import Pool, Refunds, SharedReply

# Age at which an unused portion is given back.
OLD_US = 500_000
SWEEP_S = 0.25


class PooledCharges:
    """The charges of each request of one kind against shared limits, taken from this worker's pools."""

    def __init__(self, pools: Sequence[tuple[Pool, Charge]]) -> None:
        self.charges = tuple(charge for _, charge in pools)
        self._pools = tuple(pools)
        self._only = pools[0][0] if len(pools) == 1 else None
        self._cost = self.charges[0].cost

    def spend(self, now_us: int) -> tuple[int, ...] | None:
        """Spend units that this worker holds, from all pools or none; returns the buckets' TATs."""
        if self._only is not None:
            tat_us = self._only.held.spend(self._cost, now_us)
            return (tat_us,) if tat_us else None
        tats_us: list[int] = []
        for pool, charge in self._pools:
            tat_us = pool.held.spend(charge.cost, now_us)
            if not tat_us:
                self.undo(len(tats_us))
                return None
            tats_us.append(tat_us)
        return tuple(tats_us)

    def undo(self, pools: int | None = None) -> None:
        """Take back what ``spend`` took from the first ``pools`` (None: from all); to be called right after it."""
        for pool, charge in self._pools[:pools]:
            pool.held.undo(charge.cost)

    def look(self, now_us: int) -> Outcome | None:
        """What ``spend`` would find, with the TATs as they are; spends nothing."""
        tats_us = self.spend(now_us)
        if tats_us is None:
            return None
        self.undo()
        steps_us = [charge.step_us for charge in self.charges]
        return Outcome(True, now_us, tuple([tat_us - step for tat_us, step in zip(tats_us, steps_us, strict=True)]))

    def refused_now(self, now_us: int) -> SharedReply | None:
        """The refusal that follows from the store's last replies, if any."""
        for pool, charge in self._pools:
            if (refusal := pool.refused_now(charge, now_us)) is not None:
                return refusal
        return None

    async def take(self) -> SharedReply | None:
        """Take the charges, with calls to the store for missing units."""
        charges: Charges = ()
        outcome = Outcome(True, 0, ())
        spent: list[tuple[Refunds, Any]] = []
        by_share = False
        try:
            for pool, charge in self._pools:
                reply = await pool.take(charge)
                if reply is None or not reply.outcome.allowed:
                    return reply
                charges += reply.charges
                outcome = Outcome(True, reply.outcome.now_us, outcome.tats_us + reply.outcome.tats_us)
                spent += reply.spent
                by_share = by_share or reply.by_share
            return SharedReply(charges, outcome, spent, by_share)
        finally:
            if len(spent) < len(self._pools):
                SharedReply(charges, outcome, spent).refund()


class SharedLimits:
    """The pools of all shared limits on this worker."""

    def __init__(
        self,
        store: BreakerStore,
        fallback: Fallback,
        give_back: Callable[[Sequence[Unspent]], Awaitable[None]],
        *,
        workers: Callable[[], int],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._store = store
        self._fallback = fallback
        self._give_back = give_back
        self._workers = workers
        self._clock = clock
        self._now_us = clock.now_us
        # By bucket and limit: under a changed limit a bucket's units are others, and the old pool gives its own back.
        self._pools: dict[tuple[str, Limit], Pool] = {}
        self.refresher = Refresher("shared limits", self.sweep, interval_s=SWEEP_S, least_s=SWEEP_S / 2)

    def of(self, charges: Charges) -> PooledCharges:
        """The pools of charges against shared limits, at least one."""
        return PooledCharges([(self._pool(charge), charge) for charge in charges])

    def _pool(self, charge: Charge) -> Pool:
        """The pool of a bucket under a limit."""
        key = (charge.bucket, charge.limit)
        if key not in self._pools:
            one = charge._replace(cost=1)
            self._pools[key] = Pool(one, self._store, self._fallback, self._workers, self._clock)
        return self._pools[key]

    def invalidate(self) -> None:
        """Forget all portions: buckets were reset, or the store has lost them."""
        for pool in self._pools.values():
            pool.invalidate()

    async def sweep(self) -> None:
        """Give back portions that have not been used for a while."""
        await self._end(self._now_us() - OLD_US)

    async def aclose(self) -> None:
        """End calls under way, and give back all portions."""
        for pool in self._pools.values():
            await pool.aclose()
        await self._end(self._now_us())

    async def _end(self, granted_until_us: int) -> None:
        """Give back portions that were granted by then; if the store is away, the buckets refill by themselves."""
        ended = [pool.end(granted_until_us) for pool in self._pools.values()]
        unspent = [each for each in ended if each is not None]
        if unspent:
            with suppress(StoreError):
                await self._give_back(unspent)
