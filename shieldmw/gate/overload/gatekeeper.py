"""The lane on an event loop: tells it of turns, and wakes those whose turn has come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable

from shieldmw.core.lane import Lane, Rank
from shieldmw.gate import ticks

# How often the queue is looked at while nothing in it can go on.
SWEEP_S = 0.02


class Era:
    """Requests that entered at about the same time. Once it ``is_over`` their places are for others."""

    __slots__ = ("inside", "is_over")

    def __init__(self) -> None:
        self.inside = 0
        self.is_over = False


class Passage:
    """One request inside the app, from its entry to the start of its response."""

    __slots__ = ("_began_us", "_era", "_inside_then", "_keeper")

    def __init__(self, keeper: Gatekeeper, era: Era, began_us: int) -> None:
        self._keeper: Gatekeeper | None = keeper
        self._era = era
        self._began_us = began_us
        self._inside_then = keeper.places.inside
        era.inside += 1

    def begun(self, route: Hashable) -> None:
        """Its response begins; what is told again is not heard."""
        keeper = self._keeper
        if keeper is not None:
            self._keeper = None
            self._era.inside -= 1
            if not self._era.is_over:
                keeper.began(route, self._began_us, self._inside_then)

    def end(self) -> None:
        """It has ended, perhaps without a response."""
        keeper = self._keeper
        if keeper is not None:
            self._keeper = None
            self._era.inside -= 1
            if not self._era.is_over:
                keeper.left()


Waiter = asyncio.Future[bool]


class Gatekeeper:
    """Lets requests into the app of one event loop. ``lane_of`` makes the lane."""

    def __init__(
        self,
        lane_of: Callable[[Callable[[Waiter], None], Callable[[Waiter], None]], Lane[Waiter]],
        now_us: Callable[[], int] = ticks.now_us,
    ) -> None:
        self._now_us = now_us
        self.lane = lane_of(self._let_in, self._refuse)
        self.places = self.lane.places
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tick_is_due = False
        self._sweep: asyncio.TimerHandle | None = None
        self._era, self._era_before, self._era_began_us = Era(), Era(), 0

    def enter_now(self, rank: Rank) -> Passage | None:
        """The passage of a request that enters at once."""
        now_us = self._now_us()
        if not self._tick_is_due:
            self._tick_soon()
        return Passage(self, self._era, now_us) if self.lane.enters(rank, now_us) else None

    def enter_anyway(self) -> Passage:
        """The passage of a request that enters though it should wait."""
        self.places.entered()
        return Passage(self, self._era, self._now_us())

    def would_refuse(self, rank: Rank) -> bool:
        """Whether a request would have to wait too long."""
        return self.lane.would_refuse(rank, self._now_us())

    async def wait(self, rank: Rank) -> Passage | None:
        """Wait for a turn; None where it took too long."""
        waiter = self.queue(rank)
        try:
            let_in = await waiter
        except asyncio.CancelledError:
            self.lane.leave(rank, waiter)
            if waiter.done() and not waiter.cancelled() and waiter.result():
                self.left()  # its turn came in the moment that it went away: the place is for another
            raise
        return Passage(self, self._era, self._now_us()) if let_in else None

    def queue(self, rank: Rank) -> Waiter:
        """Put a waiter into the queue: True where its turn has come, False where it took too long."""
        waiter: Waiter = self._running().create_future()
        self.lane.wait(rank, waiter, self._now_us())
        if not self._tick_is_due:
            self._tick_soon()
        return waiter

    def began(self, route: Hashable, began_us: int, inside_then: int) -> None:
        """A response has begun; ``inside_then`` requests were inside when its own entered."""
        now_us = self._now_us()
        self.places.sample(route, now_us - began_us, now_us, inside_then)
        self._left(now_us)

    def left(self) -> None:
        """A request is inside no longer."""
        self._left(self._now_us())

    def _left(self, now_us: int) -> None:
        self.lane.left(now_us)
        if self.lane.waiting and not self._tick_is_due:
            self._tick_soon()

    def _let_in(self, waiter: Waiter) -> None:
        if waiter.done():  # it was cancelled, and has not been told so yet
            self.places.left()
        else:
            waiter.set_result(True)

    def _refuse(self, waiter: Waiter) -> None:
        if not waiter.done():
            waiter.set_result(False)

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def _tick_soon(self) -> None:
        self._tick_is_due = True
        self._running().call_soon(self._tick)

    def _tick(self) -> None:
        self._tick_is_due = False
        lane, now_us = self.lane, self._now_us()
        if lane.waiting:
            self._turn_eras(now_us)
        lane.turn(now_us)
        if not lane.waiting:
            return
        if lane.can_go_on:
            self._tick_soon()
        elif self._sweep is None:
            self._sweep = self._running().call_later(SWEEP_S, self._swept)

    def _turn_eras(self, now_us: int) -> None:
        """Take the places of those who have been inside for too long, from one to two times the places' patience."""
        places = self.places
        if places.patience_us is None or now_us - self._era_began_us < places.patience_us:
            return
        self._era_before.is_over = True
        for _ in range(self._era_before.inside):
            places.left()
        self._era_before, self._era, self._era_began_us = self._era, Era(), now_us

    def _swept(self) -> None:
        self._sweep = None
        if not self._tick_is_due:
            self._tick()
