"""Keeps one stream for each ticket and path in the whole fleet: a listener that comes back here leaves its old worker.

A number of the waiting room becomes a ticket when it seats its member, and is spent; workers hear of that, too.

There is no call per listener: those who came back are announced in batches, on the channel of changes. If Pub/Sub
loses a message, the older stream ends when its connection is found to be dead, as it would anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice

from shieldmw.core.decision import Reason
from shieldmw.gate.refresher import Refresher
from shieldmw.store.port import ChangeFeed

from .seat import Seat
from .seats import Seats

TAKEN = "taken "

# Most streams in one message. Every worker hears every message: there should be few, and none much longer than 16 kB.
MOST_AT_ONCE = 400

# Most streams waiting to be announced, as after an outage of the store. The older stream of any beyond that stays.
MOST_WAITING = 65_536

# Longest and shortest interval between two announcements.
EVERY_S = 5.0
LEAST_S = 0.25


class Takeovers:
    """Announces listeners that came back here, and ends the older streams of those that came back elsewhere.

    ``spend`` is called with each ticket that has seated its listener elsewhere.
    """

    def __init__(self, feed: ChangeFeed, seats: Seats, spend: Callable[[str], None]) -> None:
        self._feed = feed
        self._seats = seats
        self._spend = spend
        self._back: dict[tuple[str, str], None] = {}
        self._telling = asyncio.Lock()  # two tasks call refresh: the refresher here and that of ClientStreams
        self.refresher = Refresher("takeovers", self.refresh, interval_s=EVERY_S, least_s=LEAST_S)

    def __len__(self) -> int:
        return len(self._back)

    def came_back(self, seat: Seat) -> None:
        """Announce a listener that has shown its ticket or number, and has a seat here."""
        if len(self._back) < MOST_WAITING:
            self._back[seat.ticket_id, seat.path] = None
            self.refresher.refresh_soon()

    async def refresh(self) -> None:
        """Announce those who came back and are still here. Serialized: once it returns, all of them are announced."""
        self.refresher.least_s = self._seats.pace_s(LEAST_S)
        async with self._telling:
            while batch := list(islice(self._back, MOST_AT_ONCE)):
                for key in batch:
                    del self._back[key]
                await self._tell(batch)

    async def _tell(self, batch: Sequence[tuple[str, str]]) -> None:
        """Announce a batch; if that fails, its streams wait again."""
        found = (self._seats.ledger.find(*key) for key in batch)
        taken = [f"{seat.ticket_id}:{seat.path}:{seat.back_ms}" for seat in found if seat is not None]
        try:
            if taken:
                await self._feed.tell(f"{TAKEN}{self._seats.worker} {','.join(taken)}")
        except Exception:
            self._back = dict.fromkeys(batch) | self._back
            raise

    def heard(self, change: str) -> None:
        """Apply another worker's announcement of listeners that came back to it: end their older streams here.

        If two came in the same millisecond, the one on the worker with the lesser name ends: each worker hears of the
        other's stream, and one must stay.
        """
        worker, _, taken = change.removeprefix(TAKEN).partition(" ")
        ledger, here = self._seats.ledger, self._seats.worker
        for ticket_id, path, back_ms in _parsed(taken) if worker != here else ():
            self._spend(ticket_id)
            seat = ledger.find(ticket_id, path)
            if seat is not None and (seat.back_ms, here) < (back_ms, worker):
                ledger.evict(seat, Reason.REPLACED)


def _parsed(taken: str) -> Iterator[tuple[str, str, int]]:
    """Ticket, path and time of each stream in a message, up to the first malformed one."""
    with suppress(ValueError):
        for item in taken.split(","):
            ticket_id, path, back_ms = item.split(":")
            yield ticket_id, path, int(back_ms)
