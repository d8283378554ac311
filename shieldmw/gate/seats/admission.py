"""Admission to live paths: gives seats with tickets, and places in the waiting room. No I/O on the request path."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import lru_cache
from hashlib import blake2b
from math import inf
from secrets import token_bytes, token_hex

from shieldmw.core.bounds import LONGEST_PATH
from shieldmw.core.cache import BoundedCache
from shieldmw.core.client import Address, Identity, ListenerClass, Prefixes
from shieldmw.core.decision import Decision
from shieldmw.core.facts import Facts
from shieldmw.core.tickets import NUMBER_S, TICKET_S, Number, Signer, Ticket
from shieldmw.core.waiting import EMPTY, QueuePosition, place
from shieldmw.gate.auth.identity import GUEST, Identified
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock
from shieldmw.gate.refresher import Refresher
from shieldmw.store.port import Store

from .ledger import Seat
from .seats import Seats
from .stream_caps import NO_CAPS, ClientStreams, StreamCaps
from .takeover import Takeovers, ticket_of

# Smallest block of waiting-room numbers. They are leased in blocks, so that a crowd costs one call a second, not one
# call each. Blocks are small while few members come, since unused numbers are called in vain.
SMALLEST_BLOCK = 8

# Numbers given here to members without a seat that are remembered: a member that comes without its signed number gets
# the same one again.
NUMBERS_KEPT = 65_536

# Most members that wait here at a time for the next block of numbers.
MOST_WITHOUT_NUMBER = 4096

# Interval between two calls of numbers.
POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A seat that was given, and the signed ticket to come back with."""

    seat: Seat
    ticket: str


class NoSeat(Enum):
    """Why a client gets no seat.

    ``DUE``: the fleet has one, and this worker will get it soon. ``VACATING``: the client's own response that this one
    replaces is still finishing. ``TOO_MANY_STREAMS``: the client has all that it may have.
    """

    FULL = auto()
    DUE = auto()
    VACATING = auto()
    TOO_MANY_STREAMS = auto()


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """No seat. Members get a place in the waiting room and the signed number to show there."""

    place: QueuePosition | None = None
    signed_ticket: str | None = None
    why: NoSeat = NoSeat.FULL


DEFAULT_PREFIXES = Prefixes(32, 64)


class Admission:
    """Admits listeners in their order of favour, and numbers the members that must wait.

    A seat belongs to the client that is charged: a member's to its subject, a guest's to its address, cut to
    ``prefixes``.
    """

    def __init__(
        self,
        store: Store,
        seats: Seats,
        event: str,
        *,
        caps: StreamCaps = NO_CAPS,
        prefixes: Prefixes = DEFAULT_PREFIXES,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.seats = seats
        self.takeovers = Takeovers(store, seats)
        self.streams = ClientStreams(store, seats, caps, self.takeovers, clock=clock)
        self._prefixes = prefixes
        self._store = store
        self._event = event
        self._unix_s = clock.unix_s
        self._random = clock.random
        self._signer = Signer(token_bytes(32), event)
        self._secret: bytes | None = None
        self._numbers: deque[int] = deque()
        self._given: BoundedCache[str, Number] = BoundedCache(NUMBERS_KEPT)
        self._queue = EMPTY
        self._calls_per_s = 0.0
        self._asked: set[str] = set()
        self._next_lease = asyncio.Event()
        self._has_leased = True
        self._without_number = 0
        self.refresher = Refresher("waiting room", self.refresh, interval_s=POLL_S, least_s=POLL_S / 4)

    def admit(
        self,
        facts: Facts,
        decision: Decision,
        leave: Callable[[], None] | None,
        proof: Identified = GUEST,
        *,
        may_wait: bool = False,
    ) -> Entry | TurnedAway:
        """A seat for the client, if there is one; ``proof`` is the verified credential.

        ``may_wait``: the client can wait for a seat that is due, rather than take a guest's.
        """
        now_s = self._unix_s()
        who = self._who(decision.identity, decision.address)
        client = self._signer.client_digest(who)
        number = self._number(facts.signed_ticket, client, now_s)
        called = number is not None and number <= self._queue.called
        ticket = self._ticket(facts.signed_ticket, client, decision.listener_class, now_s, number if called else None)
        live = ticket.until_s > 0
        # One stream for each live path: a player and a chat in one browser show the same ticket.
        path, now_ms = _digest(facts.route_path[:LONGEST_PATH]), self.seats.now_ms()
        # Beyond the cap of an address its newest streams end, but never one that has returned: a worker may hear of
        # the return before it hears that the older stream has ended.
        began_ms = 0 if live and decision.identity is None else now_ms
        seat = Seat(
            *(decision.listener_class, self._signer.cohort(who, now_s), ticket.id, leave),
            *(path, now_ms if live or called else 0, int(client[:16], 16), began_ms),
            *(decision.address, proof.api_key, _ends_s(proof)),
        )
        going = self.streams.making_room(seat, live=live)
        if going is None:
            return TurnedAway(why=NoSeat.TOO_MANY_STREAMS)
        if not (live or called or going) and self._must_wait(decision):
            self.seats.turned_away(decision.listener_class, seat.client)
            return self._wait(number, client, now_s)
        if self.seats.admit(seat, live=live, called=called, may_wait=may_wait, listener=seat.client, instead_of=going):
            return self._seated(seat, client, now_s)
        if self.seats.ledger.is_vacating(seat.client):
            return TurnedAway(why=NoSeat.VACATING)
        why = NoSeat.DUE if self.seats.is_due(decision.listener_class) else NoSeat.FULL
        if decision.listener_class is ListenerClass.GUEST or why is NoSeat.DUE:
            return TurnedAway(why=why)
        return self._wait(number, client, now_s)

    def is_ours(self, signed_ticket: str) -> bool:
        """Whether a text is a ticket or number that we signed and that is still valid, whichever client shows it."""
        now_s = self._unix_s()
        return (
            self._signer.read_ticket(signed_ticket, now_s) or self._signer.read_number(signed_ticket, now_s)
        ) is not None

    def is_returning(self, signed_ticket: str, identity: Identity | None, address: Address | None) -> bool:
        """Whether a text is a valid ticket of the client that shows it."""
        shown = self._signer.read_ticket(signed_ticket, self._unix_s())
        return shown is not None and shown.client == self._signer.client_digest(self._who(identity, address))

    def _seated(self, seat: Seat, client: str, now_s: float) -> Entry:
        """Renew the ticket for the seat given, and announce the seat to the other workers."""
        self.streams.came(seat)
        if seat.back_ms:
            self.takeovers.spent.spend(seat.ticket_id)
            self.takeovers.came_back(seat)
        self._given.drop(client)
        renewed = Ticket(seat.ticket_id, client, seat.listener_class, int(now_s) + TICKET_S)
        return Entry(seat, self._signer.sign_ticket(renewed))

    def _who(self, identity: Identity | None, address: Address | None) -> str:
        """The client that owns the seat: the one that is charged."""
        return str(self._prefixes.charged(identity, address))

    def _ticket(
        self, signed_ticket: str | None, client: str, listener_class: ListenerClass, now_s: float, called: int | None
    ) -> Ticket:
        """The ticket that was shown, if it is this client's; otherwise a new one with ``until_s`` 0.

        A number that was ``called`` becomes the ticket, so that it has one stream, whichever workers it is shown to.
        """
        shown = None if signed_ticket is None else self._signer.read_ticket(signed_ticket, now_s)
        if shown is not None and shown.client == client and shown.listener_class is listener_class:
            return shown
        id_ = token_hex(8) if called is None else ticket_of(called, client)
        return Ticket(id_, client, listener_class, 0)

    def renewed(self, signed_ticket: str, decision: Decision) -> str | None:
        """A new ticket for the one shown with an ordinary request, once half of its lifetime is over.

        Only for its own client, and only while a stream with it is here. Otherwise a listener that stays longer than
        a ticket's lifetime would return as a stranger.
        """
        now_s = self._unix_s()
        shown = self._signer.read_ticket(signed_ticket, now_s)
        if shown is None or shown.until_s - now_s >= TICKET_S / 2 or not self.seats.ledger.is_live(shown.id):
            return None
        client = self._signer.client_digest(self._who(decision.identity, decision.address))
        if shown.client != client or shown.listener_class is not decision.listener_class:
            return None
        return self._signer.sign_ticket(replace(shown, until_s=int(now_s) + TICKET_S))

    def _number(self, signed_ticket: str | None, client: str, now_s: float) -> int | None:
        """The client's number: as shown, or as given here before; None once it has been spent on a seat."""
        shown = None if signed_ticket is None else self._signer.read_number(signed_ticket, now_s)
        if shown is None or shown.client != client:
            shown = self._given.get(client)
        if shown is None or shown.until_s <= now_s or ticket_of(shown.number, client) in self.takeovers.spent:
            return None
        return shown.number

    def _must_wait(self, decision: Decision) -> bool:
        """Whether other members come first: more of them wait than there are free seats."""
        waiting = self._queue.given - self._queue.called
        return decision.listener_class is ListenerClass.MEMBER and waiting > self.seats.free()

    def _wait(self, number: int | None, client: str, now_s: float) -> TurnedAway:
        if number is None and (number := self._next_number(client)) is None:
            return TurnedAway()
        stands = place(number, self._queue.called, self._calls_per_s, self._random.random())
        given = Number(number, client, int(now_s + max(NUMBER_S, 3 * stands.poll_s)))
        self._given.put(client, given)
        return TurnedAway(stands, self._signer.sign_number(given))

    def _next_number(self, client: str) -> int | None:
        """The next number of our block; None if the block is used up, until the next one is leased."""
        self.refresher.refresh_soon()
        self._asked.add(client)
        numbers, queue = self._numbers, self._queue
        while numbers and numbers[0] <= queue.called < queue.given:
            numbers.popleft()  # called in vain: a member with it would jump the queue
        return numbers.popleft() if numbers else None

    def may_await_number(self) -> bool:
        """Whether one more member without a number may wait for the next block; not while the store is away."""
        return self._has_leased and self._without_number < MOST_WITHOUT_NUMBER

    async def next_numbers(self) -> None:
        """Wait for the next block of numbers: one call serves all who wait."""
        self._without_number += 1
        self.refresher.refresh_soon()
        try:
            await self._next_lease.wait()
        finally:
            self._without_number -= 1

    async def refresh(self) -> None:
        """Learn the secret that tickets are signed with, lease numbers, and call as many as there are free seats."""
        has_leased = False
        try:
            await self._lease()
            has_leased = True
        finally:
            self._has_leased = has_leased
            self._next_lease.set()
            self._next_lease = asyncio.Event()

    async def _lease(self) -> None:
        secret = await self._store.secret()
        if secret != self._secret:
            self._secret, self._signer = secret, Signer(secret, self._event)
        if self.seats.capacity() is None:
            return
        give, was = self._numbers_to_lease(), self._queue.called
        self._queue = await self._store.queue(give, self.seats.free(), self._queue)
        self._calls_per_s += 0.2 * ((self._queue.called - was) / POLL_S - self._calls_per_s)
        self._numbers.extend(range(self._queue.first, self._queue.first + give))

    def _numbers_to_lease(self) -> int:
        """How many numbers to lease: up to twice the last second's demand, once half of that is used up.

        None while no member asks: the next member would have to wait until the unused ones had been called.
        """
        asked, self._asked = len(self._asked), set()
        wanted = max(SMALLEST_BLOCK, 2 * asked)
        if not asked or 2 * len(self._numbers) > wanted:
            return 0
        return wanted - len(self._numbers)


@lru_cache(maxsize=256)  # listeners on one path share the text
def _digest(path: str) -> str:
    return blake2b(path.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()


def _ends_s(proof: Identified) -> float:
    """The end of a credential (Unix time); infinite for API keys, guests, and members that the host app names."""
    return inf if proof.identity is None or proof.api_key is not None else proof.until_s
