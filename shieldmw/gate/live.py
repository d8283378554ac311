"""The live room: who gets a seat, with which ticket, and what those hear who get none. No I/O on a request's way."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from random import random
from secrets import token_bytes, token_hex

from shieldmw.core.bounds import LONGEST_PATH
from shieldmw.core.client import Identity, ListenerClass
from shieldmw.core.decision import Decision
from shieldmw.core.facts import Facts
from shieldmw.core.tickets import NUMBER_S, TICKET_S, Number, Signer, Ticket
from shieldmw.core.waiting import EMPTY, Place, place
from shieldmw.store.port import Store

from .audience import Seat
from .refresher import Refresher
from .seats import Seats
from .takeover import Takeovers

# Numbers of the waiting room are leased in blocks, so that a crowd costs a call a second, not one each. Blocks
# are small while few come: numbers that nobody holds are called in vain.
SMALLEST_BLOCK = 8

POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A seat that was given, and the ticket to come back with."""

    seat: Seat
    ticket: str


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """No seat: for members a place in the waiting room and the number to show there."""

    place: Place | None = None
    paper: str | None = None


class LiveRoom:
    """Lets listeners in, in the order of favour, and numbers the members who must wait."""

    def __init__(self, store: Store, seats: Seats, event: str, *, now_s: Callable[[], float] = time.time) -> None:
        self.seats = seats
        self.takeovers = Takeovers(store, seats)
        self._store = store
        self._event = event
        self._now_s = now_s
        self._signer = Signer(token_bytes(32), event)
        self._secret: bytes | None = None
        self._numbers: deque[int] = deque()
        self._queue = EMPTY
        self._calls_per_s = 0.0
        self._asked = 0
        self._refresher = Refresher("waiting room", self.refresh, interval_s=POLL_S, least_s=POLL_S / 4)

    def enter(self, facts: Facts, decision: Decision, leave: Callable[[], None]) -> Entry | TurnedAway:
        """A seat, if there is one for whoever asks."""
        now_s = self._now_s()
        who = _who(decision)
        client = self._signer.client_digest(who)
        ticket = self._ticket(facts.paper, client, decision.listener_class, now_s)
        # One connection for each live path: a player and a chat in one browser show the same ticket.
        path = _digest(facts.route_path[:LONGEST_PATH])
        cohort = self._signer.cohort(who, now_s)
        live = ticket.until_s > 0
        back_ms = self.seats.now_ms() if live else 0
        seat = Seat(decision.listener_class, cohort, ticket.id, leave, path, back_ms)
        number = self._number(facts.paper, client, now_s)
        first = live or (number is not None and number <= self._queue.called)
        if not first and self._must_wait(decision):
            self.seats.turned_away(decision.listener_class, hash(client))
        elif self.seats.admit(seat, live=first, listener=hash(client)):
            if live:
                self.takeovers.came_back(seat)
            renewed = Ticket(ticket.id, client, decision.listener_class, int(now_s) + TICKET_S)
            return Entry(seat, self._signer.sign_ticket(renewed))
        if decision.listener_class is ListenerClass.GUEST:
            return TurnedAway()
        return self._wait(number, client, now_s)

    def _ticket(self, paper: str | None, client: str, listener_class: ListenerClass, now_s: float) -> Ticket:
        """The ticket that was shown, if it is this client's; else a new one, of no age (``until_s`` 0)."""
        shown = None if paper is None else self._signer.read_ticket(paper, now_s)
        if shown is not None and shown.client == client and shown.listener_class is listener_class:
            return shown
        return Ticket(token_hex(8), client, listener_class, 0)

    def renewed(self, paper: str, decision: Decision) -> str | None:
        """A new ticket for the one shown with another request, once half of its life is over.

        Only for its own client, and only while a stream with it is here: whoever listens for longer than a ticket
        lives would else come back as a stranger.
        """
        now_s = self._now_s()
        shown = self._signer.read_ticket(paper, now_s)
        if shown is None or shown.until_s - now_s >= TICKET_S / 2 or not self.seats.book.is_live(shown.id):
            return None
        client = self._signer.client_digest(_who(decision))
        if shown.client != client or shown.listener_class is not decision.listener_class:
            return None
        return self._signer.sign_ticket(replace(shown, until_s=int(now_s) + TICKET_S))

    def _number(self, paper: str | None, client: str, now_s: float) -> int | None:
        shown = None if paper is None else self._signer.read_number(paper, now_s)
        return shown.number if shown is not None and shown.client == client else None

    def _must_wait(self, decision: Decision) -> bool:
        """Whether other members were here first: more of them wait than seats are free."""
        waiting = self._queue.given - self._queue.called
        return decision.listener_class is ListenerClass.MEMBER and waiting > self.seats.free()

    def _wait(self, number: int | None, client: str, now_s: float) -> TurnedAway:
        number = self._next_number() if number is None else number
        if number is None:
            return TurnedAway()
        stands = place(number, self._queue.called, self._calls_per_s, random())
        paper = Number(number, client, int(now_s + max(NUMBER_S, 3 * stands.poll_s)))
        return TurnedAway(stands, self._signer.sign_number(paper))

    def _next_number(self) -> int | None:
        """A number of our block; None where it is used up, until the next one is leased."""
        self._refresher.soon()
        self._asked += 1
        numbers, queue = self._numbers, self._queue
        while numbers and numbers[0] <= queue.called < queue.given:
            numbers.popleft()  # called in vain: whoever had it would come before those who wait
        return numbers.popleft() if numbers else None

    async def refresh(self) -> None:
        """Learn the secret that papers are signed with, lease numbers, and call as many as seats are free."""
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
        """Twice what the last second asked for, once half of that is gone.

        None while nobody asks: whoever comes would have to wait until numbers that nobody holds were called.
        """
        asked, self._asked = self._asked, 0
        wanted = max(SMALLEST_BLOCK, 2 * asked)
        if not asked or 2 * len(self._numbers) > wanted:
            return 0
        return wanted - len(self._numbers)

    async def start(self) -> None:
        """Keep the queue fresh."""
        await self._refresher.start(first_s=1.0)
        await self.takeovers.start()

    async def stop(self) -> None:
        """Keep it fresh no longer."""
        await self.takeovers.stop()
        await self._refresher.stop()


@lru_cache(maxsize=256)  # listeners of one path share the text
def _digest(path: str) -> str:
    return blake2b(path.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()


def _who(decision: Decision) -> str:
    """The client whose seat it is: the subject, else the address."""
    identity: Identity | None = decision.identity
    return f"ip:{decision.address}" if identity is None else f"token:{identity.subject}"
