"""The gate: one request's facts in, one decision out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from shieldmw.core.bucket import Outcome
from shieldmw.core.cache import BoundedCache
from shieldmw.core.client import Identity
from shieldmw.core.decision import ALLOWED, Decision, OnStoreFailure, Reason, Verdict, combine
from shieldmw.core.facts import SOURCE_AND_TARGET, TARGET, Facts
from shieldmw.core.limits import US_PER_S
from shieldmw.core.made import made
from shieldmw.core.plan import AddressInfo, Plan, Requester
from shieldmw.core.routes import Route
from shieldmw.core.rules import Policy

from . import clock
from .auth.identity import GUEST, Identifier, Verified
from .events import Decided, Observer
from .fleet.deny_watch import DenyWatch
from .fleet.mode_watch import ModeWatch
from .limiter.batch import TakeReply
from .limiter.limiter import Limiter
from .limiter.lookups import Lookups, may_keep
from .overload.overload import Overload

# The cache of busy guests, which are recognised by their facts alone: its size; the slots of the table of recent guests
# (one is busy if its slot still holds it); and which part of a busy guest's requests add it to the cache. So clients
# that come a few times each replace few entries: long-lived objects cost the garbage collector time.
BUSY_KEPT = 1024
LATELY = 256
ONE_IN = 8


class Gate:
    """Decides requests. Observers are notified of refusals, and of those that a dry run lets pass."""

    def __init__(  # noqa: PLR0913  (all that a decision needs)
        self,
        policy: Policy,
        lookups: Lookups,
        identifier: Identifier,
        limiter: Limiter,
        *,
        on_store_failure: OnStoreFailure,
        dry_run: bool,
        observers: Sequence[Observer] = (),
        deny_list: DenyWatch,
        mode_watch: ModeWatch,
        overload: Overload | None = None,
        now_us: Callable[[], int] = clock.now_us,
    ) -> None:
        self._policy = policy
        self._lookups = lookups
        self._identifier = identifier
        self._limiter = limiter
        self._on_store_failure = on_store_failure
        self._dry_run = dry_run
        self._observers = tuple(observers)
        self._deny_list = deny_list
        self._mode_watch = mode_watch
        self._now_us = now_us
        self._overload = overload
        self._busy: BoundedCache[object, Requester] = BoundedCache(BUSY_KEPT)
        self._lately = [0] * LATELY
        self._repeated = 0

    def invalidate(self) -> None:
        """Forget what is known of buckets: a client's were reset, or the store has lost them."""
        self._limiter.invalidate()

    async def decide(self, facts: Facts) -> Decision:
        """The decision on one request."""
        decision = self.decide_now(facts)
        return decision if isinstance(decision, Decision) else await decision

    def decide_now(self, facts: Facts) -> Decision | Awaitable[Decision]:
        """The decision, made without a task, a future or a lock; if that is not possible, what to await for it."""
        is_guest = facts.credential is None and facts.authenticate is None
        if is_guest and self._busy:
            who = self._busy.get(facts[SOURCE_AND_TARGET])
            if who is not None and who.plan.mode is self._mode_watch.mode and not self._deny_list.entries.entries:
                return self._take(facts, who)
        lookups = self._lookups
        route = lookups.routes.get(facts[TARGET]) or lookups.route_at_hand(facts)
        address_info = lookups.address_info(facts)
        if route is None:
            return self._path_last(facts, address_info)
        if route.exempt or address_info.denied or self._deny_list.entries.entries:
            for_anyone = self._decided_for_anyone(address_info, route)
            if for_anyone is not None:
                return self.announce(facts, for_anyone)
        if is_guest:
            return self._charge(facts, address_info, route, GUEST)
        verified = self._identifier.identify_now(facts)
        if verified is None:
            return self._identify(facts, address_info, route)
        return self._charge(facts, address_info, route, verified)

    def _path_last(self, facts: Facts, address_info: AddressInfo) -> Decision | Awaitable[Decision]:
        """The decision on a path that is slow to parse: it is not parsed for clients that are refused on any path."""
        route = self._lookups.route(facts) if self._policy.may_be_exempt(facts) else None
        for_anyone = self._decided_for_anyone(address_info, route)
        if for_anyone is not None:
            return self.announce(facts, for_anyone)
        verified = self._identifier.identify_now(facts)
        if verified is None:
            return self._identify(facts, address_info, route)
        return self._on(route, facts, address_info, verified)

    def _decided_for_anyone(self, address_info: AddressInfo, route: Route | None) -> Decision | None:
        """The decision if it does not depend on the client's identity; None for a route that is not known yet."""
        mode, address = self._mode_watch.mode, address_info.address
        if address_info.denied:
            return Decision(Verdict.REFUSED, Reason.DENY_LIST, address, mode=mode)
        if self._deny_list.entries.entries and (left_s := self._deny_list.left_s(address)) > 0:
            left_us = int(left_s * US_PER_S)
            return Decision(Verdict.REFUSED, Reason.DENY_LIST, address, retry_after_us=left_us, mode=mode)
        exempt = route is not None and route.exempt
        return Decision(Verdict.ALLOWED, Reason.EXEMPT, address, mode=mode) if exempt else None

    async def _identify(self, facts: Facts, address_info: AddressInfo, route: Route | None) -> Decision:
        verified = await self._identifier.identify(facts, self._lookups.clients(address_info.address))
        decision = self._on(route, facts, address_info, verified)
        return decision if isinstance(decision, Decision) else await decision

    def _on(
        self, route: Route | None, facts: Facts, address_info: AddressInfo, verified: Verified
    ) -> Decision | Awaitable[Decision]:
        """The decision on this route; None: it is worked out only if it can matter to the client."""
        if route is None:
            refusal = self._refused_anywhere(facts, address_info, verified)
            if refusal is not None:
                return refusal
            route = self._lookups.route(facts)
        return self._charge(facts, address_info, route, verified)

    def _refused_anywhere(self, facts: Facts, address_info: AddressInfo, verified: Verified) -> Decision | None:
        """The refusal of a client whose default limits, which every path is charged to, are exhausted.

        The rules of the path are not considered, nor leases opened on paths with rules.
        """
        if self._dry_run or address_info.allowed or not self._policy.charges_everywhere():
            return None
        route = self._lookups.any_preflight if facts.preflight else self._lookups.any_path
        plan = route.plan(self._mode_watch.mode, verified.identity, has_site=address_info.site is not None)
        if not plan.terms:
            return None
        now_us = self._now_us()
        who = plan.requester(address_info, verified.identity, verified.subject)
        outcome = self._limiter.refused_now(who, now_us)
        return None if outcome is None else self._refused(facts, who, outcome)

    def _charge(
        self, facts: Facts, address_info: AddressInfo, route: Route, verified: Verified
    ) -> Decision | Awaitable[Decision]:
        """The decision once the client is identified."""
        site, identity = address_info.site, verified.identity
        plan = route.plan(self._mode_watch.mode, identity, has_site=site is not None)
        if plan.closed or address_info.allowed or not plan.terms:
            return self._uncharged(facts, address_info, plan, identity)
        who = plan.requester(address_info, identity, verified.subject)
        if facts.credential is None and facts.authenticate is None and plan.own:
            self._note(facts, who)
        return self._take(facts, who)

    def _note(self, facts: Facts, who: Requester) -> None:
        """Recognise a guest from now on if it comes again and again."""
        number = hash(who.key)
        if self._lately[number % LATELY] != number:
            self._lately[number % LATELY] = number
            return
        self._repeated += 1
        if self._repeated % ONE_IN == 0 and may_keep(facts):
            self._busy.put(facts[SOURCE_AND_TARGET], who)

    def _take(self, facts: Facts, who: Requester) -> Decision | Awaitable[Decision]:
        """The decision on a request whose limits are to be charged."""
        plan, now_us = who.plan, self._now_us()
        if self._overload is not None and self._overload.lane.waiting:
            refusal = self._refused_uncharged(self._overload, facts, who, now_us)
            if refusal is not None:
                return refusal
        outcome = self._limiter.take_now(who, now_us)
        if outcome is None:
            return self._ask_store(facts, who, now_us)
        if not outcome.allowed:
            return self._refused(facts, who, outcome)
        decision = combine(plan.terms, outcome, who.address_info.address, who.identity, plan.mode, plan.live)
        return self.announce(facts, decision) if self._dry_run else decision

    def _uncharged(self, facts: Facts, address_info: AddressInfo, plan: Plan, identity: Identity | None) -> Decision:
        """The decision on a request that no limit is charged for."""
        if plan.closed:
            address, wait_us = address_info.address, self._mode_watch.retry_after_us
            closed = Decision(
                Verdict.REFUSED, Reason.EMERGENCY, address, identity, retry_after_us=wait_us, mode=plan.mode
            )
            return self.announce(facts, closed)
        reason = Reason.ALLOW_LIST if address_info.allowed else Reason.UNLIMITED
        return self.announce(facts, _passes(plan, address_info, identity, reason))

    def _refused_uncharged(
        self, overload: Overload, facts: Facts, who: Requester, now_us: int
    ) -> Decision | Awaitable[Decision] | None:
        """The refusal of a client that is known to be refused, or that of a saturated app."""
        outcome = self._limiter.refused_now(who, now_us)
        if outcome is not None:
            return self._refused(facts, who, outcome)
        address, identity = who.address_info.address, who.identity
        rank = overload.sheds(facts, identity, address)
        return None if rank is None else overload.shed(facts, rank, identity, address, who.plan.mode)

    async def _ask_store(self, facts: Facts, who: Requester, now_us: int) -> Decision:
        told = await self._limiter.take(who, now_us)
        if told is not None:
            return self._told(facts, who, told)
        plan, address_info, identity = who.plan, who.address_info, who.identity
        if self._on_store_failure is OnStoreFailure.OPEN:
            return self.announce(facts, _passes(plan, address_info, identity, Reason.STORE_OPEN))
        closed = Decision(Verdict.REFUSED, Reason.STORE_CLOSED, address_info.address, identity, mode=plan.mode)
        return self.announce(facts, closed)

    def _told(self, facts: Facts, who: Requester, told: TakeReply) -> Decision:
        """The decision that follows from the store's reply, or from this worker's share of the limits."""
        charges, outcome, sent_us = told
        if sent_us is not None and not outcome.allowed:
            return self._refused(facts, who, outcome)
        terms = who.plan.terms if sent_us is not None else charges
        decision = combine(terms, outcome, who.address_info.address, who.identity, who.plan.mode, who.plan.live)
        return self.announce(facts, decision)

    def _refused(self, facts: Facts, who: Requester, outcome: Outcome) -> Decision:
        return self.announce(facts, who.plan.refusals.decision(outcome, who.address_info.address, who.identity))

    def announce(self, facts: Facts, decision: Decision) -> Decision:
        """The decision as it is given; observers are notified of refusals, and of those that a dry run lets pass."""
        if self._dry_run:
            decision = _in_dry_run(decision)
        if self._observers and decision.verdict is not ALLOWED:
            event = made(Decided, (facts, decision))
            for observer in self._observers:
                observer.decided(event)
        return decision


def _passes(plan: Plan, address_info: AddressInfo, identity: Identity | None, reason: Reason) -> Decision:
    return Decision(Verdict.ALLOWED, reason, address_info.address, identity, mode=plan.mode, live=plan.live)


def _in_dry_run(decision: Decision) -> Decision:
    """The same for observers, but with nothing that a client could notice."""
    if decision.refused:
        return decision._replace(verdict=Verdict.DRY_RUN)
    return decision._replace(charges=(), outcome=None)
