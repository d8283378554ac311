"""The waiting room: members that find no seat get numbers, which are called in order as seats come free.

Numbers are leased in the background for the members that asked since the last call, so a crowd costs a call every
quarter of a second, and no number is ever leased that nobody waits with. A called member has priority until it has come
or ``AWAITED_S`` are over. Workers learn of those who came from the announced takeovers (a number becomes a ticket when
it seats its member), so the store keeps nothing for it; if an announcement is lost, newcomers wait a little longer.
A called member that polls and finds no seat is announced as well, since it keeps its priority.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import islice

from shieldmw.core.cache import BoundedCache
from shieldmw.core.tickets import NUMBER_S, Number, number_in, ticket_of
from shieldmw.core.waiting import EMPTY, Calls, QueuePosition, place
from shieldmw.gate.clock import Clock
from shieldmw.store.port import Store

from .seats import Seats
from .waiters import Waiters

# Numbers given here that are remembered, so that a member without its signed number gets the same one again; also the
# most members that are given one at a time.
NUMBERS_KEPT = 65_536

# Spent numbers that are remembered: for longer than a signed number is valid, unless more than a hundred are called
# each second.
SPENT_KEPT = 131_072

# Most members that wait here at a time for their numbers, and how many are answered without yielding to the loop.
MOST_WAITING = 4096
ANSWERED_AT_ONCE = 64

# Interval between two refreshes, and the shortest one while members come.
POLL_S = 1.0
LEAST_S = 0.25

# Shortest interval between two calls of numbers. A called member needs some seconds to come, but as long as the seat
# stays free, another one is called each second: many have given up.
CALL_S = 0.9

# Most called members that are announced in one message.
MOST_AT_ONCE = 400

WAITING = "waiting "


class WaitingRoom:
    """Numbers the members that must wait here, and knows whether others come before a newcomer."""

    def __init__(self, store: Store, seats: Seats, clock: Clock) -> None:
        self._store = store
        self._seats = seats
        self._clock = clock
        self._queue = EMPTY
        self._calls = Calls()
        self._call_s = 0.0
        self._was_called = 0
        self._calls_per_s = 0.0
        self._given: BoundedCache[str, Number] = BoundedCache(NUMBERS_KEPT)
        self._spent: BoundedCache[str, bool] = BoundedCache(SPENT_KEPT)
        self._asked: dict[str, None] = {}
        self._polled: dict[int, None] = {}
        self._waiters = Waiters()
        self._is_served = True

    def number_of(self, client: str, shown: Number | None) -> int | None:
        """The client's number: as shown, or as given here before; None once it has been spent on a seat."""
        number = shown if shown is not None and shown.client == client else self._given.get(client)
        if number is None or number.until_s <= self._clock.unix_s() or self._is_spent(ticket_of(number.number, client)):
            return None
        return number.number

    def is_called(self, number: int | None) -> bool:
        """Whether a number has been called."""
        return number is not None and number <= self._queue.called

    def polled(self, number: int) -> None:
        """Note that a called member polled and still waits for a seat; other workers are told in the next message."""
        self._calls.polled(number, self._clock.now_s())
        self._polled[number] = None

    def heard(self, change: str) -> None:
        """Note the called members that polled another worker. Everything after the first malformed entry is ignored."""
        with suppress(ValueError):
            for item in change.removeprefix(WAITING).split(","):
                self._calls.polled(int(item), self._clock.now_s())

    def must_wait(self, number: int | None) -> bool:
        """Whether other members come before one with this number, or without any: as many as the fleet has seats."""
        ahead = self._ahead_of(number)
        return ahead > 0 and ahead >= self._seats.free_in_fleet()

    def is_due(self, number: int | None) -> bool:
        """Whether the fleet has a free seat for a number that was called, and for those called before it."""
        return self.is_called(number) and self._ahead_of(number) < self._seats.free_in_fleet()

    def _ahead_of(self, number: int | None) -> int:
        return self._calls.ahead_of(self._queue.given + 1 if number is None else number, self._clock.now_s())

    def wait(self, client: str, number: int | None) -> tuple[QueuePosition, Number] | None:
        """The place of a member, and its number, valid until well after its next poll; None until it has one."""
        if number is None:
            if len(self._asked) < NUMBERS_KEPT:
                self._asked[client] = None
            return None
        stands = place(number, self._queue.called, self._calls_per_s, self._clock.random.random())
        given = Number(number, client, int(self._clock.unix_s() + max(NUMBER_S, 3 * stands.poll_s)))
        self._given.put(client, given)
        return stands, given

    def seated(self, client: str, ticket_id: str) -> None:
        """Note that a client has a seat here: it waits no longer."""
        self._given.drop(client)
        self._asked.pop(client, None)
        self.spend(ticket_id)

    def spend(self, ticket_id: str) -> None:
        """Note that a ticket has a seat, here or elsewhere; if it was a number, the number is spent."""
        number = number_in(ticket_id)
        if number is not None and not self._is_spent(ticket_id):
            self._spent.put(ticket_id, True)
            self._polled.pop(number, None)
            self._calls.came(number)

    def _is_spent(self, ticket_id: str) -> bool:
        return self._spent.get(ticket_id) is not None

    def may_await_number(self) -> bool:
        """Whether one more member without a number may wait for it; not while the store is away."""
        return self._is_served and len(self._waiters) < MOST_WAITING

    async def next_numbers(self) -> None:
        """Wait until the members that asked for a number have one."""
        await self._waiters.wait()

    async def refresh(self) -> None:
        """Lease numbers for the members that asked, wake those that wait, and call a number for each free seat."""
        asked, self._asked, is_served = list(self._asked), {}, False
        try:
            await self._lease([client for client in asked if self.number_of(client, None) is None])
            is_served = True
        finally:
            self._is_served = is_served
            for _ in range(0, len(self._waiters), ANSWERED_AT_ONCE):
                self._waiters.wake(ANSWERED_AT_ONCE)
                await asyncio.sleep(0)
        await self._tell()

    async def _tell(self) -> None:
        """Announce called members that have polled here and still wait; if that fails, their next poll is announced."""
        if batch := list(islice(self._polled, MOST_AT_ONCE)):
            for number in batch:
                del self._polled[number]
            await self._store.tell(WAITING + ",".join(map(str, batch)))

    async def _lease(self, clients: list[str]) -> None:
        """Lease numbers for these clients. Without a limit of seats nobody waits: all numbers are called."""
        if self._seats.capacity() is None and self._queue.called == self._queue.given and not clients:
            return
        now_s = self._clock.now_s()
        may_call = now_s >= self._call_s
        self._queue = await self._store.queue(len(clients), self._seats.free() if may_call else 0, self._queue)
        self._calls.heard(self._queue.called, now_s)
        if may_call:
            self._call_s = now_s + CALL_S
            self._calls_per_s += 0.2 * ((self._queue.called - self._was_called) / POLL_S - self._calls_per_s)
            self._was_called = self._queue.called
        until_s = int(self._clock.unix_s() + NUMBER_S)
        for number, client in enumerate(clients, self._queue.first):
            self._given.put(client, Number(number, client, until_s))
