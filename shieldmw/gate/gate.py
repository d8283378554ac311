"""The gate: one request's facts in, one decision out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from shieldmw.core.address import Networks, client_address
from shieldmw.core.client import Identity, IPAddress, address_clients
from shieldmw.core.decision import Decision, OnStoreFailure, Reason, Verdict, combine
from shieldmw.core.facts import Facts
from shieldmw.core.rules import Policy

from .events import Decided, Observer
from .identity import Identifier
from .outage import GuardedStore


class Background(Protocol):
    """Something that is kept going while the gate is open."""

    async def start(self) -> None:
        """Begin; returns soon, whatever fails."""

    async def stop(self) -> None:
        """End."""


@dataclass(frozen=True, slots=True)
class Addressing:
    """How the address of a request is found, and what counts as one client."""

    trusted: Networks
    header: str
    ipv4_prefix: int
    ipv6_prefix: int


class Gate:
    """Decides requests. ``start`` before the first, ``stop`` after the last; both can be repeated."""

    def __init__(
        self,
        policy: Policy,
        addressing: Addressing,
        identifier: Identifier,
        store: GuardedStore,
        *,
        on_store_failure: OnStoreFailure,
        dry_run: bool,
        background: Sequence[Background] = (),
        observers: Sequence[Observer] = (),
    ) -> None:
        self._policy = policy
        self._addressing = addressing
        self._identifier = identifier
        self._store = store
        self._on_store_failure = on_store_failure
        self._dry_run = dry_run
        self._background = tuple(background)
        self._observers = tuple(observers)

    async def start(self) -> None:
        """Begin to keep keys fresh. Never fails because something is away."""
        for background in self._background:
            await background.start()

    async def stop(self) -> None:
        """End everything in the background and give back connections."""
        for background in reversed(self._background):
            await background.stop()
        await self._store.aclose()

    async def decide(self, facts: Facts) -> Decision:
        """The decision on one request."""
        decision = await self._decide(facts)
        if self._dry_run:
            decision = _in_dry_run(decision)
        for observer in self._observers:
            observer.decided(Decided(facts, decision))
        return decision

    async def _decide(self, facts: Facts) -> Decision:
        how = self._addressing
        address = client_address(facts.peer, facts.forwarded, how.trusted, how.header)
        if address in self._policy.deny:
            return Decision(Verdict.REFUSED, Reason.DENY_LIST, address)
        if self._policy.is_exempt(facts):
            return Decision(Verdict.ALLOWED, Reason.EXEMPT, address)
        clients = address_clients(address, how.ipv4_prefix, how.ipv6_prefix)
        identity = await self._identifier.identify(facts, clients)
        if address in self._policy.allow:
            return Decision(Verdict.ALLOWED, Reason.ALLOW_LIST, address, identity)
        charges = self._policy.charges(facts, identity, clients)
        if not charges:
            return Decision(Verdict.ALLOWED, Reason.UNLIMITED, address, identity)
        outcome = await self._store.take(charges)
        if outcome is None:
            return self._without_store(address, identity)
        return combine(charges, outcome, address, identity)

    def _without_store(self, address: IPAddress | None, identity: Identity | None) -> Decision:
        if self._on_store_failure is OnStoreFailure.OPEN:
            return Decision(Verdict.ALLOWED, Reason.STORE_OPEN, address, identity)
        return Decision(Verdict.REFUSED, Reason.STORE_CLOSED, address, identity)


def _in_dry_run(decision: Decision) -> Decision:
    """The same for whoever counts, but nothing that a client could see."""
    if decision.refused:
        return replace(decision, verdict=Verdict.DRY_RUN)
    return replace(decision, levels=())
