"""The listeners of this worker: who has a seat, and who must leave first. No I/O, no clock of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil

from shieldmw.core.client import ListenerClass
from shieldmw.core.seats import COHORTS, Audience, Grant

# A cut empties the seats that must go in ten steps, one each second: an audience that all leaves at
# once would come back at once.
CUT_STEPS = 10


@dataclass(eq=False, slots=True)
class Seat:
    """One live stream. ``leave`` is called when its listener must go; None where nobody is ever made to (a dry run).

    A ticket has one stream for each ``path`` (a digest). ``back_ms`` is when its listener came back with the ticket,
    by the clock of the store; 0 for a stream with which the ticket began, which all others came after.
    ``turn`` is set once the response that still runs on this seat has ended; None where the seat was empty.
    """

    listener_class: ListenerClass
    cohort: int
    ticket_id: str
    leave: Callable[[], None] | None
    path: str = ""
    back_ms: int = 0
    turn: asyncio.Event | None = None
    successor: Seat | None = None


@dataclass(slots=True)
class Allotment:
    """What this worker may hold now. ``seats`` None means no limit at all."""

    seats: int | None = None
    guest_seats: int | None = None
    member_level: int = COHORTS
    guest_level: int = COHORTS

    @classmethod
    def of(cls, grant: Grant) -> Allotment:
        """What a grant allows."""
        return cls(grant.seats, grant.guest_seats, grant.member_level, grant.guest_level)


@dataclass(slots=True)
class AudienceBook:
    """Seats the worker has given, by class, and the order of favour:

    host, live member, new member, live guest, new guest. Live is who shows a ticket.

    Who is told to leave has no say in that order any more, but its response still runs: the seat counts until
    ``release``. Whoever is given it meanwhile waits for its ``turn``, so no more responses run than there are seats.
    """

    allotment: Allotment = field(default_factory=Allotment)
    _seats: dict[ListenerClass, set[Seat]] = field(default_factory=lambda: {name: set() for name in ListenerClass})
    _leaving: dict[ListenerClass, dict[Seat, None]] = field(
        default_factory=lambda: {name: {} for name in ListenerClass}
    )
    _tickets: dict[str, tuple[Seat, ...]] = field(default_factory=dict)
    _at_cut: int = 0

    def present(self) -> Audience:
        """How many are here, without those who are told to leave."""
        seats = self._seats
        return Audience(*(len(seats[name]) for name in ListenerClass))

    def held(self) -> Audience:
        """How many seats are in use: those of whoever is here, and those that nobody has been given yet
        of whoever is leaving."""
        leaving = self._leaving
        return self.present() + Audience(*(len(leaving[name]) for name in ListenerClass))

    def is_live(self, ticket_id: str) -> bool:
        """Whether a stream with this ticket is here now, on any path."""
        return ticket_id in self._tickets

    def find(self, ticket_id: str, path: str) -> Seat | None:
        """The stream with this ticket on this path, if it is here."""
        return next((seat for seat in self._tickets.get(ticket_id, ()) if seat.path == path), None)

    def admit(self, seat: Seat, *, live: bool) -> bool:
        """Give a seat, taking one from a lower class where none is free. False: there is none.

        Where a response still runs on it, the seat's ``turn`` is to be waited for.
        """
        if live and (old := self.find(seat.ticket_id, seat.path)) is not None:
            self.evict(old)
        if not self._fits(seat, live=live):
            return False
        if self.allotment.seats is not None and self.held().total >= self.allotment.seats:
            self._hand_over(seat)
        self._seats[seat.listener_class].add(seat)
        self._tickets[seat.ticket_id] = (*self._tickets.get(seat.ticket_id, ()), seat)
        return True

    def _hand_over(self, seat: Seat) -> None:
        """Give the seat of someone who is leaving: of those who were told first, guests before members."""
        for leaving in self._leaving.values():
            if leaving:
                old = next(iter(leaving))
                del leaving[old]
                old.successor, seat.turn = seat, asyncio.Event()
                return

    def release(self, seat: Seat) -> None:
        """The response has ended."""
        self._remove(seat)
        self._leaving[seat.listener_class].pop(seat, None)
        if seat.successor is not None and seat.successor.turn is not None:
            seat.successor.turn.set()

    def _remove(self, seat: Seat) -> None:
        self._seats[seat.listener_class].discard(seat)
        others = tuple(other for other in self._tickets.get(seat.ticket_id, ()) if other is not seat)
        if others:
            self._tickets[seat.ticket_id] = others
        else:
            self._tickets.pop(seat.ticket_id, None)

    def evict(self, seat: Seat) -> None:
        """Take a seat back; it is in use until its response has ended."""
        self._remove(seat)
        if seat.leave is not None:
            self._leaving[seat.listener_class][seat] = None
            seat.leave()

    def evict_all(self) -> int:
        """Take every seat back; how many there were."""
        everybody = [seat for seats in self._seats.values() for seat in seats]
        for seat in everybody:
            self.evict(seat)
        return len(everybody)

    def _fits(self, seat: Seat, *, live: bool) -> bool:
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
        return self._displace(seat.listener_class)

    def _displace(self, by: ListenerClass) -> bool:
        """Evict one listener of the lowest class below ``by``."""
        lower = (ListenerClass.GUEST, ListenerClass.MEMBER)[: 2 if by is ListenerClass.HOST else 1]
        for name in lower:
            if self._seats[name]:
                self.evict(max(self._seats[name], key=_leaves_first))
                return True
        return False

    def surplus(self) -> tuple[int, int]:
        """How many guests and how many members are here beyond the allotment."""
        allotment, here = self.allotment, self.present()
        over = 0 if allotment.seats is None else max(0, here.total - allotment.seats)
        over_guests = 0 if allotment.guest_seats is None else max(0, here.guests - allotment.guest_seats)
        guests = max(over_guests, min(over, here.guests))
        return guests, min(here.members, max(0, over - guests))

    def shrink(self) -> dict[ListenerClass, int]:
        """One second's step of a cut: evict guests, then members, highest cohorts first."""
        guests, members = self.surplus()
        if not guests and not members:
            self._at_cut = 0
            return {}
        here = self.present()
        # A deeper cut in the middle of one, when members must go as well, makes longer steps.
        self._at_cut = max(self._at_cut, here.guests + (here.members if members else 0))
        step = ceil(self._at_cut / CUT_STEPS)
        evicted_guests = self._evict_some(ListenerClass.GUEST, min(guests, step))
        evicted_members = self._evict_some(ListenerClass.MEMBER, min(members, step - evicted_guests))
        return {ListenerClass.GUEST: evicted_guests, ListenerClass.MEMBER: evicted_members}

    def _evict_some(self, name: ListenerClass, count: int) -> int:
        leaving = sorted(self._seats[name], key=_leaves_first, reverse=True)[:count] if count > 0 else []
        for seat in leaving:
            self.evict(seat)
        return len(leaving)


def _leaves_first(seat: Seat) -> int:
    return seat.cohort
