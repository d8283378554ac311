"""The lane on an event loop: tells it of turns, and wakes those whose turn has come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable

from shieldmw.core.concurrency import Intake
from shieldmw.core.lane import Lane, Rank
from shieldmw.gate import clock

# How often the queue is looked at while nothing in it can go on.
SWEEP_S = 0.02

# While nothing waits one request in so much time is measured: that costs as much as all else for four of them.
MEASURED_US = 2_000


class Passage:
    """One request inside the app, from its entry to the start of its response.

    How long that takes is measured now and then, and of all while others wait: ``inside_then`` is how many were inside
    when it entered, itself included, and 0 where it is not measured.
    """

    __slots__ = ("_entered_us", "_intake", "_keeper", "inside_then", "is_inside")

    def __init__(self, keeper: Gatekeeper, intake: Intake, entered_us: int = 0, inside_then: int = 0) -> None:
        self._keeper = keeper
        self._intake = intake
        self._entered_us = entered_us
        self.inside_then = inside_then
        self.is_inside = True

    def begun(self, route: Hashable) -> None:
        """Its response begins; where it is measured, the time is compared with those of the same route. Idempotent."""
        if self.is_inside and self.inside_then:
            self._keeper.took(route, self._entered_us, self.inside_then)
        self.end()

    def end(self) -> None:
        """Its response has begun, or it has ended without one. Idempotent."""
        if self.is_inside:
            self.is_inside = False
            self._intake.count -= 1
            if self._keeper.lane.waiting:
                self._keeper.left()

    def goes_on(self) -> bool:
        """It has heard from its client, and what it takes is measured from now on; False if its place is another's."""
        if not self.is_inside:
            return True
        if not self._keeper.lane.places.counts(self._intake):
            return False
        self._entered_us, self.inside_then = self._keeper.now()
        return True

    def goes_on_as(self, other: Passage) -> None:
        """It has come through the lane once more, and takes the place that was given."""
        self.end()
        self._intake, self._entered_us = other._intake, other._entered_us
        self.inside_then, self.is_inside = other.inside_then, True


# A future of its place in the app, None where it took too long.
Waiter = asyncio.Future[Intake | None]


class Gatekeeper:
    """Lets requests into the app of one event loop. ``lane_of`` makes the lane."""

    def __init__(
        self,
        lane_of: Callable[[Callable[[Waiter, Intake], None], Callable[[Waiter], None]], Lane[Waiter]],
        now_us: Callable[[], int] = clock.now_us,
    ) -> None:
        self._now_us = now_us
        self.lane = lane_of(self._let_in, self._refuse)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tick_is_due = False
        self._measures_us = 0
        self._sweep: asyncio.TimerHandle | None = None

    def enter_now(self, rank: Rank) -> Passage | None:
        """The passage of a request that enters at once."""
        now_us = self._now_us()
        if not self._tick_is_due:
            self._tick_soon()
        intake = self.lane.enters(rank, now_us)
        if intake is None:
            return None
        if now_us < self._measures_us:
            return Passage(self, intake)
        self._measures_us = now_us + MEASURED_US
        return Passage(self, intake, now_us, self.lane.places.inside)

    def enter_without_a_place(self) -> Passage:
        """The passage of a request that no lane holds up."""
        passage = Passage(self, Intake())
        passage.is_inside = False
        return passage

    def enter_anyway(self) -> Passage:
        """The passage of a request that enters though it should wait."""
        return Passage(self, self.lane.places.enter(), *self.now())

    def now(self) -> tuple[int, int]:
        """The time, and how many are inside."""
        return self._now_us(), self.lane.places.inside

    def would_refuse(self, rank: Rank) -> bool:
        """Whether a request would have to wait too long."""
        return self.lane.would_refuse(rank, self._now_us())

    async def wait(self, rank: Rank) -> Passage | None:
        """Wait for a turn; None where it took too long."""
        waiter = self.queue(rank)
        try:
            intake = await waiter
        except asyncio.CancelledError:
            self.lane.leave(rank, waiter)
            if waiter.done() and not waiter.cancelled():
                self.give_back(waiter.result())  # its turn came in the moment that it went away
            raise
        return None if intake is None else Passage(self, intake, *self.now())

    def queue(self, rank: Rank) -> Waiter:
        """Put a waiter into the queue."""
        waiter: Waiter = self._running().create_future()
        self.lane.wait(rank, waiter, self._now_us())
        if not self._tick_is_due:
            self._tick_soon()
        return waiter

    def took(self, route: Hashable, entered_us: int, inside_then: int) -> None:
        """Compare the time since a request entered with the usual one of its route."""
        now_us = self._now_us()
        self.lane.places.sample(route, now_us - entered_us, now_us, inside_then)

    def give_back(self, intake: Intake | None) -> None:
        """A place that was given is not taken: it is for another."""
        if intake is not None:
            Passage(self, intake).end()

    def left(self) -> None:
        """A place is free, and others wait."""
        self.lane.left(self._now_us())
        if not self._tick_is_due:
            self._tick_soon()

    def _let_in(self, waiter: Waiter, intake: Intake) -> None:
        if waiter.done():  # it was cancelled, and has not been told so yet
            intake.count -= 1
        else:
            waiter.set_result(intake)

    def _refuse(self, waiter: Waiter) -> None:
        if not waiter.done():
            waiter.set_result(None)

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def _tick_soon(self) -> None:
        self._tick_is_due = True
        self._running().call_soon(self._tick)

    def _tick(self) -> None:
        self._tick_is_due = False
        lane = self.lane
        lane.turn(self._now_us())
        if lane.is_open:
            self._tick_soon()
        elif lane.waiting and self._sweep is None:
            self._sweep = self._running().call_later(SWEEP_S, self._swept)

    def _swept(self) -> None:
        self._sweep = None
        if not self._tick_is_due:
            self._tick()
