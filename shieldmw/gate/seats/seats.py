"""This worker's seats: listeners are admitted without a call, seats are granted by the fleet in the background."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from shieldmw.core.client import ListenerClass
from shieldmw.core.decision import Reason
from shieldmw.core.distinct import Distinct
from shieldmw.core.mode import Mode
from shieldmw.core.seats import UNLIMITED, Audience, Capacity, Grant
from shieldmw.core.text import counted
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock
from shieldmw.gate.events import Evicted, Observer
from shieldmw.gate.fleet.mode_watch import ModeWatch
from shieldmw.gate.refresher import Refresher
from shieldmw.store.port import SeatGrants

from .capacity import FleetCapacity, SeatPlan
from .late import Late
from .leased_seats import LeasedSeats
from .ledger import Allotment, SeatLedger
from .seat import Seat
from .share import Share
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

# After a change of the mode, how long until all workers have heard of it, even if the announcement is lost. They go on
# reporting until a round is over, too: a share is computed from reports of the others that may be old, so the first
# division after a cut leaves more seats granted than there are.
SETTLING_S = 1.0

# Reports in a round: after that many each worker knows what the others have done since the round began.
ROUND_REPORTS = 3

# Members that came less than this before a change of the mode count as coming with it, since clocks differ by up to a
# round trip.
LATE_S = 0.05


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
        self.ledger = SeatLedger(leases=LeasedSeats(mode_watch.store_now_s, plan.longest_lease_s))
        self._plan = plan
        self._capacity = FleetCapacity(plan, mode_watch)
        self._share = Share(register, self._capacity, self.ledger, clock)
        self._mode_watch = mode_watch
        self._observers = tuple(observers)
        self._now_s = clock.now_s
        self._asking = Waiters()
        self._in_vain = False
        self._now_ms = 0
        self._settled_s = 0.0
        self._late = Late(clock.random)
        self._refresher = Refresher("seats", self.refresh, interval_s=RENEW_S, least_s=LEAST_S)
        self._stepper: asyncio.Task[None] | None = None
        self._giving_back: asyncio.Task[None] | None = None

    @property
    def is_leaving(self) -> bool:
        """Whether this worker is stopping: it admits nobody any more."""
        return self._giving_back is not None

    @property
    def worker(self) -> str:
        """The name of this worker in the fleet."""
        return self._share.worker

    @property
    def grant(self) -> Grant | None:
        """The fleet's last grant, and its state then; None if there never was one."""
        return self._share.grant

    @property
    def workers(self) -> int:
        """The last known number of workers in the fleet, including this one."""
        return self._share.workers

    def capacity(self) -> Capacity | None:
        """The fleet's seats in the current mode; None for no limit."""
        return self._capacity.now()

    def demand(self) -> Audience:
        """Listeners of this worker who have a seat, or have lately asked for one."""
        return self.ledger.present() + self._share.unseated.count()

    def unseated(self) -> tuple[Distinct, Distinct, Distinct]:
        """Listeners of each class that this worker has lately turned away."""
        return self._share.unseated.report()

    def now_s(self) -> float:
        """The store's clock, in Unix seconds, by which leases end."""
        return self._mode_watch.store_now_s()

    def seats_in(self, mode: Mode, seats: int | None, guest_share: float | None) -> Capacity | None:
        """The fleet's seats in a mode, if an operator chose these values for an emergency; None for no limit."""
        return self._plan.seats_in(mode, seats, guest_share)

    def share_in(self, mode: Mode, guest_share: float | None) -> float:
        """The share of the seats that guests may hold in a mode, if an operator chose this one for an emergency."""
        return self._plan.share_in(mode, guest_share)

    @property
    def mode_version(self) -> int:
        """The version of the mode that this worker follows."""
        return self._mode_watch.state.version

    @property
    def guest_share(self) -> float:
        """The share of the seats that guests may hold in the current mode."""
        return self._capacity.guest_share

    @property
    def retry_after_us(self) -> int:
        """The wait of listeners that are turned away: until the emergency ends; 0 if there is none."""
        return self._mode_watch.retry_after_us

    def pace_s(self, least_s: float) -> float:
        """The shortest interval between two messages of this worker: ``least_s``, longer in a large fleet."""
        return min(RENEW_S - 1, max(least_s, self.workers / FLEET_PER_S))

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
            self._share.unseated.drop(seat.listener_class, listener)
            return True
        self.turned_away(seat.listener_class, listener)
        return False

    def lease(self, seat: Seat, until_s: int, *, live: bool, called: bool) -> bool:
        """Give a lease until ``until_s`` to a client that polls and has none, without any I/O; as ``admit``."""
        name = seat.listener_class
        self._allot()
        may_displace = self._may_displace(name, live=live, may_wait=False, listener=seat.client)
        is_cut = self.ledger.leases.is_cut(name)
        if is_cut or not self.ledger.fits(seat, live=live or called, may_displace=may_displace):
            self.turned_away(name, seat.client)
            return False
        self.ledger.leases.grant(name, until_s)
        self._share.unseated.drop(name, seat.client)
        return True

    def _may_displace(self, name: ListenerClass, *, live: bool, may_wait: bool, listener: int) -> bool:
        """Whether a listener may take the seat of a lower class, if none is free.

        A new member may not if members will need all seats that guests still hold: a seated member would lose its seat.
        """
        capacity, seats, here = self.capacity(), self.ledger.allotment.seats, self.ledger.present()
        if capacity is None or seats is None or here.total < seats:
            return True
        if name is ListenerClass.MEMBER and not live:
            if here.favoured >= min(seats, capacity.seats - self._share.favoured_elsewhere()):
                return False
            if self.workers > 1 and self._now_s() < self._settled_s:
                return False
        if not may_wait:
            return True
        self._share.unseated.add(name, listener)
        return not self.is_due(ListenerClass.GUEST)

    def turned_away(self, name: ListenerClass, listener: int) -> None:
        """Count a listener that found no seat here as demand."""
        self._share.unseated.add(name, listener)
        if not (name is ListenerClass.GUEST and self.guest_share == 0):
            self._refresher.refresh_soon()

    def is_due(self, name: ListenerClass) -> bool:
        """Whether the fleet has a seat for every listener, so that one without gets it at the next division."""
        return not self.is_leaving and self._share.is_due(name)

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
        """Free the seat of a response that has ended. If the fleet is full and it was a member's, report that soon."""
        self.ledger.release(seat)
        if seat.listener_class is not ListenerClass.GUEST and self._share.is_full():
            self._refresher.refresh_soon()

    def free(self) -> int:
        """Seats that a member could get here: unused ones, and those that guests hold."""
        return self._share.free()

    def free_in_fleet(self) -> int:
        """Seats that a member could get on any worker, as of the last report."""
        return self._share.free_in_fleet()

    def mode_changed(self) -> None:
        """Apply a changed mode at once, and have the seats divided again.

        Workers hear of it one after the other. Members whom one admitted meanwhile, by the old mode, leave before any
        that were seated, if they are too many.
        """
        state, now_s = self._mode_watch.state, self._mode_watch.store_now_s()
        self._divide_anew(state.until_s if state.until_s is not None and state.is_over(now_s) else state.since_s)

    def use(self, plan: SeatPlan, since_s: float) -> None:
        """Have the seats divided by this plan, which is in force since ``since_s`` (the store's clock)."""
        if plan != self._capacity.plan:
            self._capacity.plan = plan
            self._divide_anew(since_s)

    def _divide_anew(self, since_s: float) -> None:
        self._late.begin(int((since_s - LATE_S) * 1000), (self.capacity() or UNLIMITED).seats)
        self._settled_s = self._now_s() + SETTLING_S + self._round_s
        self._allot()
        self._step()
        self._refresher.refresh_soon()

    async def refresh(self) -> None:
        """Report to the fleet and apply its grant."""
        asked_s, asked_ms = self._now_s(), self.now_ms()
        if await self._share.report():
            self._in_vain = False
        if self.grant is not None:
            self._late.reported(asked_ms, self.grant.present.favoured)
        self._refresher.least_s = self.pace_s(LEAST_S)
        self._allot()
        self._evict_late(asked_s)
        if self._late.since_ms is not None or self.ledger.surplus()[1]:
            self._refresher.refresh_soon()  # before members leave, hear whether others have left elsewhere
        # One more than there are seats for, to find out whether waiting helps at all.
        self._asking.wake(self.free() + 1)

    def _evict_late(self, asked_s: float) -> None:
        """Evict this worker's part of the members that came with the last change of the mode, if they are too many."""
        late, too_many = self._late, self._share.too_many
        if late.since_ms is None:
            return
        if count := late.part(too_many, self.workers, int(self._mode_watch.store_now_s() / self._round_s)):
            self.evict(self.ledger.newcomers(late.since_ms)[-count:], Reason.NO_SEAT)
        if asked_s >= self._settled_s:
            late.end(too_many)

    @property
    def _round_s(self) -> float:
        return ROUND_REPORTS * self._refresher.least_s

    def refresh_soon(self) -> None:
        """Report soon: another worker has less than its share, and this one may have to give up seats."""
        self._refresher.refresh_soon()

    async def start(self) -> None:
        """Start reporting for seats, and evicting step by step those beyond the grant."""
        self._giving_back = None
        self._share.begin()
        await self._refresher.start()
        if self.grant is not None and not self.grant.seats and self.is_due(ListenerClass.MEMBER):
            await self._first_seats()
        self._stepper = asyncio.create_task(self._steps(), name="shieldmw eviction")

    async def _first_seats(self) -> None:
        """Wait for the others to make room for a new worker, for a second at most."""
        try:
            async with asyncio.timeout(1.0):
                while self.grant is not None and not self.grant.seats:
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
        await self._share.give_back()

    def _allot(self) -> None:
        allotment = self.ledger.allotment = Allotment(0, 0) if self.is_leaving else self._share.allotment()
        if self._late.spare_others and allotment.seats is not None and not self.is_leaving:
            allotment.seats = max(allotment.seats, self.ledger.present().favoured)

    async def _steps(self) -> None:
        while True:
            await asyncio.sleep(STEP_S)
            self._mode_watch.tick()
            self._allot()
            self._step()
            if self.ledger.leases:
                self._refresher.refresh_soon()  # clients move: a report must not be older than leases are reported

    def _step(self) -> None:
        self._count_evicted(self.ledger.shrink())

    def _count_evicted(self, evicted: Mapping[ListenerClass, int]) -> None:
        for name, count in evicted.items():
            for observer in self._observers if count else ():
                observer.evicted(Evicted(name, count))
