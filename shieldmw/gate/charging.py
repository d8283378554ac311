"""The way of a request's charges: spent from a lease, refused by what is known, else asked of the store."""

from __future__ import annotations

import asyncio
from typing import Protocol

from shieldmw.core.bucket import Ask, Charges, Outcome
from shieldmw.core.lease import without_lease
from shieldmw.core.made import made
from shieldmw.store.memory import MemoryBuckets

from .batch import Told
from .leases import Leases
from .outage import GuardedStore
from .refusals import Refusals
from .standing import Standing


class Charging(Protocol):
    """Takes charges. ``now_us`` are this worker's ticks."""

    def take_now(self, standing: Standing, now_us: int) -> Outcome | None:
        """The outcome, where nothing must be awaited for it."""

    def refused_now(self, charges: Charges, now_us: int) -> Outcome | None:
        """The refusal of some charges, where it is known without a call; nothing is spent."""

    async def take(self, standing: Standing, now_us: int) -> Told | None:
        """The outcome else, without what was taken ahead; None where the store is away and nothing stands in for it."""

    def forget(self) -> None:
        """Forget what is known of buckets: somebody's were made full again."""

    async def aclose(self) -> None:
        """Give back what is held of the store."""


class SharedCharging:
    """Charges of a fleet, taken the cheapest way that is exact."""

    def __init__(self, store: GuardedStore, leases: Leases | None, refusals: Refusals | None) -> None:
        self._store = store
        self._leases = leases
        self._refusals = refusals
        self._epoch = 0

    def take_now(self, standing: Standing, now_us: int) -> Outcome | None:
        """Spent from the client's lease, or refused by what its buckets said before."""
        if standing.lease is not None and self._leases is not None:
            outcome = standing.lease.spend(now_us)
            if outcome is not None:
                return outcome
            self._leases.spent(standing, now_us)
        return self.refused_now(standing.charges, now_us)

    def refused_now(self, charges: Charges, now_us: int) -> Outcome | None:
        """A refusal by the last known state of the buckets."""
        return None if self._refusals is None else self._refusals.look(charges, now_us)

    async def take(self, standing: Standing, now_us: int) -> Told | None:
        """Asked of the store, for a lease as well where the client is hot."""
        ahead = 0 if self._leases is None else self._leases.ahead(standing, now_us)
        epoch = self._epoch
        if self._leases is not None and ahead:
            # A request that goes away must not take along what was charged ahead for those that follow.
            told = await asyncio.shield(asyncio.create_task(self._lease(self._leases, standing, ahead)))
        else:
            told = await self._store.take(made(Ask, (standing.charges, 0)))
        if told is None:
            return None
        charges, outcome, sent_us = told
        if sent_us is not None and epoch == self._epoch:
            if standing.lease is not None:
                standing.lease.absorb(outcome)
            if self._refusals is not None and not outcome.allowed:
                self._refusals.remember(charges, outcome, sent_us)
        return Told(charges, without_lease(charges, outcome), sent_us)

    async def _lease(self, leases: Leases, standing: Standing, ahead: int) -> Told | None:
        epoch = self._epoch
        told = None
        try:
            told = await self._store.take(Ask(standing.charges, ahead))
        finally:
            leases.answered(standing, told if epoch == self._epoch else None)
        return told

    def forget(self) -> None:
        """Forget refusals, leases, and what the local buckets remember; also of what is under way."""
        self._epoch += 1
        self._store.forget()
        if self._refusals is not None:
            self._refusals.clear()
        if self._leases is not None:
            self._leases.clear()

    async def aclose(self) -> None:
        """Give back leases and connections."""
        if self._leases is not None:
            await self._leases.give_all_back()
        await self._store.aclose()


class OwnCharging:
    """Charges of a fleet of one, whose buckets are in this process."""

    def __init__(self, buckets: MemoryBuckets) -> None:
        self._buckets = buckets

    def take_now(self, standing: Standing, now_us: int) -> Outcome:
        """Always at once."""
        return self._buckets.take_now(standing.charges)

    def refused_now(self, charges: Charges, now_us: int) -> Outcome | None:
        """By the buckets as they stand."""
        return self._buckets.refused_now(charges)

    async def take(self, standing: Standing, now_us: int) -> Told:
        """The same."""
        return Told(standing.charges, self.take_now(standing, now_us), now_us)

    def forget(self) -> None:
        """Nothing is known but the buckets themselves."""

    async def aclose(self) -> None:
        """Nothing to give back."""
