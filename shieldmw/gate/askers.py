"""Who asks and where: what the settings say of an address and of a path, worked out once and kept for a while.

Both tables are bounded, and hold nothing that cannot be worked out again.
"""

from __future__ import annotations

from dataclasses import dataclass

from shieldmw.core.address import Networks, client_address
from shieldmw.core.client import IPAddress, address_clients
from shieldmw.core.facts import Facts
from shieldmw.core.rules import Policy, Terms
from shieldmw.core.table import SeenOnce, Table

from .standing import Standings

ORIGINS_KEPT = 4096
PATHS_KEPT = 4096

# A proxy header longer than this is read anew each time, rather than kept.
LONGEST_KEPT = 512
MOST_LINES_KEPT = 8


@dataclass(frozen=True, slots=True)
class Addressing:
    """How the address of a request is found, and what counts as one client."""

    trusted: Networks
    header: str
    ipv4_prefix: int
    ipv6_prefix: int


class Origin:
    """Where requests come from: the address, whom it stands for, and what the settings say of it.

    ``standings`` are kept with it where requests have come from there more than once.
    """

    __slots__ = ("address", "allowed", "clients", "denied", "standings")

    def __init__(self, address: IPAddress | None, addressing: Addressing, policy: Policy) -> None:
        self.address = address
        self.clients = address_clients(address, addressing.ipv4_prefix, addressing.ipv6_prefix)
        self.denied = address in policy.deny
        self.allowed = address in policy.allow
        self.standings: Standings | None = None


class Askers:
    """Finds the origin of a request and the terms of its path."""

    def __init__(self, policy: Policy, addressing: Addressing) -> None:
        self._policy = policy
        self._addressing = addressing
        self._origins: Table[tuple[str | None, tuple[str, ...]], Origin] = Table(ORIGINS_KEPT)
        self._seen_once = SeenOnce(ORIGINS_KEPT)
        self._terms: Table[tuple[object, ...], Terms] = Table(PATHS_KEPT)

    def origin(self, facts: Facts) -> Origin:
        """Where the request comes from; worked out, unless it came from there more than once lately."""
        key = (facts.peer, facts.forwarded)
        known = self._origins.get(key)
        if known is not None:
            return known
        how = self._addressing
        address = client_address(facts.peer, facts.forwarded, how.trusted, how.header)
        origin = Origin(address, how, self._policy)
        if self._seen_once.add(hash(key)):
            return origin
        if len(facts.forwarded) <= MOST_LINES_KEPT and sum(map(len, facts.forwarded)) <= LONGEST_KEPT:
            origin.standings = Standings()
            self._origins.put(key, origin)
        return origin

    def terms(self, facts: Facts) -> Terms:
        """What the policy says of the request's path and methods."""
        key = (facts.path, facts.route_path, facts.root_path, facts.methods, facts.preflight)
        terms = self._terms.get(key)
        if terms is None:
            terms = self._policy.terms(facts)
            if len(facts.path) + sum(map(len, facts.methods)) <= LONGEST_KEPT:
                self._terms.put(key, terms)
        return terms
