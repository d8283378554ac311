"""A seat is free only when its response has ended: a listener that was given it earlier waits."""

from __future__ import annotations

import asyncio
import random

import pytest

from shieldmw.core.client import ListenerClass
from shieldmw.core.seats import Audience
from shieldmw.gate.fleet.mode_watch import ModeWatch
from shieldmw.gate.seats.capacity import SeatPlan
from shieldmw.gate.seats.ledger import Allotment, SeatLedger
from shieldmw.gate.seats.seat import Seat
from shieldmw.gate.seats.seats import Seats
from shieldmw.store.memory import MemoryStore

H, M, G = ListenerClass.HOST, ListenerClass.MEMBER, ListenerClass.GUEST


def seat(name: ListenerClass = M, ticket_id: str = "", cohort: int = 0) -> Seat:
    """A seat whose listener takes a while to go."""
    return Seat(name, cohort, ticket_id or f"ticket-{random.random()}", lambda: None)


def running(seats: list[Seat]) -> int:
    """How many responses run: those whose turn has come."""
    return sum(one.turn is None or one.turn.is_set() for one in seats)


def test_a_ticket_replayed_runs_no_more_responses_than_there_are_seats() -> None:
    """A hundred replays run two at a time on two seats; each ends before the next begins, in the order they came."""
    ledger = SeatLedger(Allotment(2, 2))
    seats: list[Seat] = []
    for count in range(1, 101):
        seats.append(seat(ticket_id="alice"))
        assert ledger.admit(seats[-1], live=True)
        assert (ledger.present().total, running(seats)) == (1, min(2, count))
        assert ledger.held().total <= 2
    for ended, one in enumerate(seats[:-1], start=1):
        ledger.release(one)
        assert running(seats) == min(100, 2 + ended)
    ledger.release(seats[-1])
    assert ledger.held() == Audience()


def test_who_takes_a_seat_waits_until_it_is_empty() -> None:
    """A member takes the last guest's seat at once, and begins when the guest's response has ended."""
    ledger = SeatLedger(Allotment(1, 1))
    guest, member = seat(G), seat(M)
    assert ledger.admit(guest, live=False)
    assert guest.turn is None
    assert ledger.admit(member, live=False)
    assert member.turn is not None
    assert not member.turn.is_set()
    ledger.release(guest)
    assert member.turn.is_set()
    assert ledger.held() == Audience(0, 1, 0)


def test_nobody_waits_while_a_seat_is_empty() -> None:
    """Beside empty seats, and where there is no limit, a listener who comes back begins at once."""
    for ledger in (SeatLedger(Allotment(3, 3)), SeatLedger()):
        first, again = seat(ticket_id="alice"), seat(ticket_id="alice")
        assert ledger.admit(first, live=True)
        assert ledger.admit(again, live=True)
        assert again.turn is None


def test_one_who_must_leave_while_waiting_keeps_its_seat_until_it_has_ended() -> None:
    """The seat of somebody who never began passes on only once it is given back, which is after the one before."""
    ledger = SeatLedger(Allotment(1, 1))
    guest, member, host = seat(G), seat(M), seat(H)
    for one in (guest, member, host):
        assert ledger.admit(one, live=False)
    assert host.turn is not None
    ledger.release(guest)
    assert member.turn is not None
    assert member.turn.is_set()
    assert not host.turn.is_set()
    ledger.release(member)
    assert host.turn.is_set()


def test_a_cut_counts_until_it_is_obeyed() -> None:
    """Seats that a cut takes stay in use until their responses end, and the cut takes no more for that."""
    ledger = SeatLedger()
    guests = [seat(G, cohort=cohort) for cohort in range(10)]
    for one in guests:
        assert ledger.admit(one, live=False)
    ledger.allotment = Allotment(5, 5)
    while ledger.shrink():
        pass
    assert (ledger.present().guests, ledger.held().guests) == (5, 10)
    for one in guests:
        ledger.release(one)
    assert ledger.held() == Audience()


def test_in_a_dry_run_nobody_waits() -> None:
    """Where nobody is made to leave a seat that is taken back counts as empty, and delays nobody."""
    ledger = SeatLedger(Allotment(1, 1))
    for _ in range(10):
        one = Seat(M, 0, "alice", None)
        assert ledger.admit(one, live=True)
        assert one.turn is None
    assert ledger.held().total == 1


def test_a_seat_stays_in_use_when_the_one_who_waits_for_it_goes_first() -> None:
    """The response that runs on it has not ended: the next one waits for the same."""
    ledger = SeatLedger(Allotment(1, 1))
    guest, member, other = seat(G), seat(M), seat(M)
    assert ledger.admit(guest, live=False)
    assert ledger.admit(member, live=False)
    ledger.release(member)
    assert ledger.held() == Audience(0, 0, 1)
    assert ledger.admit(other, live=False)
    assert other.turn is not None
    assert not other.turn.is_set()
    ledger.release(guest)
    assert other.turn.is_set()
    assert ledger.held() == Audience(0, 1, 0)


def test_a_client_cannot_queue_behind_its_own_response_that_takes_a_moment_to_end() -> None:
    """A hundred replays of a ticket for a film have as many responses as there are seats, not one after the other."""
    ledger = SeatLedger(Allotment(2, 2))
    admitted: list[Seat] = []

    def film() -> Seat:
        one = Seat(G, 0, "alice", lambda: setattr(one, "is_slow", True), client=7)
        return one

    for _ in range(100):
        one = film()
        if ledger.admit(one, live=True):
            admitted.append(one)
    assert len(admitted) == 2
    assert ledger.is_vacating(7)
    assert not ledger.admit(film(), live=True)
    other = Seat(M, 0, "bob", lambda: None, client=8)
    assert ledger.admit(other, live=False)
    for one in [*admitted, other]:
        ledger.release(one)
        ledger.release(one)
    assert not ledger.is_vacating(7)
    assert ledger.held() == Audience()
    assert ledger.admit(film(), live=True)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_no_more_run_than_there_are_seats(seed: int) -> None:
    """Random listeners come, come back, are cut and end: responses that run never outnumber the seats ever allowed."""
    rng = random.Random(seed)
    limit = rng.randint(1, 6)
    ledger = SeatLedger(Allotment(limit, limit))
    alive: list[Seat] = []
    for _ in range(300):
        if alive and rng.random() < 0.4:
            # One that waits for its turn may be given up: its client has gone.
            one = rng.choice(alive)
            alive.remove(one)
            ledger.release(one)
        else:
            ticket = f"ticket-{rng.randint(0, 4)}"
            one = seat(rng.choice([H, M, G]), ticket, rng.randint(0, 127))
            if ledger.admit(one, live=rng.random() < 0.7):
                alive.append(one)
        assert running(alive) <= limit
        assert ledger.present().total <= limit
        assert running(alive) <= ledger.held().total or not alive
    for one in [*alive]:
        ledger.release(one)
    assert ledger.held() == Audience()


def test_the_fleet_hears_of_seats_that_are_still_in_use() -> None:
    """A worker reports what is in use, so that nobody grows into seats on which responses still run."""

    async def story() -> None:
        store = MemoryStore(b"secret")
        mode_watch = ModeWatch(store)
        one, other = (Seats(store, mode_watch, SeatPlan(10, 10, 1)) for _ in range(2))
        guests = [seat(G) for _ in range(10)]
        await one.refresh()
        for listener, guest in enumerate(guests):
            assert one.admit(guest, live=False, listener=listener)
        for guest in guests:
            one.ledger.evict(guest)
        await one.refresh()
        await other.refresh()
        assert other.grant is not None
        assert other.grant.seats == 0
        for guest in guests:
            one.release(guest)
        await one.refresh()
        await other.refresh()
        assert other.grant.seats == 5

    asyncio.run(story())
