"""Decides requests that a door describes by keys and values, such as Envoy's rate limit descriptors.

A description contains no credential, so an address in it is a guest's.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote

from shieldmw.core.bucket import Charge, Charges, Outcome, remaining
from shieldmw.core.client import Address, Client, shared_client
from shieldmw.core.decision import Decision, OnStoreFailure, Reason, Verdict, combine
from shieldmw.core.facts import Facts
from shieldmw.core.limits import Limit
from shieldmw.core.rules import Per, Policy, Rule
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock

from .fleet.mode_watch import ModeWatch
from .gate import Gate, in_dry_run
from .limiter.limiter import Limiter
from .limiter.lookups import Lookups
from .log_throttle import LogThrottle

log = logging.getLogger(__name__)

# Keys that describe a request, and those whose value is the name of a rule.
ADDRESS, PATH, METHOD = "remote_address", "path", "method"
NAMES_A_RULE = frozenset(("generic_key", "header_match", "query_match"))

# Characters of an unknown description that are shown in the log.
LONGEST_SHOWN = 200

Entries = Sequence[tuple[str, str]]


class _Described(NamedTuple):
    """A parsed description. ``whose`` are the remaining entries; each combination of their values is one client."""

    address: str | None
    path: str | None
    method: str
    is_named: bool
    rule: Rule | None
    whose: str


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
        self._unknown = LogThrottle(clock.now_s)

    async def decide(self, domain: str, entries: Entries, hits: int) -> Decision | None:
        """The decision on ``hits`` requests of one description; None if it means no limit.

        ``remote_address``, and ``path`` with ``method`` (GET if it is missing): as a guest's request. A path alone: the
        limits of its rules, which all requests share. ``generic_key``, ``header_match``, ``query_match``, or a key that
        is a rule's name: the limits of that rule, and of the last one if there are several; all other entries together
        say whose they are. If there are none, all requests share them.

        With 0 hits nothing is charged, and the decision is that on one more hit. Several hits that do not fit empty the
        bucket, since they may have happened already.
        """
        described = self._read(entries)
        text = ", ".join(f"{key}={value}" for key, value in entries)
        methods = frozenset((described.method.upper(),))
        path = described.path or ""
        facts = Facts(described.address, path, path, methods)
        shown = facts if described.path else facts._replace(path=text)
        address = None if described.address is None else self._lookups.address(facts)
        if address is not None:
            for_anyone = self._gate.decided_for_anyone(address, None)
            if for_anyone is not None:
                return self._gate.announce(shown, for_anyone)
            if self._lookups.is_allowed(facts, address):
                return None
        found = self._charges(domain, described, facts, address)
        if isinstance(found, Decision):
            return self._gate.announce(shown, found)
        if not found:
            self._log_unknown(text, is_known=described.rule is not None or not described.is_named)
            return None
        decision = await self._take(found, address, hits)
        is_tried = described.rule is not None and described.rule.dry_run
        return self._gate.announce(shown, in_dry_run(decision) if is_tried else decision)

    def _read(self, entries: Entries) -> _Described:
        address = path = rule = None
        method, is_named, whose = "GET", False, []
        for key, value in entries:
            if key == ADDRESS:
                address = value
            elif key == PATH:
                path = unquote(value.partition("?")[0])
            elif key == METHOD:
                method = value
            else:
                is_named = True
                name = value if key in NAMES_A_RULE else key
                rule = self._lookups.rule(name) or rule
                if key not in NAMES_A_RULE:
                    whose.append(f"{key}={value}")
        return _Described(address, path, method, is_named, rule, " ".join(whose))

    def _charges(self, domain: str, described: _Described, facts: Facts, address: Address | None) -> Charges | Decision:
        """What one hit is charged, or the refusal if the path is closed; nothing if there is no limit."""
        if described.is_named:
            return () if described.rule is None else self._charges_of(described.rule, domain, described, address)
        if described.address is not None:
            return self._charges_of_a_guest(described, facts, address)
        if described.path is None:
            return ()
        route_rules = self._lookups.enforced_route(facts).route_rules
        charges = _shared(Per.EVERYONE, route_rules.limits, route_rules.cost)
        for per, limit, cost in route_rules.shared:
            charges += _shared(per, (limit,), cost)
        return charges

    def _charges_of(self, rule: Rule, domain: str, described: _Described, address: Address | None) -> Charges:
        """What a hit on the limits of one rule is charged."""
        if rule.per is not Per.CLIENT:
            return _shared(rule.per, rule.limits, rule.cost)
        if described.address is None and not described.whose:
            return _shared(Per.EVERYONE, rule.limits, rule.cost)
        clients = self._lookups.clients(address)
        if not described.whose:
            return Policy.address_charges(rule.limits, clients, rule.cost)
        text = f"{domain} {described.whose}"
        if described.address is not None:
            text += f" {clients.network}"
        client = Client("described", text, f"described:{text}")
        return tuple([Charge(client, limit, rule.cost) for limit in rule.limits])

    def _charges_of_a_guest(self, described: _Described, facts: Facts, address: Address | None) -> Charges | Decision:
        """What a guest's request is charged; if the description has no path, what it is charged on any path."""
        mode = self._mode_watch.mode
        route = self._lookups.any_path if described.path is None else self._lookups.enforced_route(facts)
        plan = route.plan(mode, None, address)
        if plan.closed:
            wait_us = self._mode_watch.retry_after_us
            return Decision(Verdict.REFUSED, Reason.EMERGENCY, address, retry_after_us=wait_us, mode=mode)
        return () if route.exempt else plan.charges(address, None) + plan.shared

    async def _take(self, charges: Charges, address: Address | None, hits: int) -> Decision:
        mode = self._mode_watch.mode
        wanted = tuple([charge._replace(cost=min(charge.cost * hits, charge.limit.burst)) for charge in charges])
        reply = await self._limiter.ask(wanted)
        if reply is None:
            if self._on_store_failure is OnStoreFailure.OPEN:
                return Decision(Verdict.ALLOWED, Reason.STORE_OPEN, address, mode=mode)
            return Decision(Verdict.REFUSED, Reason.STORE_CLOSED, address, mode=mode)
        taken, outcome, _ = reply
        if not hits:
            taken = tuple([each._replace(cost=one.cost) for each, one in zip(taken, charges, strict=True)])
            fits = all(_left(charge, outcome, at) >= charge.cost for at, charge in enumerate(taken))
            outcome = outcome._replace(allowed=fits)
        elif hits > 1 and not outcome.allowed:
            await self._limiter.ask(_rest(taken, outcome))
        return combine(taken, outcome, address, None, mode)

    def _log_unknown(self, text: str, *, is_known: bool) -> None:
        """Count a description that names no rule: a mistake in the configuration of one side."""
        if not is_known and (counts := self._unknown.due("unknown")) is not None:
            log.warning(
                "descriptors that name no rule of SHIELD_RULES pass without a limit: %s; the last: %s",
                counts,
                ascii(text[:LONGEST_SHOWN]),
            )


def _shared(per: Per, limits: Sequence[Limit], cost: int) -> Charges:
    """The charges against limits that many share; the buckets are those of rules with this ``per``."""
    return tuple([Charge(shared_client(per.value, limit.name), limit, min(cost, limit.burst)) for limit in limits])


def _left(charge: Charge, outcome: Outcome, at: int) -> int:
    return remaining(charge.limit, outcome.tats_us[at] - outcome.now_us)


def _rest(charges: Charges, outcome: Outcome) -> Charges:
    """The charges, reduced to what the buckets still hold."""
    return tuple(
        [charge._replace(cost=min(charge.cost, _left(charge, outcome, at))) for at, charge in enumerate(charges)]
    )
