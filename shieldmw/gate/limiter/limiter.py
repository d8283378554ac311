"""The limiter: charges are spent from a lease, refused by what is known, or taken from the store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from shieldmw.core.bucket import Charges, Outcome, TakeRequest
from shieldmw.core.lease import without_lease
from shieldmw.core.made import made
from shieldmw.errors import StoreError
from shieldmw.gate import clock
from shieldmw.store.memory import MemoryBuckets

from .batch import Batch, TakeReply
from .breaker_store import BreakerStore
from .client_state import ClientState
from .fallback import Fallback
from .leases import Leases
from .refusals import Refusals
from .shared_limits import LocalSharedLimits, SharedLimiter, SharedLimits


class Limiter(Protocol):
    """Takes charges. ``now_us`` is this worker's clock."""

    @property
    def shared(self) -> SharedLimiter:
        """The limits that many clients share."""

    @property
    def is_away(self) -> bool:
        """Whether the store is away, so that charges are decided locally."""

    def take_now(self, client_state: ClientState, now_us: int) -> Outcome | None:
        """The outcome if it is known without a call."""

    def refused_now(self, charges: Charges, now_us: int) -> Outcome | None:
        """The refusal of some charges if it is known without a call; spends nothing."""

    def take(self, client_state: ClientState, now_us: int) -> Awaitable[TakeReply | None]:
        """The outcome otherwise, without prefetched charges; None if the store is away and there is no fallback."""

    def ask(self, charges: Charges) -> Awaitable[TakeReply | None]:
        """The outcome of charges that belong to no request: of failed credentials, and probes."""

    def invalidate(self) -> None:
        """Forget what is known of buckets, because a client's were reset."""

    async def aclose(self) -> None:
        """Give back leases, and close connections."""


class FleetLimiter:
    """Takes charges of a fleet in the cheapest way that is exact."""

    def __init__(
        self,
        store: BreakerStore,
        fallback: Fallback,
        leases: Leases,
        shared: SharedLimits,
        now_us: Callable[[], int] = clock.now_us,
    ) -> None:
        self._store = store
        self._fallback = fallback
        self._leases = leases
        self.shared = shared
        self._refusals = Refusals()
        self._batch = Batch[ClientState | None, TakeReply | None](store, self._answered, self._failed, now_us=now_us)
        self._now_us = now_us
        self._invalidated_us = now_us() - 1

    @property
    def is_away(self) -> bool:
        """Whether the store is away, so that charges are decided locally."""
        return self._store.is_away

    def take_now(self, client_state: ClientState, now_us: int) -> Outcome | None:
        """Spend the client's lease, or refuse by the last known state of its buckets."""
        if client_state.lease is not None:
            outcome = client_state.lease.spend(now_us)
            if outcome is not None:
                return outcome
            self._leases.exhausted(client_state, now_us)
        return self._refusals.find(client_state.charges, now_us)

    def refused_now(self, charges: Charges, now_us: int) -> Outcome | None:
        """A refusal by the last known state of the buckets."""
        return self._refusals.find(charges, now_us)

    def take(self, client_state: ClientState, now_us: int) -> Awaitable[TakeReply | None]:
        """Ask the store, with a prefetch for a hot client."""
        prefetch = self._leases.prefetch(client_state, now_us)
        return self._ask(client_state, made(TakeRequest, (client_state.charges, prefetch)))

    def ask(self, charges: Charges) -> Awaitable[TakeReply | None]:
        """Ask the store."""
        return self._ask(None, TakeRequest(charges))

    def _ask(self, client_state: ClientState | None, request: TakeRequest) -> Awaitable[TakeReply | None]:
        if self._store.may_be_asked():
            return self._batch.take(client_state, request)
        reply: asyncio.Future[TakeReply | None] = asyncio.get_running_loop().create_future()
        reply.set_result(self._decided_here(client_state, request))
        return reply

    def _answered(
        self, client_state: ClientState | None, request: TakeRequest, outcome: Outcome, sent_us: int
    ) -> TakeReply:
        charges, prefetch = request
        is_current = sent_us > self._invalidated_us
        if is_current:
            self._fallback.remember(charges, outcome)
        self._fallback.pay()
        reply = made(TakeReply, (charges, outcome, sent_us))
        if client_state is None:
            return reply
        if prefetch:
            self._leases.answered(client_state, reply if is_current else None)
        if is_current and not outcome.allowed:
            self._refusals.remember(charges, outcome, sent_us)
            # What its bucket lacks may be what was prefetched for this client in the same call.
            spent = None if client_state.lease is None else client_state.lease.spend(self._now_us())
            if spent is not None:
                return made(TakeReply, (charges, spent, sent_us))
        elif is_current and client_state.lease is not None:
            client_state.lease.absorb(outcome)
        return made(TakeReply, (charges, without_lease(charges, outcome), sent_us)) if outcome.leased else reply

    def _failed(self, client_state: ClientState | None, request: TakeRequest, error: StoreError) -> TakeReply | None:
        return self._decided_here(client_state, request)

    def _decided_here(self, client_state: ClientState | None, request: TakeRequest) -> TakeReply | None:
        if client_state is not None and request.prefetch:
            self._leases.answered(client_state, None)
        return self._fallback.take_now(request.charges)

    def invalidate(self) -> None:
        """Forget refusals, leases and local buckets, and ignore the outcomes of calls under way."""
        self._invalidated_us = self._now_us()
        self._fallback.invalidate()
        self._refusals.clear()
        self._leases.clear()
        self.shared.invalidate()

    async def aclose(self) -> None:
        """Give back leases and connections."""
        await self.shared.aclose()
        await self._leases.give_all_back()
        await self._fallback.aclose()
        await self._batch.aclose()


class LocalLimiter:
    """Takes charges of a fleet of one, whose buckets are in this process."""

    is_away = False

    def __init__(self, buckets: MemoryBuckets, now_us: Callable[[], int] = clock.now_us) -> None:
        self.shared = LocalSharedLimits(buckets)
        self._buckets = buckets
        self._now_us = now_us

    def take_now(self, client_state: ClientState, now_us: int) -> Outcome:
        """Always at once."""
        return self._buckets.take_now(client_state.charges)

    def refused_now(self, charges: Charges, now_us: int) -> Outcome | None:
        """By the buckets as they stand."""
        return self._buckets.refused_now(charges)

    async def take(self, client_state: ClientState, now_us: int) -> TakeReply:
        """The same."""
        return TakeReply(client_state.charges, self.take_now(client_state, now_us), now_us)

    async def ask(self, charges: Charges) -> TakeReply:
        """At once, too."""
        return TakeReply(charges, self._buckets.take_now(charges), self._now_us())

    def invalidate(self) -> None:
        """Nothing is known but the buckets themselves."""

    async def aclose(self) -> None:
        """Nothing to give back."""
