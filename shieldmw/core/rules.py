"""The policy: which limits a request is charged to, and at what cost. Pure; built from Settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from .address import Networks
from .bucket import Charge, Charges
from .client import AddressClients, Client, Identity, token_client
from .facts import ANY_METHOD, Facts
from .limits import Limit, aggregate, of_preflights
from .made import made
from .mode import Mode
from .paths import PathPattern, has_one_reading, readings

# Names of limits that rules cannot take for themselves.
RESERVED_NAMES = ("ip", "token", "address", "failed-auth", "preflight")


class Access(StrEnum):
    """Who may use a path in an emergency."""

    OPEN = "open"
    MEMBERS = "members"
    CLOSED = "closed"

    __hash__ = str.__hash__  # of a word, as quick as one


_STRICTEST_FIRST = (Access.CLOSED, Access.MEMBERS, Access.OPEN)


@dataclass(frozen=True, slots=True)
class Rule:
    """Limits of its own for a path, what a request there costs, and who may use it in an emergency.

    ``methods`` empty means all of them. The limits are charged to the client, beside its
    default limits, and every one of those limits is charged ``cost``. Responses on a ``live``
    path hold a seat.
    """

    name: str
    path: PathPattern
    methods: frozenset[str] = frozenset()
    limits: tuple[Limit, ...] = ()
    cost: int = 1
    live: bool = False
    emergency: Access = Access.OPEN

    def matches(self, reading: str, method: str) -> bool:
        """Whether the rule is for this reading of a path, under this method; what holds for GET does for HEAD."""
        named = not self.methods or method in self.methods or (method == "HEAD" and "GET" in self.methods)
        return (named or method == ANY_METHOD) and self.path.matches(reading)


class RouteRules(NamedTuple):
    """What the policy says of a path under a method: the strictest of all its readings.

    ``exempt``: never limited. ``live``: a response here holds a seat. ``access``: who may be here in an
    emergency. ``limits`` are its own, beside the default ones; all of them are charged ``cost``. ``preflight``: the
    terms of preflights, whose buckets are their own.
    """

    exempt: bool = False
    live: bool = False
    access: Access = Access.OPEN
    limits: tuple[Limit, ...] = ()
    cost: int = 1
    preflight: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """All limits and where they hold. Guests are charged to ``ip``, verified subjects to
    ``token``, everyone to ``address``; credentials that fail are charged to ``failed_auth``. In an
    emergency guests are charged to the same bucket under ``emergency_ip``. Preflights are charged to ``preflight``, in
    an emergency as well: those of members come without a credential.
    """

    ip: tuple[Limit, ...] = ()
    token: tuple[Limit, ...] = ()
    address: tuple[Limit, ...] = ()
    failed_auth: tuple[Limit, ...] = ()
    rules: tuple[Rule, ...] = ()
    emergency_ip: tuple[Limit, ...] = ()
    preflight: tuple[Limit, ...] = ()
    exempt: tuple[PathPattern, ...] = ()
    live: tuple[PathPattern, ...] = ()
    allow: Networks = field(default_factory=Networks)
    deny: Networks = field(default_factory=Networks)

    @property
    def has_live_paths(self) -> bool:
        """Whether any path holds a seat."""
        return bool(self.live) or any(rule.live for rule in self.rules)

    def route_rules(self, facts: Facts) -> RouteRules:
        """What is said of the path and the methods of a request, whoever asks."""
        route_rules = self._route_rules_of_path(facts)
        return _of_preflights(route_rules) if facts.preflight else route_rules

    def _route_rules_of_path(self, facts: Facts) -> RouteRules:
        exempt = self._is_exempt(facts)
        if not self.rules and not self.live:
            return RouteRules(exempt=exempt)
        found = readings(facts.path, facts.route_path, facts.root_path)
        if not found:
            return self.strictest_route_rules()
        live = any(pattern.matches(reading) for reading in found for pattern in self.live)
        return self._route_rules(self._rules_for(found, facts.methods), exempt=exempt, live=live)

    def strictest_route_rules(self) -> RouteRules:
        """The terms of a path that is beyond reading: those of all rules together, and no exemption.

        It may be any path, so every limit is charged; all of them are the asking client's own.
        """
        return self._route_rules((None, *self.rules), exempt=False, live=bool(self.live))

    def _route_rules(self, rules: Sequence[Rule | None], *, exempt: bool, live: bool) -> RouteRules:
        """The terms of some rules together; None stands for a reading under which no rule holds."""
        named = [rule for rule in rules if rule]
        said = {rule.emergency for rule in named}
        return RouteRules(
            exempt=exempt,
            live=live or any(rule.live for rule in named),
            access=next((access for access in _STRICTEST_FIRST if access in said), Access.OPEN),
            limits=tuple(limit for rule in named for limit in rule.limits),
            cost=max((1 if rule is None else rule.cost for rule in rules), default=1),
        )

    def may_be_exempt(self, facts: Facts) -> bool:
        """Whether the path looks exempt, before anything was read of it."""
        return any(pattern.matches(path) for path in (facts.route_path, facts.path) for pattern in self.exempt)

    def _is_exempt(self, facts: Facts) -> bool:
        """Only a path that every server reads alike can be."""
        return any(
            has_one_reading(path)
            for path in (facts.route_path, facts.path)
            if any(pattern.matches(path) for pattern in self.exempt)
        )

    def charges_everywhere(self) -> bool:
        """Whether the default limits are charged for every path that is not exempt."""
        return all(rule.cost > 0 for rule in self.rules)

    def charges(
        self, route_rules: RouteRules, identity: Identity | None, clients: AddressClients, mode: Mode = Mode.NORMAL
    ) -> Charges:
        """What the request is charged, the narrowest client first; empty where nothing limits it."""
        own, cost = route_rules.limits, route_rules.cost
        if identity is None:
            ip = self.preflight if route_rules.preflight else self.ip if mode is Mode.NORMAL else self.emergency_ip
            return tuple(_address_charges(clients, own + ip + self.address, cost))
        charges = _client_charges(token_client(identity), (*own, *self.token), cost)
        return (*charges, *_address_charges(clients, self.address, cost))

    def failed_auth_charges(self, clients: AddressClients, cost: int) -> Charges:
        """What a credential that failed is charged to its address; cost 0 only looks."""
        return tuple(_address_charges(clients, self.failed_auth, cost))

    def _rules_for(self, found: Sequence[str], methods: frozenset[str]) -> Sequence[Rule | None]:
        """The first rule that matches each reading of the path under each method, each rule once."""
        if not self.rules:
            return ()
        ways = [self._first_rules(reading, method) for reading in found for method in sorted(methods)]
        return tuple(dict.fromkeys(rule for way in ways for rule in way))

    def _first_rules(self, reading: str, method: str) -> Iterator[Rule | None]:
        """The first rule that matches; of any method every rule that is the first one for some method."""
        for rule in self.rules:
            if rule.matches(reading, method):
                yield rule
                if method != ANY_METHOD or not rule.methods:
                    return
        yield None


def _of_preflights(route_rules: RouteRules) -> RouteRules:
    """What holds for preflights where these terms hold for requests: the same, in buckets of their own.

    Members' preflights show no credential, so what is open to members is open to them. They cost 1 at least:
    on a live path they hold no seat, and only their rate bounds how many there are at once.
    """
    access = Access.CLOSED if route_rules.access is Access.CLOSED else Access.OPEN
    limits = tuple(of_preflights(limit) for limit in route_rules.limits)
    return route_rules._replace(access=access, limits=limits, cost=max(1, route_rules.cost), preflight=True)


def _client_charges(client: Client, limits: Sequence[Limit], cost: int) -> list[Charge]:
    # Alone, no rule costs more than a burst; two that hold for readings of one path might, together.
    return [made(Charge, (client, limit, cost if cost < limit.burst else limit.burst)) for limit in limits]


def _address_charges(clients: AddressClients, limits: Sequence[Limit], cost: int) -> list[Charge]:
    charges = _client_charges(clients.one, limits, cost)
    if clients.site is not None:
        charges += _client_charges(clients.site, [aggregate(limit) for limit in limits], cost)
    return charges


def all_limits(policy: Policy) -> Iterator[Limit]:
    """Every limit that was written, the default ones first; those of preflights are some of them once more."""
    yield from (*policy.ip, *policy.emergency_ip, *policy.token, *policy.address, *policy.failed_auth)
    for rule in policy.rules:
        yield from rule.limits
