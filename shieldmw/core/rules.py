"""The policy: which limits a request is charged against, and at what cost. Pure; built from Settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from .address import Networks
from .bucket import Charge, Charges, Party, Term
from .client import AddressClients, Identity, ListenerClass, shared_client
from .facts import ANY_METHOD, Facts
from .limits import Limit, aggregate, of_preflights
from .mode import Mode
from .paths import PathPattern, has_one_reading, readings


class Scope(StrEnum):
    """A default limit, by the requests that it counts. The value is also its name, which no rule may have."""

    IP = "ip"  # guests, by address
    TOKEN = "token"  # a verified subject  # noqa: S105
    ADDRESS = "address"  # everyone on an address
    FAILED_AUTH = "failed-auth"  # credentials that fail, by address
    PREFLIGHT = "preflight"  # CORS preflights, by address: they carry no credential
    GUESTS = "guests"  # all guests together


Limits = tuple[Limit, ...]

# Default length of a lease seat: five polls of a player with segments of six seconds.
LEASE_SEAT_S = 30


class Access(StrEnum):
    """The clients that may use a path in an emergency."""

    OPEN = "open"
    MEMBERS = "members"
    CLOSED = "closed"

    __hash__ = str.__hash__  # as fast as that of a string


class Per(StrEnum):
    """The clients that share a rule's limits: each has its own, all guests share them, or everyone does."""

    CLIENT = "client"
    GUESTS = "guests"
    EVERYONE = "everyone"

    __hash__ = str.__hash__  # as fast as that of a string


_STRICTEST_FIRST = (Access.CLOSED, Access.MEMBERS, Access.OPEN)


@dataclass(frozen=True, slots=True)
class Rule:
    """A path's own limits, the cost of a request there, and the clients that may use it in an emergency.

    Empty ``methods`` means all of them. The limits are charged in addition to the client's default limits, and each
    of all these limits is charged ``cost``. ``per``: who shares them. Responses on a ``live`` path hold a seat; clients
    that poll the path hold a lease seat of ``lease_s``, if that is not 0. With ``dry_run`` the rule refuses nobody:
    what it would refuse is only reported.
    """

    name: str
    path: PathPattern
    methods: frozenset[str] = frozenset()
    limits: Limits = ()
    cost: int = 1
    live: bool = False
    emergency: Access = Access.OPEN
    per: Per = Per.CLIENT
    lease_s: int = 0
    dry_run: bool = False

    def matches(self, reading: str, method: str) -> bool:
        """Whether the rule applies to this reading of a path and this method; a rule for GET applies to HEAD."""
        named = not self.methods or method in self.methods or (method == "HEAD" and "GET" in self.methods)
        return (named or method == ANY_METHOD) and self.path.matches(reading)

    def in_force(self) -> Rule:
        """What the rule does to requests: in a dry run it has no limits, costs nothing extra and closes nothing.

        It still applies instead of later rules, and live and polled paths still need a seat.
        """
        if not self.dry_run:
            return self
        return replace(self, limits=(), cost=min(self.cost, 1), per=Per.CLIENT, emergency=Access.OPEN)


class RouteRules(NamedTuple):
    """The rules for a path and a method: the strictest of all readings of the path.

    ``exempt``: never limited. ``live``: responses hold a seat. ``lease_s``: clients that poll the path hold a lease
    seat of this length, the shortest one of several; 0 for none. ``access``: the clients that may use the path in an
    emergency. ``limits``: the path's own, in addition to the default ones. All of these are charged ``cost``, and those
    of the client also ``surcharge``. ``preflight``: these are the rules of preflights, which have buckets of their own.
    ``shared``: the path's limits that many clients share, each with the cost of its rule. ``trial``: what rules in dry
    run would add, which is only tried; None if there are none.
    """

    exempt: bool = False
    live: bool = False
    access: Access = Access.OPEN
    limits: Limits = ()
    cost: int = 1
    preflight: bool = False
    shared: tuple[tuple[Per, Limit, int], ...] = ()
    surcharge: int = 0
    lease_s: int = 0
    trial: RouteRules | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """All limits, and where they apply. In an emergency those of ``emergency`` replace the ``default`` ones."""

    default: Mapping[Scope, Limits] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    emergency: Mapping[Scope, Limits] = field(default_factory=dict)
    exempt: tuple[PathPattern, ...] = ()
    live: tuple[PathPattern, ...] = ()
    polled: tuple[PathPattern, ...] = ()
    allow: Networks = field(default_factory=Networks)
    deny: Networks = field(default_factory=Networks)

    def limits(self, scope: Scope, mode: Mode = Mode.NORMAL) -> Limits:
        """The limits of a scope in a mode."""
        if mode is Mode.EMERGENCY and scope in self.emergency:
            return self.emergency[scope]
        return self.default.get(scope, ())

    @property
    def has_shared_limits(self) -> bool:
        """Whether any limits are shared by many clients."""
        of_rules = any(rule.per is not Per.CLIENT for rule in self.rules)
        return of_rules or any(self.limits(Scope.GUESTS, mode) for mode in Mode)

    @property
    def has_live_paths(self) -> bool:
        """Whether there are any live paths."""
        return bool(self.live) or any(rule.live for rule in self.rules)

    @property
    def has_polled_paths(self) -> bool:
        """Whether there are any polled paths."""
        return bool(self.polled) or any(rule.lease_s for rule in self.rules)

    @property
    def has_seats(self) -> bool:
        """Whether clients need a seat on any path."""
        return self.longest_lease_s > 0

    @property
    def longest_lease_s(self) -> int:
        """The longest lease seat of any path, in seconds; 0 if there are none.

        Clients on live paths hold one if they come through a proxy that asks before it forwards their request.
        """
        is_usual = self.polled or self.has_live_paths
        return max([LEASE_SEAT_S if is_usual else 0, *(rule.lease_s for rule in self.rules)])

    def route_rules(self, facts: Facts) -> RouteRules:
        """The rules for a request's path and methods."""
        route_rules = self._route_rules_of_path(facts)
        return _of_preflights(route_rules) if facts.preflight else route_rules

    def _route_rules_of_path(self, facts: Facts) -> RouteRules:
        exempt = self._is_exempt(facts)
        if not self.rules and not self.live and not self.polled:
            return RouteRules(exempt=exempt)
        found = readings(facts.path, facts.route_path, facts.root_path)
        if not found:
            return self.strictest_route_rules()
        live = any(pattern.matches(reading) for reading in found for pattern in self.live)
        polled = any(pattern.matches(reading) for reading in found for pattern in self.polled)
        return self._route_rules(self._rules_for(found, facts.methods), exempt=exempt, live=live, polled=polled)

    def strictest_route_rules(self) -> RouteRules:
        """The rules for a path that cannot be read: those of all rules together, and no exemption.

        It may be any path, so every limit is charged, including those that many clients share.
        """
        return self._route_rules((None, *self.rules), exempt=False, live=bool(self.live), polled=bool(self.polled))

    def _route_rules(self, rules: Sequence[Rule | None], *, exempt: bool, live: bool, polled: bool) -> RouteRules:
        """Several rules combined; None represents a reading to which no rule applies.

        The cost is the highest one. If several rules have limits that many clients share, the request is charged to all
        of them, and the client pays as much as for a request under each: the surcharge.
        """
        tried = [rule for rule in rules if rule and rule.dry_run]
        if tried:
            trial = self._route_rules(
                [replace(rule, dry_run=False) for rule in tried], exempt=False, live=False, polled=False
            )
            rules = [rule and rule.in_force() for rule in rules]
        named = [rule for rule in rules if rule]
        sharing = [rule for rule in named if rule.per is not Per.CLIENT]
        highest = max([1 if rule is None else rule.cost for rule in rules], default=1)
        said = {rule.emergency for rule in named}
        leases_s = [rule.lease_s for rule in named if rule.lease_s]
        return RouteRules(
            exempt=exempt,
            live=live or any(rule.live for rule in named),
            access=next((access for access in _STRICTEST_FIRST if access in said), Access.OPEN),
            limits=tuple(limit for rule in named if rule.per is Per.CLIENT for limit in rule.limits),
            cost=highest,
            surcharge=max(0, sum([rule.cost for rule in sharing]) - highest),
            shared=tuple((rule.per, limit, rule.cost) for rule in sharing for limit in rule.limits),
            lease_s=min(leases_s, default=LEASE_SEAT_S if polled else 0),
            trial=trial if tried else None,
        )

    def may_be_exempt(self, facts: Facts) -> bool:
        """Whether the path looks exempt, before its readings are known."""
        return any(pattern.matches(path) for path in (facts.route_path, facts.path) for pattern in self.exempt)

    def _is_exempt(self, facts: Facts) -> bool:
        """Whether the path is exempt: only one that all servers read alike can be."""
        return any(
            has_one_reading(path)
            for path in (facts.route_path, facts.path)
            if any(pattern.matches(path) for pattern in self.exempt)
        )

    def charges_everywhere(self) -> bool:
        """Whether the default limits are charged on every path that is not exempt."""
        return all(rule.cost > 0 for rule in self.rules)

    def terms(self, route_rules: RouteRules, *, has_subject: bool, has_site: bool, mode: Mode) -> tuple[Term, ...]:
        """The limits and costs that a request is charged, the narrowest client first; empty if nothing limits it.

        ``has_subject``: its client is a verified subject; ``has_site``: its address belongs to a site, which shares
        aggregates of all limits.
        """
        own, of_address = route_rules.limits, self.limits(Scope.ADDRESS, mode)
        cost = route_rules.cost + route_rules.surcharge
        if has_subject:
            subject = _terms(Party.SUBJECT, own + self.limits(Scope.TOKEN, mode), cost)
            return subject + _address_terms(of_address, cost, has_site=has_site)
        scope = Scope.PREFLIGHT if route_rules.preflight else Scope.IP
        return _address_terms(own + self.limits(scope, mode) + of_address, cost, has_site=has_site)

    def shared_charges(self, route_rules: RouteRules, identity: Identity | None, mode: Mode = Mode.NORMAL) -> Charges:
        """The charges of a request against limits that many clients share, the narrowest first.

        None for preflights: they carry no credential, so those of members would be refused when there are too many
        guests. In an emergency all guests share another bucket, so that what was spent before refuses no one.
        """
        if route_rules.preflight:
            return ()
        is_guest = identity is None or identity.listener_class is ListenerClass.GUEST
        shared = [
            (per.value, limit, cost) for per, limit, cost in route_rules.shared if is_guest or per is Per.EVERYONE
        ]
        if is_guest:
            whose = "guests" if mode is Mode.NORMAL else "emergency"
            shared += [(whose, limit, route_rules.cost) for limit in self.limits(Scope.GUESTS, mode)]
        charges = [
            Charge(shared_client(whose, limit.name), limit, min(cost, limit.burst)) for whose, limit, cost in shared
        ]
        return tuple([charge for charge in charges if charge.cost])

    def failed_auth_charges(self, clients: AddressClients, cost: int) -> Charges:
        """The charges of a failed credential against its address; with a cost of 0 they only query the buckets."""
        return self.address_charges(self.limits(Scope.FAILED_AUTH), clients, cost)

    @staticmethod
    def address_charges(limits: Limits, clients: AddressClients, cost: int) -> Charges:
        """The charges of an address against these limits, and of the site around it against their aggregates."""
        terms = _address_terms(limits, cost, has_site=clients.site is not None)
        found = [
            (clients.network if party is Party.ADDRESS else clients.site, limit, cost) for party, limit, cost in terms
        ]
        return tuple([Charge(client, limit, cost) for client, limit, cost in found if client is not None])

    def _rules_for(self, found: Sequence[str], methods: frozenset[str]) -> Sequence[Rule | None]:
        """The first rule that matches each reading of the path under each method, each rule once."""
        if not self.rules:
            return ()
        ways = [self._first_rules(reading, method) for reading in found for method in sorted(methods)]
        return tuple(dict.fromkeys(rule for way in ways for rule in way))

    def _first_rules(self, reading: str, method: str) -> Iterator[Rule | None]:
        """The first rule that matches; for ``ANY_METHOD``, each rule that is the first for some method."""
        for rule in self.rules:
            if rule.matches(reading, method):
                yield rule
                if method != ANY_METHOD or not rule.methods:
                    return
        yield None


def _of_preflights(route_rules: RouteRules) -> RouteRules:
    """The rules for preflights, from those for requests: the same, in buckets of their own.

    Members' preflights carry no credential, so a path that is open to members is open to all preflights. They cost at
    least 1: on a live or polled path they hold no seat, and only their rate bounds how many there are at once.
    """
    access = Access.CLOSED if route_rules.access is Access.CLOSED else Access.OPEN
    limits = tuple(of_preflights(limit) for limit in route_rules.limits)
    cost = max(1, route_rules.cost)
    trial = None if route_rules.trial is None else _of_preflights(route_rules.trial)
    return route_rules._replace(
        access=access, limits=limits, cost=cost, preflight=True, shared=(), lease_s=0, trial=trial
    )


def _terms(party: Party, limits: Sequence[Limit], cost: int) -> tuple[Term, ...]:
    # Capped, since more than the burst would never fit: the cost may be another rule's, the limit an emergency's.
    return tuple([Term(party, limit, min(cost, limit.burst)) for limit in limits])


def _address_terms(limits: Sequence[Limit], cost: int, *, has_site: bool) -> tuple[Term, ...]:
    terms = _terms(Party.ADDRESS, limits, cost)
    return terms + _terms(Party.SITE, [aggregate(limit) for limit in limits], cost) if has_site else terms


def all_limits(policy: Policy) -> Iterator[Limit]:
    """Every configured limit, the default ones first; not those of preflights, which are derived from these."""
    for limits in (policy.default, policy.emergency):
        for scope in limits:
            if scope is not Scope.PREFLIGHT:
                yield from limits[scope]
    for rule in policy.rules:
        yield from rule.limits
