"""The address and the route rules of a request, computed from the settings and cached.

Both caches are bounded, and hold nothing that cannot be computed again.
"""

from __future__ import annotations

import logging

from shieldmw.core.address import Addressing, Located, locate
from shieldmw.core.client import IPAddress, address_clients
from shieldmw.core.facts import Facts
from shieldmw.core.paths import is_plain
from shieldmw.core.rules import Policy, RouteRules
from shieldmw.core.table import BoundedCache, Doorkeeper
from shieldmw.gate.log_throttle import LogThrottle

from .client_state import ClientStates

log = logging.getLogger(__name__)

ADDRESSES_KEPT = 4096
PATHS_KEPT = 4096

# Longest proxy header or path that is cached, in characters, and most lines of the header.
LONGEST_KEPT = 512
MOST_LINES_KEPT = 8

# Characters of an unreadable header shown in the log.
LONGEST_SHOWN = 100


class AddressInfo:
    """What is known of an address: itself, the clients that it stands for, and whether it is allowed or denied.

    ``client_states`` are kept with it where requests have come from there more than once. An address that stands for
    clients that a trusted proxy did not name is never on the allow list: all of them would be without a limit.
    """

    __slots__ = ("address", "allowed", "client_states", "clients", "denied")

    def __init__(self, located: Located, addressing: Addressing, policy: Policy) -> None:
        address, is_fallback, _ = located
        self.address: IPAddress | None = address
        self.clients = address_clients(address, addressing.ipv4_prefix, addressing.ipv6_prefix)
        self.denied = address in policy.deny
        self.allowed = not is_fallback and address in policy.allow
        self.client_states: ClientStates | None = None


class Lookups:
    """Finds the address of a request and the rules of its path."""

    def __init__(self, policy: Policy, addressing: Addressing) -> None:
        self._policy = policy
        self._addressing = addressing
        self._address_infos: BoundedCache[tuple[str | None, tuple[str, ...]], AddressInfo] = BoundedCache(
            ADDRESSES_KEPT
        )
        self._seen_once = Doorkeeper(ADDRESSES_KEPT)
        self._route_rules: BoundedCache[tuple[object, ...], RouteRules] = BoundedCache(PATHS_KEPT)
        self._unreadable = LogThrottle()

    def address_info(self, facts: Facts) -> AddressInfo:
        """What is known of the request's address; cached from the second request on."""
        key = (facts.peer, facts.forwarded)
        known = self._address_infos.get(key)
        if known is not None:
            return known
        how = self._addressing
        located = locate(facts.peer, facts.forwarded, how.trusted, how.header)
        address_info = AddressInfo(located, how, self._policy)
        if located.is_unreadable:
            self._log_unreadable(facts)
            return address_info
        if self._seen_once.add(hash(key)):
            return address_info
        if len(facts.forwarded) <= MOST_LINES_KEPT and sum(map(len, facts.forwarded)) <= LONGEST_KEPT:
            address_info.client_states = ClientStates()
            self._address_infos.put(key, address_info)
        return address_info

    def _log_unreadable(self, facts: Facts) -> None:
        """Count a proxy header that cannot be parsed."""
        if (counts := self._unreadable.due("unreadable")) is not None:
            log.warning(
                "SHIELD_FORWARDED_HEADER=%s: %s; the last from the proxy %s: %s. "
                "Clients whose address cannot be read share the limits of the proxy's own address",
                *(self._addressing.header, counts, facts.peer, ascii(", ".join(facts.forwarded)[-LONGEST_SHOWN:])),
            )

    def route_rules(self, facts: Facts) -> RouteRules:
        """What the policy says of the request's path and methods."""
        route_rules = self.route_rules_at_hand(facts)
        return self._worked_out(facts) if route_rules is None else route_rules

    def route_rules_at_hand(self, facts: Facts) -> RouteRules | None:
        """The same; None if it is not cached and slow to compute, and so better left to the end."""
        route_rules = self._route_rules.get(_key(facts))
        if route_rules is None and _is_short(facts) and is_plain(facts.path):
            return self._worked_out(facts)
        return route_rules

    def _worked_out(self, facts: Facts) -> RouteRules:
        route_rules = self._policy.route_rules(facts)
        if _is_short(facts):
            self._route_rules.put(_key(facts), route_rules)
        return route_rules


def _key(facts: Facts) -> tuple[object, ...]:
    return facts.path, facts.route_path, facts.root_path, facts.methods, facts.preflight


def _is_short(facts: Facts) -> bool:
    return len(facts.path) + sum(map(len, facts.methods)) <= LONGEST_KEPT
