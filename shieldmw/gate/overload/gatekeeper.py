"""Runs the lane on an event loop: reports the loop's turns to it, and wakes requests whose turn has come."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

from shieldmw.core.concurrency import AdaptiveLimit, Intake
from shieldmw.core.lane import Lane, Rank
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock

# Interval between two checks of the queue while nothing in it can enter.
SWEEP_S = 0.02

# Interval between two measured requests while none waits: measuring one costs as much as everything else for four.
MEASURED_US = 2_000


class Passage:
    """One request inside the app, from its entry to the start of its response.

    That time is measured for some requests, and for all while others wait: ``inside_then`` is how many were inside when
    it entered, itself included, and 0 if it is not measured.
    """

    __slots__ = ("_entered_us", "_intake", "_keeper", "inside_then", "is_inside")

    def __init__(self, keeper: Gatekeeper, intake: Intake, entered_us: int = 0, inside_then: int = 0) -> None:
        self._keeper = keeper
        self._intake = intake
        self._entered_us = entered_us
        self.inside_then = inside_then
        self.is_inside = True

    def begun(self, route: Hashable) -> None:
        """Note that the response begins; if measured, its time is compared with those of its route. Idempotent."""
        if self.is_inside and self.inside_then:
            self._keeper.took(route, self._entered_us, self.inside_then)
        self.end()

    def end(self) -> None:
        """Free the place: the response has begun, or the request has ended without one. Idempotent."""
        if self.is_inside:
            self.is_inside = False
            self._intake.count -= 1
            if self._keeper.lane.waiting:
                self._keeper.left()

    def goes_on(self) -> bool:
        """Note that the client has sent something: time is measured from now on. False if the place has been lost."""
        if not self.is_inside:
            return True
        if not self._keeper.lane.places.counts(self._intake):
            return False
        self._entered_us, self.inside_then = self._keeper.now()
        return True

    def goes_on_as(self, other: Passage) -> None:
        """Take over the place of ``other``, which this request got by passing the lane again."""
        self.end()
        self._intake, self._entered_us = other._intake, other._entered_us
        self.inside_then, self.is_inside = other.inside_then, True


# A future of a request's place in the app; None if the wait took too long.
Waiter = asyncio.Future[Intake | None]


class Gatekeeper:
    """Lets requests into the app of one event loop. ``wait_us`` and ``places`` are the lane's."""

    def __init__(self, wait_us: int, places: AdaptiveLimit, clock: Clock = SYSTEM_CLOCK) -> None:
        self._now_us = clock.now_us
        self.lane: Lane[Waiter] = Lane(wait_us, places, self._let_in, self._refuse)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tick_is_due = False
        self._measures_us = 0
        self._sweep: asyncio.TimerHandle | None = None

    def enter_now(self, rank: Rank) -> Passage | None:
        """The passage of a request that enters at once; None if it must wait."""
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
        """The passage of a request that bypasses the lane."""
        passage = Passage(self, Intake())
        passage.is_inside = False
        return passage

    def enter_anyway(self) -> Passage:
        """The passage of a request that enters although it should wait."""
        return Passage(self, self.lane.places.enter(), *self.now())

    def now(self) -> tuple[int, int]:
        """The time, and how many requests are inside."""
        return self._now_us(), self.lane.places.inside

    def would_refuse(self, rank: Rank) -> bool:
        """Whether a request would have to wait too long."""
        return self.lane.would_refuse(rank, self._now_us())

    async def wait(self, rank: Rank) -> Passage | None:
        """Wait for a turn; None if it took too long."""
        waiter = self.queue(rank)
        try:
            intake = await waiter
        except asyncio.CancelledError:
            self.lane.leave(rank, waiter)
            if waiter.done() and not waiter.cancelled():
                self.give_back(waiter.result())  # its turn came just as it was cancelled
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
        """Compare the time since a request entered with the usual time of its route."""
        now_us = self._now_us()
        self.lane.places.sample(route, now_us - entered_us, now_us, inside_then)

    def give_back(self, intake: Intake | None) -> None:
        """Free a place that was given but is not used."""
        if intake is not None:
            Passage(self, intake).end()

    def left(self) -> None:
        """Let others in, since a place is free and they wait."""
        self.lane.left(self._now_us())
        if not self._tick_is_due:
            self._tick_soon()

    def _let_in(self, waiter: Waiter, intake: Intake) -> None:
        if waiter.done():  # cancelled, but its task has not run yet
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
