"""The seats of this worker: the order of priority, and a cut in ten steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from math import ceil

import pytest

from shieldmw.core.client import ListenerClass
from shieldmw.core.seats import COHORTS, Audience
from shieldmw.gate.seats.ledger import CUT_STEPS, Allotment, SeatLedger
from shieldmw.gate.seats.seat import Seat

H, M, G = ListenerClass.HOST, ListenerClass.MEMBER, ListenerClass.GUEST


@dataclass
class Hall:
    """A book, and who was told to leave, in order."""

    ledger: SeatLedger = field(default_factory=SeatLedger)
    left: list[Seat] = field(default_factory=list)
    _ids: Iterator[int] = field(default_factory=count)

    def seat(self, name: ListenerClass, cohort: int = 0, ticket_id: str = "") -> Seat:
        """A seat for somebody."""
        seat = Seat(name, cohort, ticket_id or f"ticket-{next(self._ids)}", lambda: self.left.append(seat))
        return seat

    def enter(self, name: ListenerClass, cohort: int = 0, *, live: bool = False) -> bool:
        """Somebody comes."""
        return self.ledger.admit(self.seat(name, cohort), live=live)

    def filled(self, hosts: int = 0, members: int = 0, guests: int = 0) -> Hall:
        """Seat listeners of all cohorts before anything is limited."""
        for name, number in ((H, hosts), (M, members), (G, guests)):
            for cohort in range(number):
                assert self.enter(name, cohort * 37 % COHORTS)
        return self

    def limit(self, seats: int | None, guest_seats: int | None, members: int = COHORTS, guests: int = COHORTS) -> Hall:
        """What the worker may hold from now on."""
        self.ledger.allotment = Allotment(seats, guest_seats, members, guests)
        return self

    def lefts(self) -> Audience:
        """How many were told to leave."""
        return Audience(*(sum(seat.listener_class is name for seat in self.left) for name in ListenerClass))

    def cut(self, most: int = 100) -> list[Audience]:
        """Step until nothing is left to do: who was evicted in each step."""
        steps: list[Audience] = []
        for _ in range(most):
            before = self.lefts()
            if not self.ledger.shrink():
                return steps
            after = self.lefts()
            steps.append(Audience(0, after.members - before.members, after.guests - before.guests))
        raise AssertionError(f"not over after {most} steps")


# The order of favour, told as who comes to a full room of whom, and who goes for it.
FULL_ROOM = [
    # here (hosts, members, guests), who comes, is it live, let in?, who leaves for it
    ((0, 2, 2), H, False, True, G),  # a host takes a guest's seat
    ((0, 4, 0), H, False, True, M),  # or a member's
    ((4, 0, 0), H, False, False, None),  # but no host's
    ((0, 2, 2), M, True, True, G),  # a member takes a guest's seat
    ((0, 2, 2), M, False, True, G),  # a new one as well
    ((0, 4, 0), M, True, False, None),  # but no member's
    ((2, 2, 0), M, False, False, None),
    ((0, 0, 4), G, True, False, None),  # a guest takes nobody's
    ((0, 2, 2), G, False, False, None),
]


@pytest.mark.parametrize(("here", "comes", "live", "let_in", "leaves"), FULL_ROOM)
def test_the_order_of_favour_in_a_full_room(
    here: tuple[int, int, int], comes: ListenerClass, live: bool, let_in: bool, leaves: ListenerClass | None
) -> None:
    """Host before member before guest: who comes takes the seat of the lowest class below its own, one seat only."""
    hall = Hall().filled(*here).limit(4, 4)
    assert hall.enter(comes, live=live) is let_in
    assert [seat.listener_class for seat in hall.left] == ([] if leaves is None else [leaves])
    assert hall.ledger.present().total == 4


# Who finds a free seat while only half of the cohorts are let in anew: cohort 63 is, 64 is not.
FREE_SEAT = [
    (H, False, 127, True),  # hosts always
    (M, True, 127, True),  # a live member whatever its cohort
    (M, False, 63, True),
    (M, False, 64, False),  # a new one by its cohort
    (G, True, 127, True),  # a live guest whatever its cohort
    (G, False, 63, True),
    (G, False, 64, False),
]


@pytest.mark.parametrize(("comes", "live", "cohort", "let_in"), FREE_SEAT)
def test_live_before_new(comes: ListenerClass, live: bool, cohort: int, let_in: bool) -> None:
    """A ticket comes before new listeners of its class, and among those the same cohorts are let in everywhere."""
    hall = Hall().limit(4, 4, members=64, guests=64)
    assert hall.enter(comes, cohort, live=live) is let_in


def test_a_closed_cohort_keeps_no_member_out_while_guests_are_here() -> None:
    """A new member comes before every live guest: with a guest in the room its cohort does not matter."""
    hall = Hall().filled(guests=1).limit(4, 4, members=0)
    assert hall.enter(M, 127)
    assert hall.left == []


def test_the_whole_order_of_favour() -> None:
    """Four come for two seats, in the worst order: in the end host and live member are in, then the others' turn."""
    hall = Hall().limit(2, 2, members=0, guests=0)
    assert not hall.enter(G)  # new guest: its level is 0
    assert hall.enter(G, live=True)
    assert hall.enter(G, live=True)
    assert hall.enter(M)  # new member before live guest
    assert hall.enter(M, live=True)
    assert not hall.enter(M)
    assert hall.enter(H)
    assert hall.ledger.present() == Audience(1, 1, 0)


def test_a_member_gets_one_of_the_last_seats_that_guests_hold() -> None:
    """However late, every member is let in while a guest is here, whatever its cohort; the highest guest goes first."""
    hall = Hall().filled(guests=10).limit(10, 10, members=0)
    for number in range(10):
        assert hall.enter(M, COHORTS - 1)
        assert hall.ledger.present() == Audience(0, number + 1, 9 - number)
    assert not hall.enter(M, 0)
    cohorts = [seat.cohort for seat in hall.left]
    assert cohorts == sorted(cohorts, reverse=True)


@pytest.mark.parametrize("guest_seats", [0, 3, 7])
def test_guests_never_hold_more_than_their_seats(guest_seats: int) -> None:
    """Free seats beyond the guests' share stay free for members."""
    hall = Hall().limit(10, guest_seats)
    assert [hall.enter(G, live=number % 2 == 0) for number in range(20)].count(True) == guest_seats
    assert [hall.enter(M) for _ in range(20)].count(True) == 10
    assert hall.ledger.present() == Audience(0, 10, 0)


@pytest.mark.parametrize(("guest_seats", "let_in"), [(None, True), (0, False)])
def test_without_a_limit_of_seats_guests_may_still_be_turned_away(guest_seats: int | None, let_in: bool) -> None:
    """A room without a limit takes every member, and guests unless their share is 0."""
    hall = Hall().limit(None, guest_seats)
    assert hall.enter(M, 127)
    assert hall.enter(G, 127) is let_in


def test_a_ticket_has_one_live_connection() -> None:
    """A ticket replayed a thousand times has one stream here: each time the older one is told to leave, once."""
    hall = Hall().limit(10, 10)
    seats = [hall.seat(M, 5, "alice") for _ in range(1000)]
    for seat in seats:
        assert hall.ledger.admit(seat, live=True)
        assert hall.ledger.present().total == 1
        assert hall.ledger.is_live("alice")
    assert hall.left == seats[:-1]
    for seat in seats[:-1]:
        hall.ledger.release(seat)  # their streams end, later
        assert hall.ledger.is_live("alice")
    hall.ledger.release(seats[-1])
    assert not hall.ledger.is_live("alice")
    assert hall.ledger.present().total == 0


def test_a_seat_given_back_twice_is_given_back_once() -> None:
    """An evicted stream that then ends frees nothing a second time."""
    hall = Hall().filled(members=3)
    seat = hall.seat(M)
    hall.ledger.admit(seat, live=False)
    for _ in range(2):
        hall.ledger.release(seat)
        assert hall.ledger.present() == Audience(0, 3, 0)


@pytest.mark.parametrize("guests", [1, 7, 10, 11, 99, 1000, 12_345])
def test_without_a_guest_share_all_guests_are_gone_in_ten_steps(guests: int) -> None:
    """A tenth of those present at the cut goes each step, rounded up; members and hosts stay."""
    hall = Hall().filled(hosts=1, members=20, guests=guests).limit(10_000, 0)
    steps = hall.cut()
    assert len(steps) <= CUT_STEPS
    assert all(step.guests == ceil(guests / CUT_STEPS) for step in steps[:-1])
    assert hall.ledger.present() == Audience(1, 20, 0)
    assert hall.lefts() == Audience(0, 0, guests)


def test_the_highest_cohorts_leave_first() -> None:
    """In every worker the same guests leave first: those of the highest cohorts."""
    hall = Hall().filled(guests=128).limit(128, 64)
    hall.cut()
    assert [seat.cohort for seat in hall.left] == list(range(127, 63, -1))


def test_a_cut_ends_where_the_seats_begin() -> None:
    """No more leave than must, and none when the audience fits."""
    hall = Hall().filled(members=50, guests=50).limit(80, 40)
    assert sum(step.guests for step in hall.cut()) == 20
    assert hall.ledger.present() == Audience(0, 50, 30)
    assert hall.cut() == []


def test_members_stay_while_they_fit() -> None:
    """In a cut to 60 % of half members and half guests no member leaves."""
    hall = Hall().filled(members=5000, guests=5000).limit(6000, 6000)
    steps = hall.cut()
    assert len(steps) <= CUT_STEPS
    assert hall.lefts() == Audience(0, 0, 4000)


def test_where_members_do_not_fit_guests_go_before_them() -> None:
    """Not one member leaves while a guest is here, and the whole cut is over in ten steps all the same."""
    hall = Hall().filled(hosts=5, members=1000, guests=500).limit(300, 300)
    steps = hall.cut()
    assert len(steps) <= CUT_STEPS
    assert hall.ledger.present() == Audience(5, 295, 0)
    classes = [seat.listener_class for seat in hall.left]
    assert classes == [G] * 500 + [M] * 705


def test_hosts_never_leave() -> None:
    """A cut below the number of hosts leaves the hosts."""
    hall = Hall().filled(hosts=9, members=3).limit(4, 4)
    hall.cut()
    assert hall.ledger.present() == Audience(9, 0, 0)


def test_a_deeper_cut_in_the_middle_of_one_takes_ten_steps_more() -> None:
    """A second cut that members do not fit in is over as soon as one alone would be, though few guests began it."""
    hall = Hall().filled(members=1000, guests=10).limit(1010, 0)
    for _ in range(3):
        assert hall.ledger.shrink() == {G: 1, M: 0}
    hall.limit(100, 0)
    assert len(hall.cut()) <= CUT_STEPS
    assert hall.ledger.present() == Audience(0, 100, 0)


def test_a_deeper_cut_of_guests_keeps_its_pace() -> None:
    """A second cut of the same guests goes on with a tenth of those present at the first."""
    hall = Hall().filled(guests=1000).limit(1000, 500)
    for _ in range(3):
        assert hall.ledger.shrink()[G] == 100
    hall.limit(1000, 0)
    assert hall.cut() == [Audience(0, 0, 100)] * 7


def test_each_cut_is_counted_anew() -> None:
    """A cut long after another takes a tenth of those present then."""
    hall = Hall().filled(guests=1000).limit(1000, 900)
    hall.cut()
    hall.limit(1000, 0)
    assert hall.cut() == [Audience(0, 0, 90)] * 10


def test_a_cut_that_is_taken_back_stops() -> None:
    """When capacity returns in the middle, who is still here stays."""
    hall = Hall().filled(guests=100).limit(100, 0)
    hall.ledger.shrink()
    hall.limit(100, 100)
    assert hall.cut() == []
    assert hall.ledger.present().guests == 90


def test_nobody_new_comes_in_while_a_cut_is_under_way() -> None:
    """Seats that a cut empties are not given to guests; a member replaces a guest, and the room does not grow."""
    hall = Hall().filled(guests=100).limit(50, 50)
    hall.ledger.shrink()
    assert not hall.enter(G, 0, live=True)
    assert hall.enter(M, 127)
    assert hall.ledger.present() == Audience(0, 1, 89)
