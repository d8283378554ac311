"""Plans: what a request is charged, computed once for all clients of a class. Pure.

A request's limits depend on the rules of its path, the mode, its client's class and the family of its address. There is
one plan for each combination; under it, requests differ only in the client that is charged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .bucket import Charge, Charges, Party, Term
from .client import Address, Client, Identity, Prefixes, site_client, token_client
from .limits import AGGREGATE_FACTOR
from .made import made
from .mode import Mode
from .refusal_cache import RefusalCache

# Length of a plan's number in bytes; the keys of its clients begin with it.
TAG_BYTES = 4


class Plan:
    """What requests of one kind are charged. Each plan has a ``number`` of its own.

    ``own``: the limits that each client has, the narrowest client's first; ``shared``: the charges against those that
    many clients share; ``terms``: all of them. ``closed``: the path is closed to such requests in this mode; ``live``:
    their responses hold seats; ``lease_s``: their clients hold lease seats of this length, 0 for none. ``refusals``
    are those that were given under this plan. ``single``: if each client has one limit, the prefix of its bucket's
    name, the step of a charge and the time to fill the bucket, both in microseconds.
    """

    __slots__ = (
        *("_has_address", "_has_site", "_has_subject", "_names", "_prefixes", "_tag", "_whole_bytes"),
        *("closed", "lease_s", "live", "mode", "own", "refusals", "shared", "single", "terms"),
    )

    def __init__(
        self,
        number: int,
        own: Sequence[Term],
        prefixes: Prefixes,
        mode: Mode,
        *,
        shared: Charges = (),
        live: bool = False,
        lease_s: int = 0,
        closed: bool = False,
    ) -> None:
        self.own = tuple(own)
        self.shared = shared
        self.terms = self.own + tuple([Term(Party.MANY, limit, cost) for _, limit, cost in shared])
        self.mode = mode
        self.live = live
        self.lease_s = lease_s
        self.closed = closed
        self.refusals = RefusalCache(self.terms, mode, live=live)
        self._prefixes = prefixes
        self._whole_bytes = 4 if prefixes.ipv4 == 32 else 0  # the length of addresses that are networks themselves
        self._tag = number.to_bytes(TAG_BYTES, "big")
        # With the party: a network and the site around it may begin with the same address.
        self._names = [(int(term.party), f"{term.party:d}{term.limit.name} ".encode()) for term in own]
        self._has_address = any(term.party is Party.ADDRESS for term in own)
        self._has_site = any(term.party is Party.SITE for term in own)
        self._has_subject = any(term.party is Party.SUBJECT for term in own)
        self.single: tuple[bytes, int, int] | None = None
        if len(self.own) == 1:
            ((_, limit, cost),) = self.own
            self.single = (self._names[0][1], cost * limit.unit_us, limit.tau_us)

    def requester(self, address: Address | None, identity: Identity | None, subject: bytes) -> Requester:
        """The client of a request under this plan; ``subject`` is the digest of a verified one, empty for a guest."""
        key = self._tag + subject if self._has_subject else self._tag
        if self._has_address:
            if address is not None and len(address) == self._whole_bytes:
                key += address
            else:
                key += self._prefixes.cut(address)[0]
        return made(Requester, (self, address, identity, subject, key))

    def buckets(self, requester: Requester) -> tuple[bytes, ...]:
        """The names of a client's buckets in this process."""
        one, site = self._prefixes.cut(requester.address)
        parties = (one, site or b"", requester.subject)
        return tuple([name + parties[party] for party, name in self._names])

    def charges(self, address: Address | None, identity: Identity | None) -> Charges:
        """What one request is charged of the client's own limits."""
        one, site = self._prefixes.cut(address)
        if identity is None and not self._has_site:
            client = self._prefixes.client(one, site)
            return tuple([made(Charge, (client, limit, cost)) for _, limit, cost in self.own])
        clients = (
            self._prefixes.client(one, site),
            None if site is None else site_client(site),
            None if identity is None else token_client(identity),
        )
        found = [(clients[party], limit, cost) for party, limit, cost in self.own]
        return tuple([Charge(client, limit, cost) for client, limit, cost in found if client is not None])

    @property
    def is_of_one_pace(self) -> bool:
        """Whether the buckets refill at a similar rate: otherwise a slow one would be charged ahead for units never
        spent."""
        steps_us = [term.cost * term.limit.unit_us for term in self.own if term.cost]
        return bool(steps_us) and max(steps_us) <= AGGREGATE_FACTOR * min(steps_us)


class Requester(NamedTuple):
    """A client under a plan. ``subject``: the digest of a verified subject, empty for a guest. ``key`` names the client
    in this process."""

    plan: Plan
    address: Address | None
    identity: Identity | None
    subject: bytes
    key: bytes

    def charges(self) -> Charges:
        """The charges of its request, for the store."""
        return self.plan.charges(self.address, self.identity)


class DescribedRequester(Requester):
    """A client that a door describes by values, under a plan for subjects. ``subject``: the digest of the values."""

    __slots__ = ()

    def charges(self) -> Charges:
        """The charges of its request, for the store."""
        text = self.subject.hex()
        client = Client("described", text, f"described:{text}")
        return tuple([Charge(client, limit, cost) for _, limit, cost in self.plan.own])
