"""This worker's seats: listeners are admitted without a call, seats are granted by the fleet in the background."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import floor
from secrets import token_hex

from shieldmw.core.client import ListenerClass
from shieldmw.core.decision import Reason
from shieldmw.core.mode import Mode
from shieldmw.core.seats import LEASE_S, NO_GRANT, Audience, Capacity, Grant, Report
from shieldmw.core.text import counted, harmless
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock
from shieldmw.gate.events import Evicted, Observer
from shieldmw.gate.fleet.mode_watch import ModeWatch
from shieldmw.gate.refresher import Refresher
from shieldmw.settings import Settings
from shieldmw.store.port import SeatGrants

from .ledger import Allotment, Seat, SeatLedger
from .waiters import Waiters

log = logging.getLogger(__name__)

# Interval between two reports while nothing happens.
RENEW_S = 5.0

# Shortest interval between two reports after a listener was turned away, in a small fleet; and the most reports a
# second of the whole fleet. With 200 workers a report costs Redis half a millisecond.
LEAST_S = 0.2
FLEET_PER_S = 100

# Most listeners that wait here at a time for the fleet's answer.
MOST_ASKING = 4096

# Interval between two steps of a cut.
STEP_S = 1.0

# After a change of the mode, how long all workers go on reporting, at least: a share is computed from reports of the
# others that may be old, so the first division after a cut leaves more seats granted than there are.
SETTLING_S = 1.0

# Reported where capacity is unlimited, so that the fleet is counted all the same.
UNLIMITED = Capacity(2**31, 2**31)


@dataclass(frozen=True, slots=True)
class SeatPlan:
    """Capacity as configured; 0 seats means no limit."""

    capacity: int
    emergency_capacity: int
    emergency_guest_share: float

    @classmethod
    def of(cls, settings: Settings) -> SeatPlan:
        """The plan that the settings describe."""
        return cls(settings.capacity, settings.seats_in_emergency, settings.emergency_guest_share)


@dataclass(slots=True)
class _Waiting:
    """Listeners turned away lately, counted as demand: the distinct ones of this round and the last."""

    now: dict[ListenerClass, set[int]] = field(default_factory=lambda: {name: set() for name in ListenerClass})
    last: dict[ListenerClass, set[int]] = field(default_factory=lambda: {name: set() for name in ListenerClass})

    MOST = 65_536

    def add(self, name: ListenerClass, listener: int) -> None:
        if len(self.now[name]) < self.MOST:
            self.now[name].add(listener)
            self.last[name].discard(listener)  # the sets stay disjoint, so that counting is O(1)

    def drop(self, name: ListenerClass, listener: int) -> None:
        self.now[name].discard(listener)
        self.last[name].discard(listener)

    def turn(self) -> None:
        self.last, self.now = self.now, {name: set() for name in ListenerClass}

    def count(self) -> Audience:
        return Audience(*(len(self.now[name]) + len(self.last[name]) for name in ListenerClass))


class Seats:
    """Grants and takes back seats on live paths, in both modes.

    Observers are notified of how many listeners had to leave.
    """

    def __init__(
        self,
        register: SeatGrants,
        mode_watch: ModeWatch,
        plan: SeatPlan,
        *,
        observers: Sequence[Observer] = (),
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.worker = token_hex(8)
        self.ledger = SeatLedger()
        self._register = register
        self._mode_watch = mode_watch
        self._plan = plan
        self._observers = tuple(observers)
        self._now_s = clock.now_s
        self._waiting = _Waiting()
        self._asking = Waiters()
        self._in_vain = False
        self._demand = Audience()
        self._held = Audience()
        self._began_s = self._now_s()
        self._now_ms = 0
        self._grant: Grant | None = None
        self._workers = 1
        self._reported = False
        self._granted_for: Capacity | None = None
        self._lease_until_s = 0.0
        self._turned_s = 0.0
        self._settled_s = 0.0
        self._refresher = Refresher("seats", self.refresh, interval_s=RENEW_S, least_s=LEAST_S)
        self._stepper: asyncio.Task[None] | None = None
        self._giving_back: asyncio.Task[None] | None = None

    @property
    def is_leaving(self) -> bool:
        """Whether this worker is stopping: it admits nobody any more."""
        return self._giving_back is not None

    @property
    def grant(self) -> Grant | None:
        """The fleet's last grant, and its state then; None if there never was one."""
        return self._grant

    @property
    def workers(self) -> int:
        """How many workers the fleet last had as far as is known, including this one."""
        return self._workers

    def capacity(self) -> Capacity | None:
        """The fleet's seats in the current mode; None for no limit."""
        plan, state = self._plan, self._mode_watch.state
        if self._mode_watch.mode is Mode.NORMAL:
            return Capacity(plan.capacity, plan.capacity) if plan.capacity else None
        seats = plan.emergency_capacity if state.capacity is None else state.capacity
        return Capacity(seats, floor(seats * self.guest_share + 1e-9)) if seats else None

    @property
    def guest_share(self) -> float:
        """The share of the seats that guests may hold in the current mode."""
        if self._mode_watch.mode is Mode.NORMAL:
            return 1.0
        share = self._mode_watch.state.guest_share
        return self._plan.emergency_guest_share if share is None else share

    @property
    def retry_after_us(self) -> int:
        """The wait of listeners that are turned away: until the emergency ends; 0 if there is none."""
        return self._mode_watch.retry_after_us

    def pace_s(self, least_s: float) -> float:
        """The shortest interval between two messages of this worker: ``least_s``, longer in a large fleet."""
        return min(RENEW_S - 1, max(least_s, self._workers / FLEET_PER_S))

    def now_ms(self) -> int:
        """The store's clock, by which all workers agree on which stream came first.

        Its precision is that of a round trip. A step back of less than a second is held at the last value: otherwise
        each of two streams could be older than what the other's worker announced, and both would end.
        """
        now_ms = int(self._mode_watch.store_now_s() * 1000)
        if not 0 < self._now_ms - now_ms < 1000:
            self._now_ms = now_ms
        return self._now_ms

    def admit(
        self,
        seat: Seat,
        *,
        live: bool,
        called: bool = False,
        may_wait: bool = False,
        listener: int,
        instead_of: Sequence[Seat] = (),
    ) -> bool:
        """Give a seat without any I/O; a listener that gets none counts as demand.

        ``called``: it shows a number that was called. ``may_wait``: it rather waits a moment than take a guest's seat
        while the fleet has seats for all. ``instead_of``: streams of the same client that are evicted for it.
        """
        self._allot()
        may_displace = self._may_displace(seat.listener_class, live=live, may_wait=may_wait, listener=listener)
        if self.ledger.admit(seat, live=live or called, instead_of=instead_of, may_displace=may_displace):
            self._waiting.drop(seat.listener_class, listener)
            return True
        self.turned_away(seat.listener_class, listener)
        return False

    def _may_displace(self, name: ListenerClass, *, live: bool, may_wait: bool, listener: int) -> bool:
        """Whether a listener may take the seat of a lower class, if none is free.

        A new member may not where members will need all seats that guests still hold: a seated one would leave for it.
        """
        capacity, seats, here = self.capacity(), self.ledger.allotment.seats, self.ledger.present()
        if capacity is None or seats is None or here.total < seats:
            return True
        if name is ListenerClass.MEMBER and not live:
            elsewhere = 0 if self._grant is None else self._grant.present.favoured - self._held.favoured
            if here.favoured >= min(seats, capacity.seats - elsewhere):
                return False
            if self._workers > 1 and self._now_s() < self._settled_s:
                return False
        if not may_wait:
            return True
        self._waiting.add(name, listener)
        return not self.is_due(ListenerClass.GUEST)

    def turned_away(self, name: ListenerClass, listener: int) -> None:
        """Count a listener that found no seat here as demand."""
        self._waiting.add(name, listener)
        if not (name is ListenerClass.GUEST and self.guest_share == 0):
            self._refresher.refresh_soon()

    def is_due(self, name: ListenerClass) -> bool:
        """Whether the fleet has a seat for every listener, so that one without gets it at the next division.

        Assumed just after the start, while it is not known yet.
        """
        capacity, grant, now_s = self.capacity(), self._grant, self._now_s()
        if capacity is None or self.is_leaving or (name is ListenerClass.GUEST and self.guest_share == 0):
            return False
        if grant is None:
            return now_s < self._began_s + LEASE_S
        if now_s >= self._lease_until_s:
            return False
        want = grant.demand + self.ledger.present() + self._waiting.count()
        first = want.hosts + want.members - self._demand.hosts - self._demand.members
        guests = want.guests - self._demand.guests
        if name is not ListenerClass.GUEST:
            return first <= capacity.seats
        return first + guests <= capacity.seats and guests <= capacity.guest_seats

    def has_old_grant(self) -> bool:
        """Whether the last grant is older than it need be: a new report may show seats that came free elsewhere."""
        return self._workers > 1 and self._now_s() - (self._lease_until_s - LEASE_S) > self._refresher.least_s

    def may_ask(self) -> bool:
        """Whether one more listener may wait for the fleet's answer; not after others have just waited in vain."""
        return not self._in_vain and len(self._asking) < MOST_ASKING

    def asked_in_vain(self) -> None:
        """Note that a listener waited and got no seat, for instance because a dead worker holds it until its lease
        ends. Waiting makes sense again once this worker is granted more."""
        self._in_vain = True

    async def next_grant(self, *, first: bool) -> None:
        """Wait for the next division of seats: one report serves all who wait; those with ``first`` are woken first."""
        self._refresher.refresh_soon()
        await self._asking.wait(first=first)

    def evict(self, seats: Iterable[Seat], why: Reason) -> None:
        """Make listeners leave, for a reason other than a cut."""
        left = Counter([seat.listener_class for seat in seats if self.ledger.evict(seat, why)])
        self._count_evicted(left)

    def release(self, seat: Seat) -> None:
        """Free the seat of a response that has ended. In a full house the other workers hear soon of a member's."""
        self.ledger.release(seat)
        capacity, grant = self.capacity(), self._grant
        if seat.listener_class is ListenerClass.GUEST or capacity is None or grant is None:
            return
        if grant.present.total >= capacity.seats:
            self._refresher.refresh_soon()

    def free(self) -> int:
        """Seats of the grant that a member could get: unused ones, and those that guests hold."""
        seats, here = self.ledger.allotment.seats, self.ledger.present()
        return UNLIMITED.seats if seats is None else max(0, seats - here.favoured)

    def free_in_fleet(self) -> int:
        """Seats that a member could get anywhere, as of the last report; this worker's while it has no lease."""
        capacity, grant = self.capacity(), self._grant
        if capacity is None or grant is None or self._now_s() >= self._lease_until_s:
            return self.free()
        elsewhere = grant.present.favoured - self._held.favoured
        return max(0, capacity.seats - elsewhere - self.ledger.present().favoured)

    def mode_changed(self) -> None:
        """Apply a changed mode at once, and have the seats divided again."""
        self._settled_s = self._now_s() + max(SETTLING_S, 3 * self._refresher.least_s)
        self._allot()
        self._step()
        self._refresher.refresh_soon()

    async def refresh(self) -> None:
        """Report to the fleet and apply its grant."""
        capacity = self.capacity()
        asked_s = self._now_s()
        demand, present = self.ledger.present() + self._waiting.count(), self.ledger.held()
        held = self._grant if asked_s < self._lease_until_s else None
        report = Report(
            self.worker,
            present,
            demand,
            NO_GRANT if held is None else held.seats,
            NO_GRANT if held is None else held.guest_seats,
        )
        self._reported = True  # seats may be granted even if the answer never arrives
        had = self._grant.seats if self._grant else 0
        self._grant = await self._register.seats(report, capacity or UNLIMITED)
        self._in_vain &= self._grant.seats <= had
        self._demand, self._held = demand, present
        self._workers = max(1, self._grant.workers)
        self._refresher.least_s = self.pace_s(LEAST_S)
        self._granted_for = capacity
        self._lease_until_s = asked_s + LEASE_S
        if asked_s - self._turned_s >= RENEW_S:
            self._waiting.turn()
            self._turned_s = asked_s
        self._allot()
        if asked_s < self._settled_s or self.ledger.surplus()[1]:
            self._refresher.refresh_soon()  # before members leave, hear whether others have left elsewhere
        # One more than there are seats for, to find out whether waiting helps at all.
        self._asking.wake(self.free() + 1)

    def refresh_soon(self) -> None:
        """Report soon: another worker has less than its share, and this one may have to give up seats."""
        self._refresher.refresh_soon()

    async def start(self) -> None:
        """Start reporting for seats, and evicting step by step those beyond the grant."""
        self._giving_back = None
        self._began_s = self._now_s()
        await self._refresher.start()
        if self._grant is not None and not self._grant.seats and self.is_due(ListenerClass.MEMBER):
            await self._first_seats()
        self._stepper = asyncio.create_task(self._steps(), name="shieldmw eviction")

    async def _first_seats(self) -> None:
        """Wait for the others to make room for a new worker, for a second at most."""
        try:
            async with asyncio.timeout(1.0):
                while self._grant is not None and not self._grant.seats:
                    await self.next_grant(first=True)
        except TimeoutError:
            self.asked_in_vain()

    def leave(self) -> None:
        """Prepare to stop: evict every listener at once, admit nobody, and give all seats back."""
        if self._giving_back is None:
            self._giving_back = asyncio.create_task(self._give_back(), name="shieldmw seats")
            self._allot()
            self._asking.wake()
            if count := self.ledger.evict_all(Reason.RESTARTING):
                log.info("this worker stops: %s leave", counted(count, "live listener"))

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
                log.warning(
                    "seats were not given back, they return by themselves in %d s: %s", LEASE_S, harmless(error)
                )

    def _allot(self) -> None:
        """Set what the ledger may hold: the grant, cut to the current mode; without a lease half an equal share."""
        if self.is_leaving:
            self.ledger.allotment = Allotment(0, 0)
            return
        capacity = self.capacity()
        if capacity is None:
            guests = None if self.guest_share > 0 else 0
            self.ledger.allotment = Allotment(None, guests)
            return
        grant = self._grant
        if grant is None or self._now_s() >= self._lease_until_s:
            seats, guests = self._unleased(capacity)
            allotment = Allotment(seats, guests)
        else:
            allotment = Allotment.of(grant)
            seats, guests = grant.seats, grant.guest_seats
            if self._granted_for != capacity:
                # Granted from another capacity. Until the seats are divided again no worker grows, and listeners
                # admitted while there was no limit are not yet too many.
                here = self.ledger.present()
                unlimited = self._granted_for is None
                seats = here.total if unlimited else min(seats, here.total)
                guests = here.guests if unlimited else min(guests, here.guests)
        if grant is not None:
            # No more hosts and members leave than are too many in the fleet: none for a new one of its class elsewhere.
            stay, too_many = self.ledger.present().favoured, grant.present.favoured - capacity.seats
            seats = max(seats, stay if too_many <= 0 else min(stay, self._held.favoured - too_many))
        allotment.seats, allotment.guest_seats = min(seats, capacity.seats), min(guests, capacity.guest_seats)
        self.ledger.allotment = allotment

    def _unleased(self, capacity: Capacity) -> tuple[int, int]:
        """The seats and guest seats while nothing can be granted: nobody must leave, a few may come."""
        here = self.ledger.present()
        seats = max(here.total, capacity.seats // self._workers // 2)
        guests = max(here.guests, capacity.guest_seats // self._workers // 2)
        return seats, guests

    async def _steps(self) -> None:
        while True:
            await asyncio.sleep(STEP_S)
            self._mode_watch.tick()
            self._allot()
            self._step()

    def _step(self) -> None:
        self._count_evicted(self.ledger.shrink())

    def _count_evicted(self, evicted: Mapping[ListenerClass, int]) -> None:
        for name, count in evicted.items():
            for observer in self._observers if count else ():
                observer.evicted(Evicted(name, count))
