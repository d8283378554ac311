"""One stream for each ticket and path in the whole fleet: who comes back here leaves the worker that it was on.

A number of the waiting room becomes a ticket when it seats its member, and is spent: workers hear of that likewise.

No call for each listener: who came back lately is told in batches, on the channel of changes. Pub/Sub may lose one;
then the older stream ends as it would anyhow, when its connection is found to be dead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice

from shieldmw.core.decision import Reason
from shieldmw.core.table import BoundedCache
from shieldmw.gate.fleet.refresher import Refresher
from shieldmw.store.port import ModeRegister

from .ledger import Seat
from .seats import Seats

TAKEN = "taken "

# Every worker hears every message: few of them, and none much longer than 16 kB.
MOST_AT_ONCE = 400

# After an outage of the store many may be waiting to be told. Whoever is left out has one old stream more.
MOST_WAITING = 65_536

EVERY_S = 5.0
LEAST_S = 0.25


# A spent number is remembered until so many others were: longer than its paper is good for, unless more than a
# hundred are called each second.
NUMBERS_KEPT = 131_072

_OF_NUMBER = "n"


def ticket_of(number: int, client: str) -> str:
    """The id of the ticket that a number becomes: the same on every worker, whichever seats it."""
    return f"{_OF_NUMBER}{number:x}-{client}"


class SpentNumbers:
    """The numbers that have seated their members, by the tickets that they became."""

    def __init__(self) -> None:
        self._spent: BoundedCache[str, bool] = BoundedCache(NUMBERS_KEPT)

    def spend(self, ticket_id: str) -> None:
        """A ticket has a seat: if it was a number, that is spent."""
        if ticket_id.startswith(_OF_NUMBER):
            self._spent.put(ticket_id, True)

    def __contains__(self, ticket_id: str) -> bool:
        return self._spent.get(ticket_id) is not None


class Takeovers:
    """Tells the others who has come back here, and ends the older stream here of whoever has come back elsewhere."""

    def __init__(self, register: ModeRegister, seats: Seats) -> None:
        self._register = register
        self._seats = seats
        self.spent = SpentNumbers()
        self._back: dict[tuple[str, str], None] = {}
        self._telling = asyncio.Lock()  # two tasks refresh: this one's own and that of ClientStreams
        self._refresher = Refresher("takeovers", self.refresh, interval_s=EVERY_S, least_s=LEAST_S)

    def __len__(self) -> int:
        return len(self._back)

    def came_back(self, seat: Seat) -> None:
        """A listener has shown its ticket or its number, and has a seat here."""
        if len(self._back) < MOST_WAITING:
            self._back[seat.ticket_id, seat.path] = None
            self._refresher.soon()

    async def refresh(self) -> None:
        """Tell who came back and is still here. One after the other: when it returns, all of them have been told."""
        self._refresher.least_s = self._seats.pace_s(LEAST_S)
        async with self._telling:
            while batch := list(islice(self._back, MOST_AT_ONCE)):
                for key in batch:
                    del self._back[key]
                await self._tell(batch)

    async def _tell(self, batch: Sequence[tuple[str, str]]) -> None:
        """Tell of these; they wait again where that fails."""
        found = (self._seats.ledger.find(*key) for key in batch)
        taken = [f"{seat.ticket_id}:{seat.path}:{seat.back_ms}" for seat in found if seat is not None]
        try:
            if taken:
                await self._register.tell(f"{TAKEN}{self._seats.worker} {','.join(taken)}")
        except Exception:
            self._back = dict.fromkeys(batch) | self._back
            raise

    def heard(self, change: str) -> None:
        """Some worker has told who came back to it: the older streams here end.

        Of two that came at the same time to the millisecond that on the worker with the lesser name ends: each
        worker hears of the other's, and one must stay.
        """
        worker, _, taken = change.removeprefix(TAKEN).partition(" ")
        ledger, here = self._seats.ledger, self._seats.worker
        for ticket_id, path, back_ms in _parsed(taken) if worker != here else ():
            self.spent.spend(ticket_id)
            seat = ledger.find(ticket_id, path)
            if seat is not None and (seat.back_ms, here) < (back_ms, worker):
                ledger.evict(seat, Reason.REPLACED)

    async def start(self) -> None:
        """Begin to tell."""
        await self._refresher.start(first_s=1.0)

    async def stop(self) -> None:
        """Tell no more."""
        await self._refresher.stop()


def _parsed(taken: str) -> Iterator[tuple[str, str, int]]:
    """Ticket, path and time of each; what is no such message holds none."""
    with suppress(ValueError):
        for item in taken.split(","):
            ticket_id, path, back_ms = item.split(":")
            yield ticket_id, path, int(back_ms)
