"""This worker's share of the fleet's seats: what it reports, what it is granted, and what it may hold because of that.

A grant holds for a lease. Between reports a worker knows the others only as of its last one, so what it may hold errs
on the side of those who are seated: while seats are being divided again nobody leaves whom the fleet has a seat for.
"""

from __future__ import annotations

import logging
from secrets import token_hex

from shieldmw.core.client import ListenerClass
from shieldmw.core.seats import LEASE_S, LOST_GRANT, NO_GRANT, NO_SEATS, UNLIMITED, Audience, Capacity, Grant, Report
from shieldmw.core.text import harmless
from shieldmw.gate.clock import Clock
from shieldmw.store.port import SeatGrants

from .capacity import FleetCapacity
from .ledger import Allotment, SeatLedger
from .unseated import Unseated

log = logging.getLogger(__name__)

# Shortest round of those who were turned away (see ``Unseated``).
ROUND_S = 5.0


class Share:
    """The worker's part of the seats, granted by the fleet by the demand of each worker."""

    def __init__(self, register: SeatGrants, capacity: FleetCapacity, ledger: SeatLedger, clock: Clock) -> None:
        self.worker = token_hex(8)
        self.unseated = Unseated()
        self.grant: Grant | None = None
        self.workers = 1
        self._register = register
        self._capacity = capacity
        self._ledger = ledger
        self._now_s = clock.now_s
        self._demand = Audience()
        self._held = Audience()
        self._began_s = self._now_s()
        self._reported = False
        self._granted_for: Capacity | None = None
        self._lease_until_s = 0.0
        self._turned_s = 0.0

    def begin(self) -> None:
        """Note that the worker starts: for a while, seats are expected to come."""
        self._began_s = self._now_s()

    @property
    def _is_cut(self) -> bool:
        return any(self._ledger.leases.is_cut(name) for name in ListenerClass)

    @property
    def _is_leased(self) -> bool:
        return self._now_s() < self._lease_until_s

    async def report(self, *, last: bool = False) -> bool:
        """Report to the fleet, and take its grant. True if it is more than before. ``last``: nothing is to be granted.

        Raises:
            StoreError: the store could not be asked; the last grant stays until its lease ends.
        """
        capacity, asked_s = self._capacity.now(), self._now_s()
        leases = self._ledger.leases.report()
        here = self._ledger.streams() + leases.present
        demand, present = here + self.unseated.count(), here + self._ledger.leaving()
        held = self.grant if self._is_leased else None
        without = LOST_GRANT if self._reported else NO_GRANT
        report = Report(
            self.worker,
            present,
            demand,
            without if held is None else held.seats,
            without if held is None else held.guest_seats,
            leases.present,
            leases.for_s,
            leases.coming,
            leases.left,
        )
        self._reported = True  # seats may be granted even if the answer never arrives
        had = self.grant.seats if self.grant else 0
        self.grant = await self._register.seats(report, NO_SEATS if last else capacity or UNLIMITED)
        self._demand, self._held = demand, present
        self.workers = max(1, self.grant.workers)
        self._ledger.leases.follow(self.grant, capacity, self._capacity.guest_share)
        self._granted_for = capacity
        self._lease_until_s = asked_s + LEASE_S
        if asked_s - self._turned_s >= ROUND_S:
            self.unseated.turn()
            self._turned_s = asked_s
        return self.grant.seats > had

    async def give_back(self) -> None:
        """Give everything back; if that fails, it returns by itself when the lease ends.

        If this worker counted any leases, it reports them once more instead, and their seats are held until they end.
        """
        is_reported, self._reported = self._reported, False
        try:
            if self._ledger.leases:
                await self.report(last=True)
            elif is_reported:
                await self._register.release_seats(self.worker)
        except Exception as error:
            log.warning("seats were not given back, they return by themselves in %d s: %s", LEASE_S, harmless(error))
        self.grant, self._reported = None, False

    def allotment(self) -> Allotment:
        """What the worker may hold: the grant, cut to the current mode; without a lease half an equal share."""
        capacity, grant = self._capacity.now(), self.grant
        if capacity is None:
            return Allotment(None, None if self._capacity.guest_share > 0 else 0)
        if grant is None or not self._is_leased:
            seats, guests = self._unleased(capacity)
            allotment = Allotment(seats, guests)
        else:
            allotment = Allotment.of(grant)
            seats, guests = grant.seats, grant.guest_seats
            if self._granted_for != capacity:
                # Granted from another capacity. Until the seats are divided again no worker grows, and listeners
                # admitted while there was no limit are not yet too many.
                here = self._ledger.present()
                unlimited = self._granted_for is None
                seats = here.total if unlimited else min(seats, here.total)
                guests = here.guests if unlimited else min(guests, here.guests)
        if grant is not None:
            # Hosts and members leave only if the fleet has too many: none leaves for a new one of its class elsewhere.
            stay = self._ledger.present().favoured
            seats = max(seats, min(stay, self._held.favoured - self.too_many) if self.too_many else stay)
            if grant.leased.total and grant.present.total <= capacity.seats and not self._is_cut:
                # Where clients move between workers, a share that is too small now is no reason to send anyone away.
                here = self._ledger.present()
                seats, guests = max(seats, here.total), max(guests, here.guests)
        allotment.seats, allotment.guest_seats = min(seats, capacity.seats), min(guests, capacity.guest_seats)
        return allotment

    def _unleased(self, capacity: Capacity) -> tuple[int, int]:
        """The seats and guest seats while there is no grant: enough for everyone here and a few newcomers."""
        here = self._ledger.present()
        seats = max(here.total, capacity.seats // self.workers // 2)
        guests = max(here.guests, capacity.guest_seats // self.workers // 2)
        return seats, guests

    def is_due(self, name: ListenerClass) -> bool:
        """Whether the fleet has a seat for every listener, so that one without gets it at the next division.

        Assumed just after the start, while it is not known yet.
        """
        capacity, grant = self._capacity.now(), self.grant
        if capacity is None or (name is ListenerClass.GUEST and self._capacity.guest_share == 0):
            return False
        if grant is None:
            return self._now_s() < self._began_s + LEASE_S
        if not self._is_leased:
            return False
        want = grant.demand + self._ledger.present() + self.unseated.count()
        first = want.favoured - self._demand.favoured
        guests = want.guests - self._demand.guests
        if name is not ListenerClass.GUEST:
            return first <= capacity.seats
        return first + guests <= capacity.seats and guests <= capacity.guest_seats

    @property
    def too_many(self) -> int:
        """Hosts and members for whom the fleet had no seat at the last report."""
        capacity, grant = self._capacity.now(), self.grant
        return 0 if capacity is None or grant is None else max(0, grant.present.favoured - capacity.seats)

    def favoured_elsewhere(self) -> int:
        """Hosts and members on the other workers, as of the last report."""
        return 0 if self.grant is None else self.grant.present.favoured - self._held.favoured

    def free(self) -> int:
        """Seats that a member could get here: unused ones, and those of guests on streams."""
        if self._capacity.now() is None:
            return UNLIMITED.seats
        taken = self._ledger.present().favoured + self._ledger.leases.held().guests
        return max(0, (self._ledger.allotment.seats or 0) - taken)

    def free_in_fleet(self) -> int:
        """Seats that a member could get in the fleet, as of the last report; without a grant, only on this worker."""
        capacity = self._capacity.now()
        if capacity is None or self.grant is None or not self._is_leased:
            return self.free()
        return max(0, capacity.seats - self.favoured_elsewhere() - self._ledger.present().favoured)

    def is_full(self) -> bool:
        """Whether all seats of the fleet were taken at the last report."""
        capacity, grant = self._capacity.now(), self.grant
        return capacity is not None and grant is not None and grant.present.total >= capacity.seats
