"""The listeners of this worker: which of them have a seat, and which leave first. No I/O, no clock of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil, isfinite
from typing import TypeVar

from shieldmw.core.client import ListenerClass
from shieldmw.core.decision import Reason
from shieldmw.core.seats import COHORTS, Audience, Grant

from .cohorts import Cohorts
from .leased_seats import LeasedSeats
from .seat import Seat

K = TypeVar("K")

# Steps of a cut, one each second: an audience that is evicted all at once would come back all at once.
CUT_STEPS = 10


@dataclass(slots=True)
class Allotment:
    """What this worker may hold now; None means no limit."""

    seats: int | None = None
    guest_seats: int | None = None
    member_level: int = COHORTS
    guest_level: int = COHORTS

    @classmethod
    def of(cls, grant: Grant) -> Allotment:
        """What a grant allows."""
        return cls(grant.seats, grant.guest_seats, grant.member_level, grant.guest_level)


@dataclass(slots=True)
class SeatLedger:
    """The seats that the worker has given, by class, in the order of favour:

    host, live member, new member, live guest, new guest. A listener is live if it shows a ticket. ``on_release`` is
    called with each stream that has ended or must end.

    ``leases`` are the seats of clients that poll. They share the allotment with streams, but nobody is asked to leave:
    leases are not renewed.

    A listener that has been asked to leave is out of that order, but its response still runs, and its seat is in use
    until ``release``. The next listener on that seat waits for its ``turn``, so no more responses run than there are
    seats. ``evicted`` counts those who were asked to leave.
    """

    allotment: Allotment = field(default_factory=Allotment)
    on_release: Callable[[Seat], None] = lambda seat: None
    leases: LeasedSeats = field(default_factory=lambda: LeasedSeats(lambda: 0.0, 0))
    evicted: Counter[ListenerClass] = field(default_factory=Counter)
    _seats: dict[ListenerClass, Cohorts] = field(default_factory=lambda: {name: Cohorts() for name in ListenerClass})
    _leaving: dict[ListenerClass, dict[Seat, None]] = field(
        default_factory=lambda: {name: {} for name in ListenerClass}
    )
    _tickets: dict[str, tuple[Seat, ...]] = field(default_factory=dict)
    _clients: dict[int, tuple[Seat, ...]] = field(default_factory=dict)
    _ends: dict[int, set[Seat]] = field(default_factory=dict)
    _vacating: Counter[int] = field(default_factory=Counter)
    _at_cut: int = 0

    def __iter__(self) -> Iterator[Seat]:
        return (seat for seats in self._seats.values() for seat in seats)

    def __contains__(self, seat: Seat) -> bool:
        return seat in self._seats[seat.listener_class]

    def streams(self) -> Audience:
        """How many listeners have a stream here, not counting those asked to leave."""
        seats = self._seats
        return Audience(*(seats[name].count for name in ListenerClass))

    def present(self) -> Audience:
        """How many listeners are here, on streams or with a lease, not counting those asked to leave."""
        return self.streams() + self.leases.held()

    def leaving(self) -> Audience:
        """The number of listeners asked to leave whose seat is still in use and not handed over yet, by class."""
        leaving = self._leaving
        return Audience(*(len(leaving[name]) for name in ListenerClass))

    def held(self) -> Audience:
        """The number of seats in use, by class."""
        return self.present() + self.leaving()

    def is_live(self, ticket_id: str) -> bool:
        """Whether a stream with this ticket is here now, on any path."""
        return ticket_id in self._tickets

    def find(self, ticket_id: str, path: str) -> Seat | None:
        """The stream with this ticket on this path, if it is here."""
        return next((seat for seat in self._tickets.get(ticket_id, ()) if seat.path == path), None)

    def streams_of(self, client: int) -> tuple[Seat, ...]:
        """The streams of a client that are here, in the order in which they were admitted."""
        return self._clients.get(client, ())

    def newcomers(self, since_ms: int) -> list[Seat]:
        """The members first admitted since a time, by the store's clock; the newest one last.

        A second stream with the same ticket is as new as the first.
        """
        late = [seat for seat in self._seats[ListenerClass.MEMBER] if seat.first_ms >= since_ms]
        return sorted(late, key=lambda seat: seat.first_ms)

    def clients(self) -> list[int]:
        """The ``Seat.client`` of each client that has a stream here."""
        return list(self._clients)

    def ended(self, now_s: float) -> list[Seat]:
        """The seats whose credential has ended; at most a second late, since ends are rounded up."""
        return [seat for end_s in [end_s for end_s in self._ends if end_s <= now_s] for seat in self._ends[end_s]]

    def admit(self, seat: Seat, *, live: bool, instead_of: Sequence[Seat] = (), may_displace: bool = True) -> bool:
        """Give a seat, taking one from a lower class if none is free and it ``may_displace``. False if there is none.

        The ticket's older stream, and those it comes ``instead_of``, are evicted and hand over their seat. If a
        response still runs on the seat, the new one must wait for its ``turn``.
        """
        old = self.find(seat.ticket_id, seat.path) if live else None
        going = instead_of if old is None or old in instead_of else (*instead_of, old)
        for other in going:
            self.evict(other, Reason.REPLACED)
        is_full = self.allotment.seats is not None and self.held().total >= self.allotment.seats
        if is_full and self.is_vacating(seat.client):
            return False
        if not going and not self.fits(seat, live=live, may_displace=may_displace):
            return False
        if is_full:
            self._hand_over(seat)
        self._seats[seat.listener_class].add(seat)
        self._tickets[seat.ticket_id] = (*self._tickets.get(seat.ticket_id, ()), seat)
        if seat.client:
            self._clients[seat.client] = (*self._clients.get(seat.client, ()), seat)
        if isfinite(seat.until_s):
            self._ends.setdefault(ceil(seat.until_s), set()).add(seat)
        return True

    def is_vacating(self, client: int) -> bool:
        """Whether an evicted response of this client is still finishing. The client should retry later rather than
        wait here: by asking again and again it would get one response after the other.
        """
        return client in self._vacating

    def _hand_over(self, seat: Seat) -> None:
        """Hand over a leaving listener's seat: guests' before members', then in the order they were asked to leave."""
        for leaving in reversed(self._leaving.values()):
            if leaving:
                old = next(iter(leaving))
                del leaving[old]
                old.successor, seat.predecessor, seat.turn = seat, old, asyncio.Event()
                return

    def release(self, seat: Seat) -> None:
        """Free the seat of a response that has ended, or was given up before its turn."""
        if seat in self:
            self._remove(seat)
        self._leaving[seat.listener_class].pop(seat, None)
        if seat.is_slow and seat.client:
            seat.is_slow = False
            self._vacating[seat.client] -= 1
            if not self._vacating[seat.client]:
                del self._vacating[seat.client]
        before, after = seat.predecessor, seat.successor
        seat.predecessor = seat.successor = None
        if before is not None:
            before.successor = after  # it still runs: the listener that waited behind this one waits for it instead
        if after is not None:
            after.predecessor = before
            if before is None and after.turn is not None:
                after.turn.set()
        elif before is not None:
            self._leaving[before.listener_class][before] = None

    def _remove(self, seat: Seat) -> None:
        self._seats[seat.listener_class].remove(seat)
        _remove_stream(self._tickets, seat.ticket_id, seat)
        if seat.client:
            _remove_stream(self._clients, seat.client, seat)
        if isfinite(seat.until_s):
            ending = self._ends[ceil(seat.until_s)]
            ending.remove(seat)
            if not ending:
                del self._ends[ceil(seat.until_s)]
        self.on_release(seat)

    def evict(self, seat: Seat, why: Reason = Reason.NO_SEAT) -> bool:
        """Ask a listener to leave, for the reason ``why``; False if it is not here.

        Its seat stays in use until its response has ended.
        """
        if seat not in self:
            return False
        self._remove(seat)
        self.evicted[seat.listener_class] += 1
        seat.why = why
        if seat.leave is not None:
            self._leaving[seat.listener_class][seat] = None
            seat.leave()
            if seat.is_slow and seat.client:
                self._vacating[seat.client] += 1
        return True

    def evict_all(self, why: Reason) -> int:
        """Evict every listener on a stream; returns how many there were."""
        return sum([self.evict(seat, why) for seat in list(self)])

    def fits(self, seat: Seat, *, live: bool, may_displace: bool) -> bool:
        """Whether there is a seat; with ``may_displace``, one is taken from a lower class if none is free."""
        allotment = self.allotment
        here = self.present()
        if seat.listener_class is ListenerClass.GUEST:
            if allotment.guest_seats is not None and here.guests >= allotment.guest_seats:
                return False
            free = allotment.seats is None or here.total < allotment.seats
            return free and (live or seat.cohort < allotment.guest_level)
        if allotment.seats is None or here.total < allotment.seats:
            member = seat.listener_class is ListenerClass.MEMBER
            return not member or live or here.guests > 0 or seat.cohort < allotment.member_level
        return may_displace and self._displace(seat.listener_class)

    def _displace(self, by: ListenerClass) -> bool:
        """Evict one listener of the lowest class below ``by``."""
        lower = (ListenerClass.GUEST, ListenerClass.MEMBER)[: 2 if by is ListenerClass.HOST else 1]
        for name in lower:
            if (seat := self._seats[name].highest()) is not None:
                return self.evict(seat)
        return False

    def surplus(self) -> tuple[int, int]:
        """How many guests and how many members on streams are beyond the allotment.

        Clients with a lease bear their part of a surplus: their leases are not renewed.
        """
        allotment, streams = self.allotment, self.streams()
        here = streams + self.leases.staying()
        over = 0 if allotment.seats is None else max(0, here.total - allotment.seats)
        over_guests = 0 if allotment.guest_seats is None else max(0, here.guests - allotment.guest_seats)
        guests = max(over_guests, min(over, here.guests))
        most = self.leases.most_to_leave(streams)
        return min(guests, most.guests), min(most.members, max(0, over - guests))

    def shrink(self) -> dict[ListenerClass, int]:
        """Take one step of a cut: evict guests, then members, highest cohorts first. Called each second."""
        guests, members = self.surplus()
        if not guests and not members:
            self._at_cut = 0
            return {}
        here = self.streams()
        # A cut that deepens on the way, so that members must leave as well, takes larger steps.
        self._at_cut = max(self._at_cut, here.guests + (here.members if members else 0))
        step = ceil(self._at_cut / CUT_STEPS)
        evicted_guests = self._evict_some(ListenerClass.GUEST, min(guests, step))
        evicted_members = self._evict_some(ListenerClass.MEMBER, min(members, step - evicted_guests))
        return {ListenerClass.GUEST: evicted_guests, ListenerClass.MEMBER: evicted_members}

    def _evict_some(self, name: ListenerClass, count: int) -> int:
        evicted = 0
        while evicted < count and (seat := self._seats[name].highest()) is not None:
            evicted += self.evict(seat)
        return evicted


def _remove_stream(streams: dict[K, tuple[Seat, ...]], key: K, seat: Seat) -> None:
    """Remove ``seat`` from the streams under ``key``; raises KeyError if there are none."""
    others = tuple([other for other in streams[key] if other is not seat])
    if others:
        streams[key] = others
    else:
        del streams[key]
