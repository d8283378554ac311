"""Finds the address and the route of a request, according to the settings."""

from __future__ import annotations

import logging
from socket import AF_INET, inet_pton

from shieldmw.core.address import Addressing, Located, locate_peer
from shieldmw.core.cache import BoundedCache
from shieldmw.core.client import Address, AddressClients
from shieldmw.core.facts import TARGET, Facts
from shieldmw.core.paths import is_plain
from shieldmw.core.routes import Route
from shieldmw.core.rules import Policy, RouteRules, Rule
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock
from shieldmw.gate.log_throttle import LogThrottle

log = logging.getLogger(__name__)

# Maximum number of targets (paths and methods) whose route is cached.
PATHS_KEPT = 4096

# Maximum number of routes. There are few: one for each combination of rules that the readings of a path can lead to.
ROUTES_KEPT = 256

# Longest path that is cached, in characters, with its methods.
LONGEST_KEPT = 512

# Characters of an unreadable header shown in the log.
LONGEST_SHOWN = 100


class Lookups:
    """Finds the address and the route of a request.

    ``routes`` caches the routes of recent targets; only short targets are cached.
    """

    def __init__(self, policy: Policy, addressing: Addressing, clock: Clock = SYSTEM_CLOCK) -> None:
        self._addressing = addressing
        self._is_plain = addressing.is_plain
        self._trusted = addressing.trusted.ipv4
        self._proxy: str | None = None  # the last one that was trusted
        self._unreadable = LogThrottle(clock.now_s)
        self.use(policy)

    def use(self, policy: Policy) -> None:
        """Find routes by this policy from now on.

        Their plans are new, and so are the keys of their clients in this process: nothing that was prefetched under an
        old limit is spent under a new one. What is known of buckets stays true, since a bucket has its limit's name.
        """
        self._policy = policy
        self._rules = {rule.name: rule for rule in policy.rules}
        self._by_rules: BoundedCache[RouteRules, Route] = BoundedCache(ROUTES_KEPT)
        self._alone: BoundedCache[RouteRules, Route] = BoundedCache(ROUTES_KEPT)
        self.routes: BoundedCache[object, Route] = BoundedCache(PATHS_KEPT)
        self.any_path = self._route(RouteRules())
        self.any_preflight = self._route(RouteRules(preflight=True))

    def rule(self, name: str) -> Rule | None:
        """The rule with this name."""
        return self._rules.get(name)

    def address(self, facts: Facts) -> Address | None:
        """The address that a request comes from; None if it is unknown."""
        if not self._is_plain:
            return self._read_carefully(facts)
        # A fast path without further calls for most requests of a flood: their address is IPv4, and either the peer's
        # or the only one that a trusted proxy names.
        forwarded, peer = facts.forwarded, facts.peer
        try:
            if forwarded and peer is not None and peer == self._proxy:
                if len(forwarded) > 1:
                    return self._read_carefully(facts)
                address = inet_pton(AF_INET, forwarded[0])
            else:
                address = inet_pton(AF_INET, peer or "")
        except (OSError, ValueError):
            return self._read_carefully(facts)
        if forwarded:
            number = int.from_bytes(address, "big")
            for shift, prefix in self._trusted:
                if number >> shift == prefix:
                    return self._read_carefully(facts)
        return address

    def is_allowed(self, facts: Facts, address: Address | None) -> bool:
        """Whether the request's address is on the allow list.

        False for a trusted proxy's own address if its header names no client: all of its clients would be unlimited.
        """
        return address in self._policy.allow and not self._locate(facts).is_fallback

    def _read_carefully(self, facts: Facts) -> Address | None:
        located = self._locate(facts)
        if located.is_unreadable:
            self._log_unreadable(facts)
        elif facts.peer is not None and locate_peer(facts.peer, self._addressing.trusted)[1]:
            self._proxy = facts.peer
        return located.address

    def _locate(self, facts: Facts) -> Located:
        return self._addressing.locate(facts.peer, facts.forwarded)

    def clients(self, address: Address | None) -> AddressClients:
        """The clients of an address."""
        return self._addressing.prefixes.clients(address)

    def _log_unreadable(self, facts: Facts) -> None:
        """Count a proxy header that cannot be parsed."""
        if (counts := self._unreadable.due("unreadable")) is not None:
            log.warning(
                "SHIELD_FORWARDED_HEADER=%s: %s; the last from the proxy %s: %s. "
                "Clients whose address cannot be read share the limits of the proxy's own address",
                *(self._addressing.header, counts, facts.peer, ascii(", ".join(facts.forwarded)[-LONGEST_SHOWN:])),
            )

    def route(self, facts: Facts) -> Route:
        """The route of the request's path and methods."""
        return self.cheap_route(facts) or self._compute_route(facts)

    def enforced_route(self, facts: Facts) -> Route:
        """The route of the request's path and methods, without rules in dry run."""
        route = self.route(facts)
        return route.enforced or route

    def route_of_rules(self, route_rules: RouteRules) -> Route:
        """The route with these rules alone, without the default limits."""
        route = self._alone.get(route_rules)
        if route is None:
            route = Route(route_rules, Policy(), self._addressing.prefixes)
            self._alone.put(route_rules, route)
        return route

    def cheap_route(self, facts: Facts) -> Route | None:
        """The route of the request's path and methods; None if it is not cached and slow to compute."""
        route = self.routes.get(facts[TARGET])
        if route is None and _is_short(facts) and is_plain(facts.path):
            return self._compute_route(facts)
        return route

    def _compute_route(self, facts: Facts) -> Route:
        route = self._route(self._policy.route_rules(facts))
        if _is_short(facts):
            self.routes.put(facts[TARGET], route)
        return route

    def _route(self, route_rules: RouteRules) -> Route:
        """The route with these rules. Equal rules share one route, and thereby its clients."""
        route = self._by_rules.get(route_rules)
        if route is None:
            route = Route(route_rules, self._policy, self._addressing.prefixes)
            self._by_rules.put(route_rules, route)
        return route


def _is_short(facts: Facts) -> bool:
    return len(facts.path) + sum(map(len, facts.methods)) <= LONGEST_KEPT
