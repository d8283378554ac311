"""Decides requests that a door describes by keys and values, such as Envoy's rate limit descriptors.

A description contains no credential, so an address in it is a guest's.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

from shieldmw.core.bucket import Charges, remaining
from shieldmw.core.client import Address, Identity
from shieldmw.core.decision import Decision, OnStoreFailure, Reason, Verdict, combine
from shieldmw.core.facts import Facts
from shieldmw.core.limits import Limit
from shieldmw.core.paths import served
from shieldmw.core.plan import DescribedRequester, Requester
from shieldmw.core.rules import Per, RouteRules, Rule
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock

from .fleet.mode_watch import ModeWatch
from .gate import Gate, in_dry_run
from .limiter.batch import TakeReply
from .limiter.limiter import Limiter
from .limiter.lookups import Lookups
from .log_throttle import LogThrottle

log = logging.getLogger(__name__)

# Keys that describe a request, and those whose value is the name of a rule.
ADDRESS, PATH, METHOD = "remote_address", "path", "method"
NAMES_A_RULE = frozenset(("generic_key", "header_match", "query_match"))

# Characters of an unknown description that are shown in the log.
LONGEST_SHOWN = 200

# Stands for all clients that are described by values: their limits are those that a verified subject has.
_ANYBODY = Identity("anybody")

Entries = Sequence[tuple[str, str]]


class _Described(NamedTuple):
    """A parsed description. ``whose`` are the remaining entries; each combination of their values is one client."""

    address: str | None
    path: str | None
    method: str
    is_named: bool
    rule: Rule | None
    whose: Sequence[tuple[str, str]]


class NamedLimits:
    """Charges the limits that a description means: see ``decide``."""

    def __init__(
        self,
        gate: Gate,
        lookups: Lookups,
        limiter: Limiter,
        mode_watch: ModeWatch,
        *,
        on_store_failure: OnStoreFailure,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._gate = gate
        self._lookups = lookups
        self._limiter = limiter
        self._mode_watch = mode_watch
        self._on_store_failure = on_store_failure
        self._now_us = clock.now_us
        self._unknown = LogThrottle(clock.now_s)

    async def decide(self, domain: str, entries: Entries, hits: int) -> Decision | None:
        """The decision on ``hits`` requests of one description; None if it means no limit.

        ``remote_address``, and ``path`` with ``method`` (GET if it is missing): as a guest's request. A path alone: the
        limits of its rules, which all requests share. ``generic_key``, ``header_match``, ``query_match``, or a key that
        is a rule's name: the limits of that rule, and of the last one if there are several; all other entries together
        say whose they are. If there are none, all requests share them.

        One hit is charged as a request is, without a call to the store if the client is hot. With 0 hits nothing is
        charged, and the decision is that on one more hit. Several hits are charged to the store's buckets; if they do
        not fit, they empty them, since they may have happened already.
        """
        described = self._read(entries)
        facts, shown = _facts(described), self.facts(entries)
        address = None if described.address is None else self._lookups.address(facts)
        if address is not None:
            for_anyone = self._gate.decided_for_anyone(address, None)
            if for_anyone is not None:
                return self._gate.announce(shown, for_anyone)
            if self._lookups.is_allowed(facts, address):
                return None
        requester = self._requester(domain, described, facts, address)
        if requester is None or not (requester.plan.terms or requester.plan.closed):
            self._log_unknown(_text(entries), is_known=described.rule is not None or not described.is_named)
            return None
        decision = await self._charge(requester, hits)
        is_tried = described.rule is not None and described.rule.dry_run
        return self._gate.announce(shown, in_dry_run(decision) if is_tried else decision)

    def facts(self, entries: Entries) -> Facts:
        """The request of a description, for counts and logs: without a path, the whole text takes its place."""
        described = self._read(entries)
        facts = _facts(described)
        return facts if described.path else facts._replace(path=_text(entries))

    def _read(self, entries: Entries) -> _Described:
        address = path = rule = None
        method, is_named, whose = "GET", False, []
        for key, value in entries:
            if key == ADDRESS:
                address = value
            elif key == PATH:
                path = served(value.partition("?")[0].encode())
            elif key == METHOD:
                method = value
            else:
                is_named = True
                name = value if key in NAMES_A_RULE else key
                rule = self._lookups.rule(name) or rule
                if key not in NAMES_A_RULE:
                    whose.append((key, value))
        return _Described(address, path, method, is_named, rule, whose)

    def _requester(self, domain: str, described: _Described, facts: Facts, address: Address | None) -> Requester | None:
        """Whom a hit is charged to, under which plan; None if there is no limit."""
        if described.is_named:
            return None if described.rule is None else self._named(described.rule, domain, described, address)
        if described.address is not None:
            # A guest's request; if the description has no path, what it is charged on any path.
            route = self._lookups.any_path if described.path is None else self._lookups.enforced_route(facts)
            if route.exempt:
                return None
            return route.plan(self._mode_watch.mode, None, address).requester(address, None, b"")
        if described.path is None:
            return None
        rules = self._lookups.enforced_route(facts).route_rules
        return self._alone(RouteRules(shared=_shared(Per.EVERYONE, rules.limits, rules.cost) + rules.shared))

    def _named(self, rule: Rule, domain: str, described: _Described, address: Address | None) -> Requester:
        """Whom a hit on the limits of one rule is charged to."""
        if rule.per is not Per.CLIENT:
            return self._alone(RouteRules(shared=_shared(rule.per, rule.limits, rule.cost)))
        if described.address is None and not described.whose:
            return self._alone(RouteRules(shared=_shared(Per.EVERYONE, rule.limits, rule.cost)))
        rules = RouteRules(limits=rule.limits, cost=rule.cost)
        if not described.whose:
            return self._alone(rules, address)
        network = None if described.address is None else str(self._lookups.clients(address).network)
        # As JSON: values come from clients, and none may look like another entry. The digests of verified subjects are
        # others, even if their text is the same.
        text = json.dumps([domain, network, described.whose])
        digest = blake2b(text.encode(), digest_size=16, person=b"described").digest()
        plan = self._lookups.route_of_rules(rules).plan(self._mode_watch.mode, _ANYBODY, None)
        return DescribedRequester(*plan.requester(None, None, digest))

    def _alone(self, rules: RouteRules, address: Address | None = None) -> Requester:
        """The client at an address, or all clients together, under these rules alone."""
        route = self._lookups.route_of_rules(rules)
        return route.plan(self._mode_watch.mode, None, address).requester(address, None, b"")

    async def _charge(self, requester: Requester, hits: int) -> Decision:
        plan, address, now_us = requester.plan, requester.address, self._now_us()
        if plan.closed:
            wait_us = self._mode_watch.retry_after_us
            return Decision(Verdict.REFUSED, Reason.EMERGENCY, address, retry_after_us=wait_us, mode=plan.mode)
        if hits != 1:
            several = self._limiter.look(requester, now_us) if not hits else self._charge_several(requester, hits)
            reply = await several
            if reply is not None:
                return combine(reply.charges, reply.outcome, address, None, plan.mode)
            return self._without_store(requester)
        outcome = self._limiter.take_now(requester, now_us)
        if outcome is not None:
            return combine(plan.terms, outcome, address, None, plan.mode)
        reply = await self._limiter.take(requester, now_us)
        if reply is None:
            return self._without_store(requester)
        terms = plan.terms if reply.sent_us is not None else reply.charges  # or this worker's share of the limits
        return combine(terms, reply.outcome, address, None, plan.mode)

    async def _charge_several(self, requester: Requester, hits: int) -> TakeReply | None:
        """Charge several hits, or empty the buckets. More than a bucket ever holds do not fit."""
        charges = requester.charges() + requester.plan.shared
        wanted = tuple([charge._replace(cost=min(charge.cost * hits, charge.limit.burst)) for charge in charges])
        reply = await self._limiter.ask(wanted)
        if reply is None:
            return None
        if not reply.outcome.allowed:
            await self._limiter.ask(_rest(reply))
        elif any(charge.cost * hits > charge.limit.burst for charge in charges):
            return reply._replace(outcome=reply.outcome._replace(allowed=False))
        return reply

    def _without_store(self, requester: Requester) -> Decision:
        """The decision while the store is away and there is no fallback."""
        plan, address, *_ = requester
        if self._on_store_failure is OnStoreFailure.OPEN:
            return Decision(Verdict.ALLOWED, Reason.STORE_OPEN, address, mode=plan.mode)
        return Decision(Verdict.REFUSED, Reason.STORE_CLOSED, address, mode=plan.mode)

    def _log_unknown(self, text: str, *, is_known: bool) -> None:
        """Count a description that names no rule: a mistake in the configuration of one side."""
        if not is_known and (counts := self._unknown.due("unknown")) is not None:
            log.warning(
                "descriptors that name no rule of SHIELD_RULES pass without a limit: %s; the last: %s",
                counts,
                ascii(text[:LONGEST_SHOWN]),
            )


def _facts(described: _Described) -> Facts:
    path = described.path or ""
    return Facts(described.address, path, path, frozenset((described.method.upper(),)))


def _text(entries: Entries) -> str:
    return ", ".join(f"{key}={value}" for key, value in entries)


def _shared(per: Per, limits: Sequence[Limit], cost: int) -> tuple[tuple[Per, Limit, int], ...]:
    """Limits that many share, as in ``RouteRules``; the buckets are those of rules with this ``per``."""
    return tuple([(per, limit, cost) for limit in limits])


def _rest(reply: TakeReply) -> Charges:
    """Charges for what the buckets still hold, if that is less than was requested."""
    charges, (_, now_us, tats_us, *_), _ = reply
    lefts = [remaining(charge.limit, tat_us - now_us) for charge, tat_us in zip(charges, tats_us, strict=True)]
    return tuple([charge._replace(cost=min(charge.cost, left)) for charge, left in zip(charges, lefts, strict=True)])
