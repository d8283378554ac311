"""Charges the limits that many clients share before the client's own: a request is charged all of them or none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping

from shieldmw.core.bucket import Charges, Outcome, joined
from shieldmw.core.cache import BoundedCache
from shieldmw.core.made import made
from shieldmw.core.metrics import Table
from shieldmw.core.plan import Plan, Requester
from shieldmw.core.rules import Policy
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock

from .batch import TakeReply
from .limiter import Limiter, looked
from .pool import SharedReply
from .shared_limits import PooledCharges, SharedLimits

# Plans whose shared charges are cached.
PLANS_KEPT = 1024


class SharingLimiter:
    """A limiter of all limits: the shared ones first, then the clients' own by another limiter.

    A request that any limit refuses is charged to none: a client known to be refused is refused first, a request that a
    shared limit refuses goes no further, and one that the client's own limits refuse is refunded.

    An outcome has the TATs of all terms of the plan. A bucket that was not queried is assumed to be full, so it is
    never the one nearest to exhaustion.
    """

    def __init__(self, own: Limiter, shared: SharedLimits, clock: Clock = SYSTEM_CLOCK) -> None:
        self._own = own
        self._shared = shared
        self._now_us = clock.now_us
        self._by_plan: BoundedCache[Plan, PooledCharges] = BoundedCache(PLANS_KEPT)

    @property
    def own(self) -> Limiter:
        """The limiter of the clients' own limits."""
        return self._own

    @property
    def is_away(self) -> bool:
        """Whether the store is away, so that charges are decided locally."""
        return self._own.is_away

    def take_now(self, requester: Requester, now_us: int) -> Outcome | None:
        """The outcome if it needs no call: spends units held here, or refuses by what is known."""
        plan = requester.plan
        if not plan.shared:
            return self._own.take_now(requester, now_us)
        known = self._own.refused_now(requester, now_us) if plan.own else None
        if known is not None:
            return _refused_by_own(plan, known)
        shared = self._charges_of(plan)
        tats_us = shared.spend(now_us)
        if tats_us is None:
            refusal = shared.refused_now(now_us)
            return None if refusal is None else _refused_by_shared(plan, refusal)
        if not plan.own:
            return made(Outcome, (True, now_us, tats_us, 0, 0))
        outcome = self._own.take_now(requester, now_us)
        if outcome is not None and outcome.allowed:
            return made(Outcome, (True, outcome.now_us, outcome.tats_us + tats_us, 0, 0))
        shared.undo()
        return None if outcome is None else _refused_by_own(plan, outcome)

    def refused_now(self, requester: Requester, now_us: int) -> Outcome | None:
        """The refusal if it is known without a call; spends nothing."""
        plan = requester.plan
        outcome = self._own.refused_now(requester, now_us) if plan.own else None
        if not plan.shared:
            return outcome
        if outcome is not None:
            return _refused_by_own(plan, outcome)
        refusal = self._charges_of(plan).refused_now(now_us)
        return None if refusal is None else _refused_by_shared(plan, refusal)

    def take(self, requester: Requester, now_us: int) -> Awaitable[TakeReply | None]:
        """The outcome with a call to the store; None if it is away and there is no fallback."""
        return self._take_both(requester) if requester.plan.shared else self._own.take(requester, now_us)

    async def _take_both(self, requester: Requester) -> TakeReply | None:
        plan = requester.plan
        taken = await self._charges_of(plan).take()
        if taken is None:
            return None
        if taken.outcome.allowed:
            return await self._take_behind(requester, taken)
        if taken.by_share:
            return TakeReply(taken.charges, taken.outcome, None)
        return TakeReply(taken.charges, _refused_by_shared(plan, taken), self._now_us())

    async def _take_behind(self, requester: Requester, taken: SharedReply) -> TakeReply | None:
        """Take the client's own charges, after the shared ones."""
        plan, now_us = requester.plan, self._now_us()
        if not plan.own:
            sent_us = None if taken.by_share else now_us
            return TakeReply(taken.charges, taken.outcome, sent_us)
        reply = await self._take_own(requester, taken, now_us)
        if reply is None:  # the store is away and there is no fallback: nothing of this request is charged
            taken.refund()
            return None
        charges, outcome, sent_us = reply
        if outcome.allowed:
            both = joined([outcome, taken.outcome])
            return TakeReply((*charges, *taken.charges), both, None if taken.by_share else sent_us)
        taken.refund()
        return reply if sent_us is None else TakeReply(charges, _refused_by_own(plan, outcome), sent_us)

    async def _take_own(self, requester: Requester, taken: SharedReply, now_us: int) -> TakeReply | None:
        outcome = self._own.take_now(requester, now_us)
        if outcome is not None:
            return TakeReply(requester.charges(), outcome, now_us)
        try:
            return await self._own.take(requester, now_us)
        except asyncio.CancelledError:
            taken.refund()
            raise

    async def look(self, requester: Requester, now_us: int) -> TakeReply | None:
        """Whether a request would be admitted: the first limit that would refuse it, or all of them."""
        plan = requester.plan
        own = await self._own.look(requester, now_us) if plan.own else None
        if not plan.shared or (plan.own and (own is None or not own.outcome.allowed)):
            return own
        shared = await self._look_at_shared(plan)
        if own is None or shared is None or not shared.outcome.allowed:
            return shared
        return TakeReply((*own.charges, *shared.charges), joined([own.outcome, shared.outcome]), own.sent_us)

    async def _look_at_shared(self, plan: Plan) -> TakeReply | None:
        """The same for the shared limits."""
        now_us, shared = self._now_us(), self._charges_of(plan)
        outcome = shared.look(now_us)
        if outcome is not None:
            return TakeReply(shared.charges, outcome, now_us)
        refusal = shared.refused_now(now_us)
        if refusal is not None:
            return TakeReply(refusal.charges, refusal.outcome, now_us)
        return await looked(shared.charges, self._own)

    def ask(self, charges: Charges) -> Awaitable[TakeReply | None]:
        """The outcome of charges that belong to no request, by the store's buckets: units held here count as spent."""
        return self._own.ask(charges)

    def invalidate(self) -> None:
        """Forget what is known of buckets, because some were reset or lost."""
        self._shared.invalidate()
        self._own.invalidate()

    def entries(self) -> Mapping[Table, int]:
        """The sizes of the other limiter's tables; there are few shared limits."""
        return self._own.entries()

    async def aclose(self) -> None:
        """Give back portions and leases, and close connections."""
        await self._shared.aclose()
        await self._own.aclose()

    def _charges_of(self, plan: Plan) -> PooledCharges:
        charges = self._by_plan.get(plan)
        if charges is None:
            charges = self._shared.of(plan.shared)
            self._by_plan.put(plan, charges)
        return charges


def cheapest(limiter: Limiter, policy: Policy) -> Limiter:
    """The limiter without its part for shared limits if the policy has none: a call less for each request."""
    if isinstance(limiter, SharingLimiter) and not policy.has_shared_limits:
        return limiter.own
    return limiter


def _refused_by_own(plan: Plan, outcome: Outcome) -> Outcome:
    full = (outcome.now_us,) * len(plan.shared)
    return made(Outcome, (False, outcome.now_us, outcome.tats_us + full, 0, 0))


def _refused_by_shared(plan: Plan, refusal: SharedReply) -> Outcome:
    now_us = refusal.outcome.now_us
    tats_us = [now_us] * len(plan.terms)
    at = len(plan.own) + plan.shared.index(refusal.charges[0])
    tats_us[at : at + len(refusal.charges)] = refusal.outcome.tats_us
    return made(Outcome, (False, now_us, tuple(tats_us), 0, 0))
