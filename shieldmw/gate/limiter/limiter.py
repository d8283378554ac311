"""The way of a request's charges: spent from a lease, refused by what is known, else asked of the store."""

from __future__ import annotations

import asyncio
from typing import Protocol

from shieldmw.core.bucket import Charges, Outcome, TakeRequest
from shieldmw.core.lease import without_lease
from shieldmw.core.made import made
from shieldmw.store.memory import MemoryBuckets

from .batch import TakeReply
from .client_state import ClientState
from .fallback import FallbackStore
from .leases import Leases
from .refusals import Refusals


class Limiter(Protocol):
    """Takes charges. ``now_us`` are this worker's ticks."""

    def take_now(self, client_state: ClientState, now_us: int) -> Outcome | None:
        """The outcome, where nothing must be awaited for it."""

    def refused_now(self, charges: Charges, now_us: int) -> Outcome | None:
        """The refusal of some charges, where it is known without a call; nothing is spent."""

    async def take(self, client_state: ClientState, now_us: int) -> TakeReply | None:
        """The outcome else, without what was taken ahead; None where the store is away and nothing stands in for it."""

    def invalidate(self) -> None:
        """Forget what is known of buckets: somebody's were made full again."""

    async def aclose(self) -> None:
        """Give back what is held of the store."""


class FleetLimiter:
    """Charges of a fleet, taken the cheapest way that is exact."""

    def __init__(self, store: FallbackStore, leases: Leases | None, refusals: Refusals | None) -> None:
        self._store = store
        self._leases = leases
        self._refusals = refusals
        self._epoch = 0

    def take_now(self, client_state: ClientState, now_us: int) -> Outcome | None:
        """Spent from the client's lease, or refused by what its buckets said before."""
        if client_state.lease is not None and self._leases is not None:
            outcome = client_state.lease.spend(now_us)
            if outcome is not None:
                return outcome
            self._leases.exhausted(client_state, now_us)
        return self.refused_now(client_state.charges, now_us)

    def refused_now(self, charges: Charges, now_us: int) -> Outcome | None:
        """A refusal by the last known state of the buckets."""
        return None if self._refusals is None else self._refusals.find(charges, now_us)

    async def take(self, client_state: ClientState, now_us: int) -> TakeReply | None:
        """Asked of the store, for a lease as well where the client is hot."""
        prefetch = 0 if self._leases is None else self._leases.prefetch(client_state, now_us)
        epoch = self._epoch
        if self._leases is not None and prefetch:
            # A request that goes away must not take along what was charged ahead for those that follow.
            told = await asyncio.shield(asyncio.create_task(self._lease(self._leases, client_state, prefetch)))
        else:
            told = await self._store.take(made(TakeRequest, (client_state.charges, 0)))
        if told is None:
            return None
        charges, outcome, sent_us = told
        if sent_us is not None and epoch == self._epoch:
            if client_state.lease is not None:
                client_state.lease.absorb(outcome)
            if self._refusals is not None and not outcome.allowed:
                self._refusals.remember(charges, outcome, sent_us)
        return TakeReply(charges, without_lease(charges, outcome), sent_us)

    async def _lease(self, leases: Leases, client_state: ClientState, prefetch: int) -> TakeReply | None:
        epoch = self._epoch
        told = None
        try:
            told = await self._store.take(TakeRequest(client_state.charges, prefetch))
        finally:
            leases.answered(client_state, told if epoch == self._epoch else None)
        return told

    def invalidate(self) -> None:
        """Forget refusals, leases, and what the local buckets remember; also of what is under way."""
        self._epoch += 1
        self._store.invalidate()
        if self._refusals is not None:
            self._refusals.clear()
        if self._leases is not None:
            self._leases.clear()

    async def aclose(self) -> None:
        """Give back leases and connections."""
        if self._leases is not None:
            await self._leases.give_all_back()
        await self._store.aclose()


class LocalLimiter:
    """Charges of a fleet of one, whose buckets are in this process."""

    def __init__(self, buckets: MemoryBuckets) -> None:
        self._buckets = buckets

    def take_now(self, client_state: ClientState, now_us: int) -> Outcome:
        """Always at once."""
        return self._buckets.take_now(client_state.charges)

    def refused_now(self, charges: Charges, now_us: int) -> Outcome | None:
        """By the buckets as they stand."""
        return self._buckets.refused_now(charges)

    async def take(self, client_state: ClientState, now_us: int) -> TakeReply:
        """The same."""
        return TakeReply(client_state.charges, self.take_now(client_state, now_us), now_us)

    def invalidate(self) -> None:
        """Nothing is known but the buckets themselves."""

    async def aclose(self) -> None:
        """Nothing to give back."""
