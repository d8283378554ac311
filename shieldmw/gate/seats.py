"""Seats of this worker: admitted without a call, granted by the fleet in the background."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import floor
from secrets import token_hex

from shieldmw.core.client import ListenerClass
from shieldmw.core.mode import Mode
from shieldmw.core.seats import LEASE_S, NO_GRANT, Audience, Capacity, Grant, Report
from shieldmw.store.port import SeatRegister

from .audience import Allotment, AudienceBook, Seat
from .events import Evicted, Observer
from .refresher import Refresher
from .switch import Switch

log = logging.getLogger(__name__)

RENEW_S = 5.0

# How soon a worker may ask again when it has turned somebody away.
LEAST_S = 0.2

STEP_S = 1.0

# Where there is no limit workers report all the same, so that the fleet is counted.
UNLIMITED = Capacity(2**31, 2**31)


@dataclass(frozen=True, slots=True)
class SeatPlan:
    """Capacity as it is configured; 0 seats for no limit."""

    capacity: int
    emergency_capacity: int
    emergency_guest_share: float


@dataclass(slots=True)
class _Waiting:
    """Who was turned away lately, as demand: distinct listeners of this and of the last round."""

    now: dict[ListenerClass, set[int]] = field(default_factory=lambda: {name: set() for name in ListenerClass})
    last: dict[ListenerClass, set[int]] = field(default_factory=lambda: {name: set() for name in ListenerClass})

    MOST = 65_536

    def add(self, name: ListenerClass, listener: int) -> None:
        if len(self.now[name]) < self.MOST:
            self.now[name].add(listener)

    def drop(self, name: ListenerClass, listener: int) -> None:
        self.now[name].discard(listener)
        self.last[name].discard(listener)

    def turn(self) -> None:
        self.last, self.now = self.now, {name: set() for name in ListenerClass}

    def count(self) -> Audience:
        return Audience(*(len(self.now[name] | self.last[name]) for name in ListenerClass))


class Seats:
    """Gives and takes seats on live paths, in both modes.

    Observers are told how many listeners had to leave.
    """

    def __init__(
        self,
        register: SeatRegister,
        switch: Switch,
        plan: SeatPlan,
        *,
        observers: Sequence[Observer] = (),
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.worker = token_hex(8)
        self.book = AudienceBook()
        self._register = register
        self._switch = switch
        self._plan = plan
        self._observers = tuple(observers)
        self._now_s = now_s
        self._waiting = _Waiting()
        self._grant: Grant | None = None
        self._workers = 1
        self._reported = False
        self._granted_for: Capacity | None = None
        self._lease_until_s = 0.0
        self._turned_s = 0.0
        self._refresher = Refresher("seats", self.refresh, interval_s=RENEW_S, least_s=LEAST_S)
        self._stepper: asyncio.Task[None] | None = None
        self._giving_back: asyncio.Task[None] | None = None

    @property
    def is_leaving(self) -> bool:
        """Whether this worker is about to end: nobody may come any more."""
        return self._giving_back is not None

    @property
    def grant(self) -> Grant | None:
        """What the fleet last granted, and how it stands; None where nothing was ever granted."""
        return self._grant

    @property
    def workers(self) -> int:
        """How many workers the fleet was last known to have, this one among them."""
        return self._workers

    def capacity(self) -> Capacity | None:
        """The seats of the fleet in the mode in force; None for no limit."""
        plan, state = self._plan, self._switch.state
        if self._switch.mode is Mode.NORMAL:
            return Capacity(plan.capacity, plan.capacity) if plan.capacity else None
        seats = plan.emergency_capacity if state.capacity is None else state.capacity
        return Capacity(seats, floor(seats * self.guest_share + 1e-9)) if seats else None

    @property
    def guest_share(self) -> float:
        """The part of the seats that guests may hold in the mode in force."""
        if self._switch.mode is Mode.NORMAL:
            return 1.0
        share = self._switch.state.guest_share
        return self._plan.emergency_guest_share if share is None else share

    def now_ms(self) -> int:
        """The clock of the store, on which all workers agree who came first."""
        return int(self._switch.store_now_s() * 1000)

    def admit(self, seat: Seat, *, live: bool, listener: int) -> bool:
        """Give a seat without any I/O; a listener who gets none counts as demand."""
        self._allot()
        if self.book.admit(seat, live=live):
            self._waiting.drop(seat.listener_class, listener)
            return True
        self.turned_away(seat.listener_class, listener)
        return False

    def turned_away(self, name: ListenerClass, listener: int) -> None:
        """A listener found no seat here, and counts as demand."""
        self._waiting.add(name, listener)
        if not (name is ListenerClass.GUEST and self.guest_share == 0):
            self._refresher.soon()

    def release(self, seat: Seat) -> None:
        """The response has ended."""
        self.book.release(seat)

    def free(self) -> int:
        """Seats of the grant that a member could have: those that nobody holds, and those of guests."""
        seats, here = self.book.allotment.seats, self.book.present()
        return 0 if seats is None else max(0, seats - here.hosts - here.members)

    def mode_changed(self) -> None:
        """The mode has changed: obey at once, and have the seats divided again."""
        self._allot()
        self._step()
        self._refresher.soon()

    async def refresh(self) -> None:
        """Report to the fleet and take what it grants."""
        capacity = self.capacity()
        asked_s = self._now_s()
        held = self._grant if asked_s < self._lease_until_s else None
        report = Report(
            self.worker,
            self.book.held(),
            self.book.present() + self._waiting.count(),
            NO_GRANT if held is None else held.seats,
            NO_GRANT if held is None else held.guest_seats,
        )
        self._reported = True  # what is asked may be granted though its answer never comes
        self._grant = await self._register.seats(report, capacity or UNLIMITED)
        self._workers = max(1, self._grant.workers)
        self._granted_for = capacity
        self._lease_until_s = asked_s + LEASE_S
        if asked_s - self._turned_s >= RENEW_S:
            self._waiting.turn()
            self._turned_s = asked_s
        self._allot()

    def soon(self) -> None:
        """Some worker has less than its share: report, so that what is too much here gets free."""
        self._refresher.soon()

    async def start(self) -> None:
        """Ask for seats, and keep asking; evict step by step what is too much."""
        self._giving_back = None
        await self._refresher.start(first_s=1.0)
        self._stepper = asyncio.create_task(self._steps(), name="shieldmw eviction")

    def leave(self) -> None:
        """This worker is about to end: every listener leaves at once, nobody comes, and all seats are given back."""
        if self._giving_back is None:
            self._giving_back = asyncio.create_task(self._give_back(), name="shieldmw seats")
            self._allot()
            if count := self.book.evict_all():
                log.info("this worker stops: %d live listeners leave", count)

    async def stop(self) -> None:
        """Leave, and wait until the seats are given back."""
        self.leave()
        if self._giving_back is not None:
            await self._giving_back

    async def _give_back(self) -> None:
        await self._refresher.stop()
        if self._stepper is not None:
            self._stepper.cancel()
            await asyncio.gather(self._stepper, return_exceptions=True)
            self._stepper = None
        self._grant = None
        if self._reported:
            self._reported = False
            try:
                await self._register.release_seats(self.worker)
            except Exception as error:
                log.warning("seats were not given back, they return by themselves in %d s: %s", LEASE_S, error)

    def _allot(self) -> None:
        """What the book may hold: the grant, cut to the mode in force; without a lease half an equal share."""
        if self.is_leaving:
            self.book.allotment = Allotment(0, 0)
            return
        capacity = self.capacity()
        if capacity is None:
            guests = None if self.guest_share > 0 else 0
            self.book.allotment = Allotment(None, guests)
            return
        grant = self._grant
        if grant is None or self._now_s() >= self._lease_until_s:
            seats, guests = self._unleased(capacity)
            allotment = Allotment(seats, guests)
        else:
            allotment = Allotment.of(grant)
            seats, guests = grant.seats, grant.guest_seats
            if self._granted_for != capacity:
                # Granted out of another capacity: until the seats are divided anew nobody grows, and whoever
                # was here without any limit has not too much yet.
                here = self.book.present()
                unlimited = self._granted_for is None
                seats = here.total if unlimited else min(seats, here.total)
                guests = here.guests if unlimited else min(guests, here.guests)
        if grant is not None and grant.present.total <= capacity.seats:
            # The fleet is not too full: nobody who is live leaves for others of the class who are new elsewhere.
            seats = max(seats, self.book.present().total - self.book.present().guests)
        allotment.seats, allotment.guest_seats = min(seats, capacity.seats), min(guests, capacity.guest_seats)
        self.book.allotment = allotment

    def _unleased(self, capacity: Capacity) -> tuple[int, int]:
        """While nothing can be granted: nobody must leave, few may come."""
        here = self.book.present()
        seats = max(here.total, capacity.seats // self._workers // 2)
        guests = max(here.guests, capacity.guest_seats // self._workers // 2)
        return seats, guests

    async def _steps(self) -> None:
        while True:
            await asyncio.sleep(STEP_S)
            self._switch.tick()
            self._allot()
            self._step()

    def _step(self) -> None:
        for name, count in self.book.shrink().items():
            for observer in self._observers if count else ():
                observer.evicted(Evicted(name, count))
