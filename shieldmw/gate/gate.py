"""The gate: one request's facts in, one decision out."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from copy import copy

from shieldmw.core.bucket import Outcome
from shieldmw.core.client import Address, Identity
from shieldmw.core.decision import ALLOWED, REFUSED, Decision, OnStoreFailure, Reason, Verdict, combine
from shieldmw.core.facts import TARGET, Facts
from shieldmw.core.plan import Plan, Requester
from shieldmw.core.routes import Route
from shieldmw.core.rules import Policy

from .auth.identity import GUEST, Identified, Identifier
from .clock import SYSTEM_CLOCK, Clock
from .events import Observer
from .fleet.deny_watch import DenyWatch
from .fleet.mode_watch import ModeWatch
from .limiter.batch import TakeReply
from .limiter.limiter import Limiter
from .limiter.lookups import Lookups
from .metrics.counts import UNREAD, Counts
from .overload.overload import Overload


class Gate:
    """Decides requests. Observers are notified of refusals, including those that a dry run lets pass."""

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
        clock: Clock = SYSTEM_CLOCK,
        counts: Counts = UNREAD,
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
        self._now_us = clock.now_us
        self._overload = overload
        self._counts = counts
        self._allows, self._denies = bool(policy.allow), bool(policy.deny)

    def use(self, policy: Policy, limiter: Limiter) -> None:
        """Decide by this policy and limiter from now on; the lists of networks must be the same."""
        self._policy = policy
        self._limiter = limiter

    def beside_lane(self) -> Gate:
        """The same gate for requests that do not enter the app: they are not shed for its load."""
        gate = copy(self)
        gate._overload = None
        return gate

    async def decide(self, facts: Facts) -> Decision:
        """The decision on one request."""
        decision = self.decide_now(facts)
        return decision if isinstance(decision, Decision) else await decision

    def decide_now(self, facts: Facts) -> Decision | Awaitable[Decision]:
        """The decision, made without a task, a future or a lock; if that is not possible, what to await for it."""
        lookups = self._lookups
        route = lookups.routes.young.get(facts[TARGET]) or lookups.cheap_route(facts)
        address = lookups.address(facts)
        if route is None and self._policy.may_be_exempt(facts):
            route = lookups.route(facts)
        if route is None or route.exempt or self._denies or self._deny_list.deny_list.entries:
            for_anyone = self.decided_for_anyone(address, route)
            if for_anyone is not None:
                return self.announce(facts, for_anyone)
        if facts.credential is None and facts.authenticate is None:
            return self._charge(facts, address, route, GUEST)
        verified = self._identifier.identify_now(facts)
        if verified is None:
            return self._identify(facts, address, route)
        return self._charge(facts, address, route, verified)

    def decided_for_anyone(self, address: Address | None, route: Route | None) -> Decision | None:
        """The decision if it does not depend on the client's identity; None for a route that is not known yet."""
        mode = self._mode_watch.mode
        if address in self._policy.deny:
            return Decision(Verdict.REFUSED, Reason.DENY_LIST, address, mode=mode)
        if left_us := self._deny_list.left_us(address):
            return Decision(Verdict.REFUSED, Reason.DENY_LIST, address, retry_after_us=left_us, mode=mode)
        exempt = route is not None and route.exempt
        return Decision(Verdict.ALLOWED, Reason.EXEMPT, address, mode=mode) if exempt else None

    async def _identify(self, facts: Facts, address: Address | None, route: Route | None) -> Decision:
        verified = await self._identifier.identify(facts, self._lookups.clients(address))
        decision = self._charge(facts, address, route, verified)
        return decision if isinstance(decision, Decision) else await decision

    def _refused_anywhere(self, facts: Facts, address: Address | None, verified: Identified) -> Decision | None:
        """The refusal of a client whose default limits, which every path is charged to, are exhausted.

        The rules of the path are not considered, nor leases opened on paths with rules.
        """
        if self._dry_run or not self._policy.charges_everywhere():
            return None
        if self._allows and self._lookups.is_allowed(facts, address):
            return None
        route = self._lookups.any_preflight if facts.preflight else self._lookups.any_path
        plan = route.plan(self._mode_watch.mode, verified.identity, address)
        if not plan.terms:
            return None
        requester = plan.requester(address, verified.identity, verified.subject)
        outcome = self._limiter.refused_now(requester, self._now_us())
        return None if outcome is None else self._refused(facts, requester, outcome)

    def _charge(
        self, facts: Facts, address: Address | None, route: Route | None, verified: Identified
    ) -> Decision | Awaitable[Decision]:
        """The decision once the client is identified. A path that is slow to parse (no route) is parsed only now, and
        not for clients that are refused on any path.
        """
        if route is None:
            refusal = self._refused_anywhere(facts, address, verified)
            if refusal is not None:
                return refusal
            route = self._lookups.route(facts)
        identity = verified.identity
        plan = route.plan(self._mode_watch.mode, identity, address)
        is_allowed = self._allows and self._lookups.is_allowed(facts, address)
        if plan.closed or is_allowed or not plan.terms:
            return self._uncharged(facts, address, route, plan, verified, is_allowed=is_allowed)
        requester, now_us = plan.requester(address, identity, verified.subject), self._now_us()
        if self._overload is not None and self._overload.lane.waiting:
            refused = self._refused_uncharged(self._overload, facts, requester, now_us)
            if refused is not None:
                return refused
        outcome = self._limiter.take_now(requester, now_us)
        if outcome is None:
            return self._ask_store(facts, requester, now_us)
        if not outcome.allowed:
            return self._refused(facts, requester, outcome)
        decision = combine(plan.terms, outcome, address, identity, plan.mode, plan.live, plan.lease_s)
        return self.announce(facts, decision) if self._dry_run else decision

    async def _try(self, facts: Facts, address: Address | None, route: Route, verified: Identified) -> Decision:
        """The decision without the rules in dry run. If the request passes, they are charged, and observers are
        notified of what they would refuse.
        """
        decided = self._charge(facts, address, route.enforced, verified)
        decision = decided if isinstance(decided, Decision) else await decided
        if decision.verdict is REFUSED or route.trial is None:
            return decision
        plan = route.trial.plan(self._mode_watch.mode, verified.identity, address)
        requester, now_us = plan.requester(address, verified.identity, verified.subject), self._now_us()
        if plan.closed:
            self._notify(facts, self._closed(plan, address, verified.identity))
        elif plan.terms:
            outcome = self._limiter.take_now(requester, now_us)
            if outcome is None:
                reply = await self._limiter.take(requester, now_us)
                outcome = None if reply is None else reply.outcome
            if outcome is not None and not outcome.allowed:
                self._notify(facts, plan.refusals.decision(outcome, address, verified.identity))
        return decision

    def _notify(self, facts: Facts, refusal: Decision) -> None:
        """Notify observers of what a rule in dry run would have refused."""
        for observer in self._observers:
            observer.decided(facts, in_dry_run(refusal))

    def _uncharged(
        self,
        facts: Facts,
        address: Address | None,
        route: Route,
        plan: Plan,
        verified: Identified,
        *,
        is_allowed: bool,
    ) -> Decision | Awaitable[Decision]:
        """The decision on a request that this plan charges nothing."""
        if route.trial is not None and not is_allowed:
            return self._try(facts, address, route, verified)
        identity = verified.identity
        if plan.closed:
            return self.announce(facts, self._closed(plan, address, identity))
        reason = Reason.ALLOW_LIST if is_allowed else Reason.UNLIMITED
        return self.announce(facts, _passes(plan, address, identity, reason))

    def _closed(self, plan: Plan, address: Address | None, identity: Identity | None) -> Decision:
        """The refusal on a path that is closed to the client in an emergency."""
        return Decision(
            Verdict.REFUSED,
            Reason.EMERGENCY,
            address,
            identity,
            retry_after_us=self._mode_watch.retry_after_us,
            mode=plan.mode,
            lease_s=plan.lease_s,
        )

    def _refused_uncharged(
        self, overload: Overload, facts: Facts, requester: Requester, now_us: int
    ) -> Decision | Awaitable[Decision] | None:
        """The refusal of a client that is known to be refused, or that of a saturated app."""
        outcome = self._limiter.refused_now(requester, now_us)
        if outcome is not None:
            return self._refused(facts, requester, outcome)
        return overload.shed_now(facts, requester)

    async def _ask_store(self, facts: Facts, requester: Requester, now_us: int) -> Decision:
        reply = await self._limiter.take(requester, now_us)
        self._counts.decided_by_store(self._now_us() - now_us)
        if reply is not None:
            return self._answered(facts, requester, reply)
        plan, address, identity, *_ = requester
        if self._on_store_failure is OnStoreFailure.OPEN:
            return self.announce(facts, _passes(plan, address, identity, Reason.STORE_OPEN))
        closed = Decision(Verdict.REFUSED, Reason.STORE_CLOSED, address, identity, mode=plan.mode)
        return self.announce(facts, closed)

    def _answered(self, facts: Facts, requester: Requester, reply: TakeReply) -> Decision:
        """The decision that follows from the store's reply, or from this worker's share of the limits."""
        charges, outcome, sent_us = reply
        if sent_us is not None and not outcome.allowed:
            return self._refused(facts, requester, outcome)
        plan, address, identity, *_ = requester
        terms = plan.terms if sent_us is not None else charges
        return self.announce(facts, combine(terms, outcome, address, identity, plan.mode, plan.live, plan.lease_s))

    def _refused(self, facts: Facts, requester: Requester, outcome: Outcome) -> Decision:
        plan, address, identity, *_ = requester
        return self.announce(facts, plan.refusals.decision(outcome, address, identity))

    def announce(self, facts: Facts, decision: Decision) -> Decision:
        """The decision to act on: in a dry run a refusal becomes a pass. Observers are notified of both."""
        if self._dry_run:
            decision = in_dry_run(decision)
        if decision.verdict is not ALLOWED:
            for observer in self._observers:
                observer.decided(facts, decision)
        return decision


def _passes(plan: Plan, address: Address | None, identity: Identity | None, reason: Reason) -> Decision:
    return Decision(Verdict.ALLOWED, reason, address, identity, mode=plan.mode, live=plan.live, lease_s=plan.lease_s)


def in_dry_run(decision: Decision) -> Decision:
    """The decision in a dry run: a refusal passes as ``DRY_RUN``; others lose the charges that headers would show."""
    if decision.refused:
        return decision._replace(verdict=Verdict.DRY_RUN)
    return decision._replace(charges=(), outcome=None)
