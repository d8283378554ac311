"""The limiter: charges are spent from a lease, refused by what is known, or taken from the store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Protocol

from shieldmw.core.bucket import Charge, Charges, Outcome, TakeRequest, remaining
from shieldmw.core.cache import BoundedCache
from shieldmw.core.client import Client
from shieldmw.core.lease import without_lease
from shieldmw.core.limits import Limit
from shieldmw.core.made import made
from shieldmw.core.metrics import Table
from shieldmw.core.plan import Requester
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock
from shieldmw.gate.metrics.counts import UNREAD, Counts
from shieldmw.store.memory import MemoryBuckets

from .batch import Batch, TakeReply
from .breaker_store import BreakerStore
from .fallback import Fallback
from .known_tats import KnownTats
from .leases import Leases

# Time for which a client is decided locally, without a call, after the node of its buckets failed while others
# answered, and this worker's share of a limit refused it: calls for a flood of its requests would open the breaker for
# all nodes. And the maximum number of such clients.
DECIDED_HERE_US = 250_000
DECIDED_HERE_KEPT = 65_536

# Costs nothing: it shows whether the store answers, by the same path as requests.
PROBE = Charge(Client("ip", "unknown", "ip:unknown"), Limit("probe", 1, 1, 1), cost=0)


class Limiter(Protocol):
    """Takes charges. ``now_us`` is this worker's clock."""

    @property
    def is_away(self) -> bool:
        """Whether the store is away, so that charges are decided locally."""

    def take_now(self, requester: Requester, now_us: int) -> Outcome | None:
        """The outcome if it is known without a call."""

    def refused_now(self, requester: Requester, now_us: int) -> Outcome | None:
        """The refusal if it is known without a call; spends nothing."""

    def take(self, requester: Requester, now_us: int) -> Awaitable[TakeReply | None]:
        """The outcome otherwise, without prefetched charges; None if the store is away and there is no fallback."""

    def look(self, requester: Requester, now_us: int) -> Awaitable[TakeReply | None]:
        """Whether a request would be admitted, with the TATs as they are; charges nothing. None as for ``take``."""

    def ask(self, charges: Charges) -> Awaitable[TakeReply | None]:
        """The outcome of charges that belong to no request: of failed credentials, several requests, and probes."""

    def invalidate(self) -> None:
        """Forget what is known of buckets, because a client's were reset."""

    def entries(self) -> Mapping[Table, int]:
        """The sizes of its tables."""

    async def aclose(self) -> None:
        """Give back leases, and close connections."""


class FleetLimiter:
    """Takes charges of a fleet, each in the cheapest way that is exact."""

    def __init__(
        self,
        store: BreakerStore,
        fallback: Fallback,
        leases: Leases,
        clock: Clock = SYSTEM_CLOCK,
        counts: Counts = UNREAD,
    ) -> None:
        self._store = store
        self._fallback = fallback
        self._leases = leases
        self._known_tats = KnownTats()
        self._batch = Batch(store, self._answered, self._failed, clock, counts)
        self._now_us = clock.now_us
        self._invalidated_us = self._now_us() - 1
        self._decided_here_until_us: BoundedCache[bytes, int] = BoundedCache(DECIDED_HERE_KEPT)

    @property
    def is_away(self) -> bool:
        """Whether the store is away, so that charges are decided locally."""
        return self._store.is_away

    def take_now(self, requester: Requester, now_us: int) -> Outcome | None:
        """Spend the client's lease, or refuse by the last known state of its buckets."""
        lease = self._leases.open.get(requester.key)
        if lease is not None:
            outcome = lease.spend(now_us)
            if outcome is not None:
                return outcome
            self._leases.exhausted(requester.key, now_us)
        return self._known_tats.find(requester, now_us)

    def refused_now(self, requester: Requester, now_us: int) -> Outcome | None:
        """A refusal by the last known state of the buckets; none for a client with a lease."""
        return None if requester.key in self._leases.open else self._known_tats.find(requester, now_us)

    def take(self, requester: Requester, now_us: int) -> Awaitable[TakeReply | None]:
        """Query the store, with a prefetch for a hot client."""
        charges = requester.charges()
        # While the store is away, debts accumulate: its next reply overstates what a bucket holds, so lease nothing.
        prefetch = 0 if self._store.is_away else self._leases.prefetch(requester, charges, now_us)
        return self._ask(requester, made(TakeRequest, (charges, prefetch)))

    async def look(self, requester: Requester, now_us: int) -> TakeReply | None:
        """Look at the client's lease, or what is known of its buckets; otherwise query the store."""
        charges = requester.charges()
        lease = self._leases.open.get(requester.key)
        outcome = self._known_tats.find(requester, now_us) if lease is None else lease.look(now_us)
        return await looked(charges, self) if outcome is None else TakeReply(charges, outcome, now_us)

    def ask(self, charges: Charges) -> Awaitable[TakeReply | None]:
        """Query the store."""
        return self._ask(None, TakeRequest(charges))

    def _ask(self, requester: Requester | None, request: TakeRequest) -> Awaitable[TakeReply | None]:
        if not self._is_decided_here(requester) and self._store.may_be_asked():
            return self._batch.take(requester, request)
        reply: asyncio.Future[TakeReply | None] = asyncio.get_running_loop().create_future()
        reply.set_result(self._decided_here(requester, request))
        return reply

    def _answered(self, requester: Requester | None, request: TakeRequest, outcome: Outcome, sent_us: int) -> TakeReply:
        charges, prefetch = request
        is_current = sent_us > self._invalidated_us
        if is_current:
            self._fallback.remember(charges, outcome)
        self._fallback.pay()
        reply = made(TakeReply, (charges, outcome, sent_us))
        if requester is None:
            return reply
        if prefetch:
            self._leases.answered(requester.key, reply if is_current else None)
        lease = self._leases.open.get(requester.key)
        if is_current and not outcome.allowed:
            self._known_tats.remember(requester, outcome, sent_us)
            # The units that its bucket lacks may have been prefetched for this client in the same call.
            spent = None if lease is None else lease.spend(self._now_us())
            if spent is not None:
                return made(TakeReply, (charges, spent, sent_us))
        elif is_current and lease is not None:
            lease.absorb(outcome)
        return made(TakeReply, (charges, without_lease(charges, outcome), sent_us)) if outcome.leased else reply

    def _failed(self, requester: Requester | None, request: TakeRequest, others_answered: bool) -> TakeReply | None:
        reply = self._decided_here(requester, request)
        if others_answered and requester is not None and reply is not None and not reply.outcome.allowed:
            self._decided_here_until_us.put(requester.key, self._now_us() + DECIDED_HERE_US)
        return reply

    def _is_decided_here(self, requester: Requester | None) -> bool:
        """Whether a call for this client has just failed, and this worker's share of a limit refused it."""
        until_us = None if requester is None else self._decided_here_until_us.get(requester.key)
        return until_us is not None and self._now_us() < until_us

    def _decided_here(self, requester: Requester | None, request: TakeRequest) -> TakeReply | None:
        if requester is not None and request.prefetch:
            self._leases.answered(requester.key, None)
        return self._fallback.take_now(request.charges)

    def invalidate(self) -> None:
        """Forget refusals, leases and local buckets, and ignore the outcomes of calls under way."""
        self._invalidated_us = self._now_us()
        self._fallback.invalidate()
        self._known_tats.clear()
        self._leases.clear()
        self._decided_here_until_us.clear()

    def entries(self) -> Mapping[Table, int]:
        """The sizes of its tables."""
        return {
            Table.LEASES: len(self._leases.open),
            Table.KNOWN_REFUSALS: len(self._known_tats),
            **self._fallback.entries(),
        }

    async def aclose(self) -> None:
        """Give back leases and connections."""
        await self._leases.give_all_back()
        await self._fallback.aclose()
        await self._batch.aclose()


class LocalLimiter:
    """Takes charges of a fleet of one, whose buckets are in this process."""

    is_away = False

    def __init__(self, buckets: MemoryBuckets, clock: Clock = SYSTEM_CLOCK) -> None:
        self._buckets = buckets
        self._now_us = clock.now_us

    def take_now(self, requester: Requester, now_us: int) -> Outcome:
        """Take the charges, also those against limits that many clients share; never None."""
        return self._buckets.take_now(_all_charges(requester))

    def refused_now(self, requester: Requester, now_us: int) -> Outcome | None:
        """The refusal by the current state of the buckets; None if they have enough."""
        return self._buckets.refused_now(_all_charges(requester))

    async def take(self, requester: Requester, now_us: int) -> TakeReply:
        """As ``take_now``."""
        charges = _all_charges(requester)
        return TakeReply(charges, self._buckets.take_now(charges), now_us)

    async def look(self, requester: Requester, now_us: int) -> TakeReply | None:
        """Look at the buckets."""
        return await looked(_all_charges(requester), self)

    async def ask(self, charges: Charges) -> TakeReply:
        """As ``take``, for charges that belong to no request."""
        return TakeReply(charges, self._buckets.take_now(charges), self._now_us())

    def invalidate(self) -> None:
        """Nothing is known but the buckets themselves."""

    def entries(self) -> Mapping[Table, int]:
        """The number of buckets."""
        return {Table.MEMORY_BUCKETS: len(self._buckets)}

    async def aclose(self) -> None:
        """Nothing to give back."""


async def looked(charges: Charges, limiter: Limiter) -> TakeReply | None:
    """Whether charges would fit, by charges of cost 0."""
    reply = await limiter.ask(tuple([charge._replace(cost=0) for charge in charges]))
    if reply is None:
        return None
    costs = tuple([free._replace(cost=charge.cost) for free, charge in zip(reply.charges, charges, strict=True)])
    _, now_us, tats_us, *_ = reply.outcome
    fits = all(remaining(one.limit, tat_us - now_us) >= one.cost for one, tat_us in zip(costs, tats_us, strict=True))
    return TakeReply(costs, Outcome(fits, now_us, tats_us), reply.sent_us)


def _all_charges(requester: Requester) -> Charges:
    return requester.charges() + requester.plan.shared
