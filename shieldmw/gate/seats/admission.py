"""Admission to live paths: gives seats with tickets, and places in the waiting room. No I/O on the request path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from hashlib import blake2b
from math import inf
from secrets import token_bytes, token_hex

from shieldmw.core.bounds import LONGEST_PATH
from shieldmw.core.client import Address, Identity, ListenerClass, Prefixes
from shieldmw.core.decision import Decision
from shieldmw.core.facts import Facts
from shieldmw.core.tickets import TICKET_S, Signer, Ticket, ticket_of
from shieldmw.core.waiting import QueuePosition
from shieldmw.gate.auth.identity import GUEST, Identified
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock
from shieldmw.gate.refresher import Refresher
from shieldmw.store.port import Store

from .seat import Seat
from .seats import Seats
from .stream_caps import NO_CAPS, ClientStreams, StreamCaps
from .takeover import Takeovers
from .waiting_room import LEAST_S, POLL_S, WaitingRoom


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


_NONE_SHOWN = ("", None, None, None)

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
        self.room = WaitingRoom(store, seats, clock)
        self.takeovers = Takeovers(store, seats, self.room.spend)
        self.streams = ClientStreams(store, seats, caps, self.takeovers, clock=clock)
        self._prefixes = prefixes
        self._store = store
        self._event = event
        self._unix_s = clock.unix_s
        self._signer = Signer(token_bytes(32), event)
        self._secret: bytes | None = None
        self._last_shown: tuple[str, Identity | None, Address | None, Ticket | None] = _NONE_SHOWN
        self.refresher = Refresher("waiting room", self.refresh, interval_s=POLL_S, least_s=LEAST_S)

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
        who = self._prefixes.name(decision.identity, decision.address)
        client = self._signer.client_digest(who)
        number = self.number_shown(facts.signed_ticket, client)
        called = self.room.is_called(number)
        if number is not None and called:
            self.room.polled(number)
        ticket = self._ticket(facts.signed_ticket, client, decision.listener_class, number)
        live = ticket.until_s > 0
        # One stream for each live path: a player and a chat in one browser show the same ticket.
        path, now_ms = _digest(facts.route_path[:LONGEST_PATH]), self.seats.now_ms()
        # Beyond the cap of an address its newest streams end, but never one that has returned: a worker may hear of
        # the return before it hears that the older stream has ended.
        began_ms = 0 if live and decision.identity is None else now_ms
        seat = Seat(
            *(decision.listener_class, self._signer.cohort(who, now_s), ticket.id, leave),
            *(path, now_ms if live or number is not None else 0, int(client[:16], 16), began_ms),
            *(decision.address, proof.api_key, _ends_s(proof), (ticket.first_ms or now_ms) if live else now_ms),
        )
        going = self.streams.making_room(seat, live=live)
        if going is None:
            return TurnedAway(why=NoSeat.TOO_MANY_STREAMS)
        is_member = decision.listener_class is ListenerClass.MEMBER
        if is_member and not (live or going) and self.room.must_wait(number):
            # A free seat is for the one in front, so it goes to the worker that it asks, not to where most wait.
            if number is None or not self.seats.free_in_fleet():
                self.seats.turned_away(decision.listener_class, seat.client)
            return self.wait(client, number)
        if self.seats.admit(seat, live=live, called=called, may_wait=may_wait, listener=seat.client, instead_of=going):
            return self._seated(seat, ticket)
        if self.seats.ledger.is_vacating(seat.client):
            return TurnedAway(why=NoSeat.VACATING)
        is_due = self.seats.is_due(decision.listener_class) or (is_member and self.room.is_due(number))
        why = NoSeat.DUE if is_due else NoSeat.FULL
        if decision.listener_class is ListenerClass.GUEST or why is NoSeat.DUE:
            return TurnedAway(why=why)
        return self.wait(client, number)

    def is_ours(self, signed_ticket: str) -> bool:
        """Whether a text is a ticket or number that we signed and that is still valid, whichever client shows it."""
        now_s = self._unix_s()
        return (
            self._signer.read_ticket(signed_ticket, now_s) or self._signer.read_number(signed_ticket, now_s)
        ) is not None

    def is_returning(self, signed_ticket: str, identity: Identity | None, address: Address | None) -> bool:
        """Whether a text is a valid ticket of the client that shows it."""
        return self.own_ticket(signed_ticket, identity, address) is not None

    def _seated(self, seat: Seat, ticket: Ticket) -> Entry:
        """Renew the ticket for the seat given, and announce the seat to the other workers."""
        self.streams.came(seat)
        if seat.back_ms:
            self.takeovers.came_back(seat)
        self.room.seated(ticket.client, ticket.id)
        return Entry(seat, self.signed(ticket._replace(first_ms=seat.first_ms)))

    def _ticket(
        self, signed_ticket: str | None, client: str, listener_class: ListenerClass, number: int | None
    ) -> Ticket:
        """The ticket that was shown, if it is this client's; otherwise a new one with ``until_s`` 0.

        The client's number becomes the ticket, so that it has one stream, whichever workers it is shown to.
        """
        shown = None if signed_ticket is None else self._signer.read_ticket(signed_ticket, self._unix_s())
        if shown is not None and shown.client == client and shown.listener_class is listener_class:
            return shown
        return self.new_ticket(client, listener_class, number)

    # --- for clients that poll

    def ticket_number(self, ticket_id: str) -> int:
        """A number of 64 bits that stands for a ticket's id."""
        return self._signer.number_of(ticket_id)

    def client_of(self, identity: Identity | None, address: Address | None) -> str:
        """The digest that stands for the client that owns a seat."""
        return self._signer.client_digest(self._prefixes.name(identity, address))

    def cohort_of(self, decision: Decision) -> int:
        """The cohort of a request's client."""
        return self._signer.cohort(self._prefixes.name(decision.identity, decision.address), self._unix_s())

    def own_ticket(
        self, signed_ticket: str, identity: Identity | None, address: Address | None, *, or_ended: bool = False
    ) -> Ticket | None:
        """The ticket that a client shows; None if it is not its own, or none at all, or has ended.

        ``or_ended``: one that has ended is returned as well. The last one is remembered: several parts of the shield
        look at the ticket of a request.
        """
        signed, whose, at, shown = self._last_shown
        if signed != signed_ticket or whose != identity or at != address:
            shown = self._signer.read_ticket(signed_ticket, 0.0)
            if shown is not None and shown.client != self.client_of(identity, address):
                shown = None
            self._last_shown = signed_ticket, identity, address, shown
        return shown if or_ended or (shown is not None and shown.until_s > self._unix_s()) else None

    def number_shown(self, signed_ticket: str | None, client: str) -> int | None:
        """The client's number in the waiting room, if it has one."""
        shown = None if signed_ticket is None else self._signer.read_number(signed_ticket, self._unix_s())
        return self.room.number_of(client, shown)

    def new_ticket(self, client: str, listener_class: ListenerClass, number: int | None) -> Ticket:
        """A client's first ticket; it is not signed yet, so ``until_s`` is 0."""
        id_ = token_hex(8) if number is None else ticket_of(number, client)
        return Ticket(id_, client, listener_class, 0)

    def signed(self, ticket: Ticket) -> str:
        """A ticket for another hour, as text."""
        return self._signer.sign_ticket(ticket._replace(until_s=int(self._unix_s()) + TICKET_S))

    def renewed(self, signed_ticket: str, decision: Decision) -> str | None:
        """A new ticket for the one shown with an ordinary request, once half of its lifetime is over.

        Only for its own client, and only while a stream with it is here. Otherwise a listener that stays longer than
        a ticket's lifetime would return as a stranger.
        """
        shown = self.own_ticket(signed_ticket, decision.identity, decision.address)
        if shown is None or shown.listener_class is not decision.listener_class:
            return None
        if shown.until_s - self._unix_s() >= TICKET_S / 2 or not self.seats.ledger.is_live(shown.id):
            return None
        return self.signed(shown)

    def wait(self, client: str, number: int | None) -> TurnedAway:
        """A place in the waiting room, once the client has a number."""
        waits = self.room.wait(client, number)
        if waits is None:
            self.refresher.refresh_soon()
            return TurnedAway()
        stands, given = waits
        return TurnedAway(stands, self._signer.sign_number(given))

    async def refresh(self) -> None:
        """Learn the secret that tickets are signed with, and refresh the waiting room."""
        try:
            secret = await self._store.secret()
            if secret != self._secret:
                self._secret, self._signer = secret, Signer(secret, self._event)
                self._last_shown = _NONE_SHOWN
        finally:
            await self.room.refresh()


@lru_cache(maxsize=256)  # listeners on one path share the text
def _digest(path: str) -> str:
    return blake2b(path.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()


def _ends_s(proof: Identified) -> float:
    """The end of a credential (Unix time); infinite for API keys, guests, and members that the host app names."""
    return inf if proof.identity is None or proof.api_key is not None else proof.until_s
