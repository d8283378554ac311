"""The gate: one request's facts in, one decision out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from shieldmw.core.address import Networks, client_address
from shieldmw.core.client import AddressClients, Identity, IPAddress, ListenerClass, address_clients
from shieldmw.core.decision import Decision, OnStoreFailure, Reason, Verdict, combine
from shieldmw.core.facts import Facts
from shieldmw.core.mode import Mode
from shieldmw.core.rules import Access, Policy

from .control import Control
from .deny import DenyWatch
from .events import Decided, Observer
from .identity import Identifier
from .live import Entry, LiveRoom
from .outage import GuardedStore
from .switch import Switch


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

    def __init__(  # noqa: PLR0913  (here everything meets)
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
        deny_list: DenyWatch,
        switch: Switch,
        room: LiveRoom,
        control: Control | None = None,
    ) -> None:
        self._policy = policy
        self._addressing = addressing
        self._identifier = identifier
        self._store = store
        self._on_store_failure = on_store_failure
        self._dry_run = dry_run
        self._background = tuple(background)
        self._observers = tuple(observers)
        self._deny_list = deny_list
        self._switch = switch
        self.room = room
        self.control = control

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
        return self._final(facts, await self._decide(facts))

    def enter(self, facts: Facts, decision: Decision, leave: Callable[[], None]) -> tuple[Decision, Entry | None]:
        """Take a seat for a live response; without one the decision is a refusal.

        ``leave`` is called when the listener must go. The seat is given back to ``room.seats``.
        """
        if self.room.seats.is_leaving:
            return self._final(facts, replace(decision, verdict=Verdict.REFUSED, reason=Reason.RESTARTING)), None
        entry = self.room.enter(facts, decision, (lambda: None) if self._dry_run else leave)
        if isinstance(entry, Entry):
            return decision, entry
        turned_away = replace(
            decision, verdict=Verdict.REFUSED, reason=Reason.NO_SEAT, place=entry.place, paper=entry.paper
        )
        return self._final(facts, turned_away), None

    def _final(self, facts: Facts, decision: Decision) -> Decision:
        if self._dry_run:
            decision = _in_dry_run(decision)
        for observer in self._observers:
            observer.decided(Decided(facts, decision))
        return decision

    async def _decide(self, facts: Facts) -> Decision:
        how = self._addressing
        address = client_address(facts.peer, facts.forwarded, how.trusted, how.header)
        mode = self._switch.mode
        if address in self._policy.deny:
            return Decision(Verdict.REFUSED, Reason.DENY_LIST, address, mode=mode)
        if (left_s := self._deny_list.left_s(address)) > 0:
            return Decision(Verdict.REFUSED, Reason.DENY_LIST, address, retry_after_us=int(left_s * 1e6), mode=mode)
        if self._policy.is_exempt(facts):
            return Decision(Verdict.ALLOWED, Reason.EXEMPT, address, mode=mode)
        clients = address_clients(address, how.ipv4_prefix, how.ipv6_prefix)
        identity = await self._identifier.identify(facts, clients)
        if mode is Mode.EMERGENCY and not self._may_enter(facts, identity):
            return Decision(Verdict.REFUSED, Reason.EMERGENCY, address, identity, mode=mode)
        decision = await self._charge(facts, clients, address, identity, mode)
        return replace(decision, live=True) if self._policy.is_live(facts) else decision

    def _may_enter(self, facts: Facts, identity: Identity | None) -> bool:
        """Whether the path is open to this class in an emergency."""
        access = self._policy.access(facts)
        guest = identity is None or identity.listener_class is ListenerClass.GUEST
        return access is Access.OPEN or (access is Access.MEMBERS and not guest)

    async def _charge(
        self,
        facts: Facts,
        clients: AddressClients,
        address: IPAddress | None,
        identity: Identity | None,
        mode: Mode,
    ) -> Decision:
        if address in self._policy.allow:
            return Decision(Verdict.ALLOWED, Reason.ALLOW_LIST, address, identity, mode=mode)
        charges = self._policy.charges(facts, identity, clients, mode)
        if not charges:
            return Decision(Verdict.ALLOWED, Reason.UNLIMITED, address, identity, mode=mode)
        outcome = await self._store.take(charges)
        if outcome is not None:
            return combine(charges, outcome, address, identity, mode)
        if self._on_store_failure is OnStoreFailure.OPEN:
            return Decision(Verdict.ALLOWED, Reason.STORE_OPEN, address, identity, mode=mode)
        return Decision(Verdict.REFUSED, Reason.STORE_CLOSED, address, identity, mode=mode)


def _in_dry_run(decision: Decision) -> Decision:
    """The same for whoever counts, but nothing that a client could see."""
    if decision.refused:
        return replace(decision, verdict=Verdict.DRY_RUN)
    return replace(decision, levels=())
