"""Admission: tickets bring listeners back, numbers keep the order, guests get an honest answer; no call per request."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from gate.doubles import clock_of, packed
from shieldmw.core.bucket import EPOCH_S
from shieldmw.core.client import Identity, ListenerClass
from shieldmw.core.decision import Decision, Reason, Verdict
from shieldmw.core.facts import Facts
from shieldmw.core.mode import Mode, ModeChange
from shieldmw.core.seats import PAUSE_S, Audience
from shieldmw.core.tickets import TICKET_S
from shieldmw.core.waiting import AWAITED_S, EMPTY, SHORTEST_POLL_S, QueueCounters
from shieldmw.errors import StoreUnavailable
from shieldmw.gate.fleet.mode_watch import ModeWatch
from shieldmw.gate.seats.admission import Admission, Entry, NoSeat, TurnedAway
from shieldmw.gate.seats.capacity import SeatPlan
from shieldmw.gate.seats.seat import Seat
from shieldmw.gate.seats.seats import Seats
from shieldmw.store.memory import MemoryStore

SECRET = b"a secret of at least 32 characters"
ADDRESS = packed("203.0.113.7")
MEMBER, GUEST, HOST = ListenerClass.MEMBER, ListenerClass.GUEST, ListenerClass.HOST


@dataclass
class Clock:
    """A clock that is set by hand."""

    now_s: float = EPOCH_S + 1_000_000.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now_s

    def store_us(self) -> int:
        """The same, as the store counts."""
        return int((self.now_s - EPOCH_S) * 1_000_000)


class QueueStore(MemoryStore):
    """A store that can be away, and that counts what the waiting room asks of it."""

    away = False
    asked = 0

    async def queue(self, give: int, free: int, known: QueueCounters = EMPTY) -> QueueCounters:
        """Give and call numbers, if it is not away."""
        self.asked += 1
        if self.away:
            raise StoreUnavailable("away")
        return await super().queue(give, free, known)


@dataclass
class Worker:
    """One worker's room of so many seats, and who was told to leave it."""

    store: QueueStore
    clock: Clock
    capacity: int
    left: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Build it as the wiring does."""
        clock = clock_of(self.clock)
        self.mode_watch = ModeWatch(self.store, clock)
        self.seats = Seats(self.store, self.mode_watch, SeatPlan(self.capacity, self.capacity, 0.0), clock=clock)
        self.mode_watch.on_change = self.seats.mode_changed
        self.admission = Admission(self.store, self.seats, "interview", clock=clock)

    def ask(self, who: str, name: ListenerClass = MEMBER, signed_ticket: str | None = None) -> Entry | TurnedAway:
        """A client asks for a seat, perhaps with a signed ticket."""
        facts = Facts(str(ADDRESS), "/live", "/live", frozenset({"GET"}), signed_ticket=signed_ticket)
        address, identity = (packed(who), None) if name is GUEST else (ADDRESS, Identity(who, name))
        decision = Decision(Verdict.ALLOWED, Reason.WITHIN_LIMITS, address, identity, live=True)
        return self.admission.admit(facts, decision, lambda: self.left.append(who))

    def enters(self, who: str, name: ListenerClass = MEMBER, signed_ticket: str | None = None) -> Entry:
        """Somebody finds a seat."""
        answer = self.ask(who, name, signed_ticket)
        assert isinstance(answer, Entry)
        return answer

    def turned(self, who: str, name: ListenerClass = MEMBER, signed_ticket: str | None = None) -> TurnedAway:
        """Somebody finds none."""
        answer = self.ask(who, name, signed_ticket)
        assert isinstance(answer, TurnedAway)
        return answer

    def number(self, who: str, signed_ticket: str | None = None) -> tuple[int, str]:
        """A member waits: its number, and the paper that says so. Without one it waits for the next lease."""
        answer = self.turned(who, signed_ticket=signed_ticket)
        if answer == TurnedAway():
            asyncio.run(self.admission.refresh())
            answer = self.turned(who)
        assert answer.place
        assert answer.signed_ticket
        return answer.place.number, answer.signed_ticket

    async def refresh(self, times: int = 1) -> None:
        """What the background does."""
        for _ in range(times):
            await self.seats.refresh()
            await self.admission.refresh()

    @property
    def here(self) -> Audience:
        """Who has a seat."""
        return self.seats.ledger.present()


@pytest.fixture
def clock() -> Clock:
    """The clock of the test."""
    return Clock()


@pytest.fixture
def store(clock: Clock) -> QueueStore:
    """The store of the test."""
    return QueueStore(SECRET, now_us=clock.store_us)


def full(store: QueueStore, clock: Clock, seats: int = 4, name: ListenerClass = MEMBER) -> tuple[Worker, list[Entry]]:
    """A worker whose seats are all taken."""
    worker = Worker(store, clock, seats)
    asyncio.run(worker.refresh())
    who = [f"10.0.0.{number}" for number in range(seats)] if name is GUEST else [f"in-{n}" for n in range(seats)]
    entries = [worker.enters(one, name) for one in who]
    asyncio.run(worker.refresh())
    return worker, entries


def test_a_ticket_brings_its_listener_back_before_new_ones(store: QueueStore, clock: Clock) -> None:
    """Whose network blinked returns with its ticket while others wait for a seat, to the same one live connection."""
    worker, (mine, *_) = full(store, clock)
    worker.number("waiting")
    worker.admission.seats.release(mine.seat)
    worker.number("stranger")
    clock.now_s += TICKET_S - 1 - PAUSE_S
    asyncio.run(worker.refresh())
    clock.now_s += PAUSE_S
    asyncio.run(worker.refresh())
    back = worker.enters("in-0", signed_ticket=mine.ticket)
    assert back.seat.ticket_id == mine.seat.ticket_id
    assert back.ticket != mine.ticket  # renewed
    assert worker.left == []


def renewed(worker: Worker, signed_ticket: str, who: str = "in-0", name: ListenerClass = MEMBER) -> str | None:
    """What another request of somebody who shows a ticket gets."""
    address, identity = (packed(who), None) if name is GUEST else (ADDRESS, Identity(who, name))
    return worker.admission.renewed(signed_ticket, Decision(Verdict.ALLOWED, Reason.WITHIN_LIMITS, address, identity))


@pytest.mark.parametrize("name", [HOST, MEMBER, GUEST])
def test_a_ticket_is_renewed_while_its_stream_is_here(store: QueueStore, clock: Clock, name: ListenerClass) -> None:
    """Somebody who listens for hours and now and then asks for something else comes back as live, however late."""
    worker, who = Worker(store, clock, 4), "10.0.0.1"
    asyncio.run(worker.refresh())
    mine = worker.enters(who, name)
    signed_ticket = mine.ticket
    for _ in range(10):
        clock.now_s += TICKET_S * 0.6
        again = renewed(worker, signed_ticket, who, name)
        assert again is not None
        signed_ticket = again
    worker.admission.seats.release(mine.seat)
    clock.now_s += TICKET_S - 1
    assert worker.enters(who, name, signed_ticket).seat.ticket_id == mine.seat.ticket_id


def test_a_ticket_is_renewed_on_whatever_path_its_stream_is(store: QueueStore, clock: Clock) -> None:
    """Any one of several streams with one ticket will do, and none of them leaves for it."""
    worker = Worker(store, clock, 4)
    asyncio.run(worker.refresh())
    mine = worker.enters("in-0")
    assert worker.admission.seats.ledger.admit(Seat(MEMBER, 0, mine.seat.ticket_id, lambda: None, "another"), live=True)
    worker.admission.seats.release(mine.seat)
    clock.now_s += TICKET_S - 1
    assert renewed(worker, mine.ticket)
    assert worker.left == []


def test_what_is_no_such_ticket_is_not_renewed(store: QueueStore, clock: Clock) -> None:
    """Not one that is young, forged, of another client or class, a number, over, or without its stream."""
    worker, (mine, other, *_) = full(store, clock)
    _, number = worker.number("waiting")
    assert renewed(worker, mine.ticket) is None, "young"
    clock.now_s += TICKET_S / 2
    assert renewed(worker, mine.ticket) is None, "not past the half"
    clock.now_s += 1
    assert renewed(worker, mine.ticket)
    for forged in ("", "forged", "\ud800", "x" * 5000, mine.ticket[:-2], other.ticket):
        assert renewed(worker, forged) is None, forged
    assert renewed(worker, mine.ticket, "mallory") is None
    assert renewed(worker, mine.ticket, "in-0", HOST) is None
    assert renewed(worker, mine.ticket, "10.0.0.1", GUEST) is None
    assert renewed(worker, number, "waiting") is None
    clock.now_s += TICKET_S / 2 - 1
    assert renewed(worker, mine.ticket) is None, "over"
    clock.now_s -= 1
    assert renewed(worker, mine.ticket)
    worker.admission.seats.release(mine.seat)
    assert renewed(worker, mine.ticket) is None, "not connected"


def test_a_ticket_that_has_ended_makes_its_listener_a_new_one(store: QueueStore, clock: Clock) -> None:
    """An hour after it was last renewed a ticket is worth nothing: its listener waits like everybody."""
    worker, (mine, *_) = full(store, clock)
    worker.admission.seats.release(mine.seat)
    clock.now_s += TICKET_S
    worker.number("in-0", mine.ticket)


@pytest.mark.parametrize("signed_ticket", ["", "forged", "a.b", "\ud800", "x" * 5000])
def test_a_forged_ticket_is_no_ticket(store: QueueStore, clock: Clock, signed_ticket: str) -> None:
    """Nonsense instead of a ticket is as good as none, and no error."""
    worker, (mine, *_) = full(store, clock)
    worker.number("waiting")
    worker.admission.seats.release(mine.seat)
    worker.number("in-0", signed_ticket)
    worker.turned("10.9.9.9", GUEST, signed_ticket) if worker.here.members == 4 else None


def test_a_ticket_of_another_client_is_no_ticket(store: QueueStore, clock: Clock) -> None:
    """A stolen ticket neither lets its thief in nor throws its owner out."""
    worker, (mine, *_) = full(store, clock)
    worker.number("mallory", mine.ticket)
    assert worker.left == []


def test_a_ticket_of_another_class_is_no_ticket(store: QueueStore, clock: Clock) -> None:
    """A member that has become a host gets a ticket of its own; the member's ticket stays with the member's stream."""
    worker, (mine, *_) = full(store, clock)
    entry = worker.enters("in-0", HOST, mine.ticket)
    assert entry.seat.ticket_id != mine.seat.ticket_id


def test_a_ticket_of_another_event_is_no_ticket(store: QueueStore, clock: Clock) -> None:
    """Papers of one event are worth nothing at another of the same fleet."""
    worker, (mine, *_) = full(store, clock)
    worker.admission.seats.release(mine.seat)
    other = Admission(store, worker.seats, "debate", clock=clock_of(clock))
    asyncio.run(other.refresh())
    worker.admission = other
    assert worker.enters("in-0", signed_ticket=mine.ticket).seat.ticket_id != mine.seat.ticket_id


def test_a_ticket_replayed_a_thousand_times_has_one_live_connection(store: QueueStore, clock: Clock) -> None:
    """Each use of a ticket ends the one before, and never anybody else's."""
    worker, (mine, *_) = full(store, clock)
    for number in range(1, 1001):
        worker.enters("in-0", signed_ticket=mine.ticket)
        assert worker.left == ["in-0"] * number
        assert worker.here.members == 4


def test_workers_of_one_fleet_know_each_others_tickets(store: QueueStore, clock: Clock) -> None:
    """A ticket that one worker signed is live on another."""
    first, entries = full(store, clock)
    mine = entries[0]
    for entry in entries:
        first.admission.seats.release(entry.seat)
    second = Worker(store, clock, 4)

    async def rounds() -> None:
        for _ in range(3):
            await first.refresh()
            await second.refresh()

    asyncio.run(rounds())
    assert second.enters("in-0", signed_ticket=mine.ticket).seat.ticket_id == mine.seat.ticket_id


def test_members_get_numbers_in_order(store: QueueStore, clock: Clock) -> None:
    """Later members have higher numbers, and a member that asks again with its number keeps it."""
    worker, _ = full(store, clock)
    for n in range(8):
        assert worker.turned(f"m-{n}") == TurnedAway()  # no number for a moment
    asyncio.run(worker.refresh())
    numbers = [worker.number(f"m-{n}") for n in range(8)]
    assert [number for number, _ in numbers] == list(range(1, 9))
    assert worker.number("later")[0] == 9
    clock.now_s += 60
    assert [worker.number(f"m-{n}", signed_ticket)[0] for n, (_, signed_ticket) in enumerate(numbers)] == [
        n for n, _ in numbers
    ]


def test_a_number_is_its_owners_alone(store: QueueStore, clock: Clock) -> None:
    """Another member's number, a forged one and one that was not shown for too long do not count."""
    worker, _ = full(store, clock)
    first, signed_ticket = worker.number("alice")
    assert worker.number("mallory", signed_ticket)[0] == first + 1
    assert worker.number("eve", signed_ticket[:-2])[0] == first + 2
    clock.now_s += 100_000
    assert worker.number("alice", signed_ticket)[0] == first + 3


def test_polls_grow_with_the_queue_and_are_jittered(store: QueueStore, clock: Clock) -> None:
    """Those far back are told to ask less often, and no two at the same moment."""
    worker, _ = full(store, clock)
    worker.number("near")
    near = worker.turned("near").place
    asyncio.run(store.queue(1_000_000, 0))  # other workers gave these
    worker.number("far")
    far = worker.turned("far").place
    assert near
    assert far
    assert (near.position, far.position > 1_000_000) == (1, True)
    assert SHORTEST_POLL_S <= near.poll_s < 1.3 * SHORTEST_POLL_S < 100 < far.poll_s
    _, signed_ticket = worker.number("again")
    polls = {place.poll_s for _ in range(20) if (place := worker.turned("again", signed_ticket=signed_ticket).place)}
    assert len(polls) > 10
    assert max(polls) <= 1.2 * min(polls)


def test_numbers_are_called_as_seats_come_free(store: QueueStore, clock: Clock) -> None:
    """For a seat that comes free the first in line is called and gets it, before those who are not called."""
    worker, (mine, *_) = full(store, clock)
    signed_tickets = [worker.number(f"m-{n}")[1] for n in range(4)]
    asyncio.run(worker.refresh())
    assert all(
        worker.turned(f"m-{n}", signed_ticket=signed_ticket).place for n, signed_ticket in enumerate(signed_tickets)
    )  # nobody has gone
    worker.admission.seats.release(mine.seat)
    asyncio.run(worker.refresh())
    worker.turned("stranger")
    assert worker.number("m-3", signed_tickets[3])[0] == 4
    assert worker.number("m-1", signed_tickets[1])[0] == 2
    worker.enters("m-0", signed_ticket=signed_tickets[0])
    assert worker.here.members == 4


def test_where_fewer_wait_than_seats_are_free_nobody_waits(store: QueueStore, clock: Clock) -> None:
    """A newcomer finds a seat at once where there are seats for all who wait and for itself."""
    worker, entries = full(store, clock)
    _, signed_ticket = worker.number("m-0")
    for entry in entries[:2]:
        worker.admission.seats.release(entry.seat)
    worker.enters("newcomer")
    worker.turned("another")
    worker.enters("m-0", signed_ticket=signed_ticket)


def test_a_member_that_was_called_is_waited_for_a_while(store: QueueStore, clock: Clock) -> None:
    """Its seat is kept until it has had the time to come, and then it is anybody's."""
    worker, (mine, *_) = full(store, clock)
    worker.number("gone")
    worker.admission.seats.release(mine.seat)
    clock.now_s += 1
    asyncio.run(worker.refresh())
    assert asyncio.run(store.queue(0, 0)).called == 1
    clock.now_s += AWAITED_S - 1
    worker.turned("newcomer")
    clock.now_s += 1
    worker.enters("another")


def test_who_is_seated_before_its_call_is_not_waited_for(store: QueueStore, clock: Clock) -> None:
    """Of three who wait one gets a seat at once; then only two come before a newcomer, on every worker."""
    worker, entries = full(store, clock, seats=8)
    signed_tickets = [worker.number(name)[1] for name in ("a", "b", "c")]
    for entry in entries[:4]:
        worker.admission.seats.release(entry.seat)
    worker.enters("c", signed_ticket=signed_tickets[2])
    assert worker.admission.room.must_wait(None) is False
    worker.enters("newcomer")
    worker.turned("another")
    told: list[str] = []

    async def tell(change: str) -> None:
        told.append(change)

    store.tell = tell  # type: ignore[method-assign]
    asyncio.run(worker.admission.takeovers.refresh())
    other = Worker(store, clock, 8)
    asyncio.run(other.refresh())
    before = other.admission.room._ahead_of(None)
    other.admission.takeovers.heard(told.pop())
    assert (before, other.admission.room._ahead_of(None)) == (3, 2)


def test_numbers_are_called_once_a_second(store: QueueStore, clock: Clock) -> None:
    """However often members ask meanwhile: a called one needs the time to come."""
    worker, (mine, *_) = full(store, clock)
    for number in range(20):
        worker.number(f"m-{number}")
    worker.admission.seats.release(mine.seat)
    clock.now_s += 1
    called = []
    for _ in range(8):
        asyncio.run(worker.admission.refresh())
        called.append(asyncio.run(store.queue(0, 0)).called)
        clock.now_s += 0.25
    assert called == [1, 1, 1, 1, 2, 2, 2, 2]


def test_a_called_member_gets_in_whatever_its_cohort(store: QueueStore, clock: Clock) -> None:
    """Where many want few seats a cohort may be closed to newcomers; who has waited for its number is no newcomer."""
    worker, (mine, *_) = full(store, clock)
    signed_tickets = {name: worker.number(name)[1] for name in (f"m-{n}" for n in range(8))}
    for number in range(1000):
        worker.turned(f"crowd-{number}")
    asyncio.run(worker.seats.refresh())
    worker.admission.seats.release(mine.seat)
    clock.now_s += 1
    asyncio.run(worker.admission.refresh())
    assert worker.seats.ledger.allotment.member_level == 0
    worker.turned("newcomer")
    worker.enters("m-0", signed_ticket=signed_tickets["m-0"])


def test_a_closed_cohort_is_open_again_once_a_seat_is_free(store: QueueStore, clock: Clock) -> None:
    """Nobody is sent away beside an empty seat: the cohort counts in a full house only, as of the last report."""
    worker, entries = full(store, clock)
    for number in range(1000):
        worker.turned(f"crowd-{number}")
    asyncio.run(worker.refresh())
    assert worker.seats.ledger.allotment.member_level == 0
    for entry in entries:
        worker.admission.seats.release(entry.seat)
    asyncio.run(store.queue(0, 10**6))  # the crowd has gone home: all its numbers were called
    asyncio.run(worker.admission.refresh())
    clock.now_s += AWAITED_S
    worker.turned("late")
    asyncio.run(worker.seats.refresh())
    worker.enters("late")


def test_a_worker_with_free_seats_calls_the_numbers_of_others(store: QueueStore, clock: Clock) -> None:
    """Free seats anywhere call those who wait anywhere; until they come, newcomers wait there as well."""
    crowded, idle = Worker(store, clock, 4), Worker(store, clock, 4)

    async def begin() -> None:
        for worker in (crowded, idle, crowded, idle):
            await worker.refresh()

    asyncio.run(begin())
    for number in range(2):
        crowded.enters(f"in-{number}")
    due = [crowded.turned(f"first-{number}").why is NoSeat.DUE for number in range(4)]
    assert due == [True, True, False, False]  # the fleet has two seats more
    signed_tickets = [crowded.number(f"m-{number}")[1] for number in range(3)]
    asyncio.run(idle.admission.refresh())
    idle.turned("stranger")
    idle.turned("m-2", signed_ticket=signed_tickets[2])
    for number in range(2):
        idle.enters(f"m-{number}", signed_ticket=signed_tickets[number])


def test_a_member_gets_a_guests_seat_without_waiting(store: QueueStore, clock: Clock) -> None:
    """In a room full of guests every member who comes gets a seat at once: no number is given while guests hold any."""
    worker, _ = full(store, clock, name=GUEST)
    asyncio.run(worker.refresh(3))
    for number in range(4):
        worker.enters(f"m-{number}")
        asyncio.run(worker.refresh())
    assert worker.here == Audience(0, 4, 0)
    assert len(worker.left) == 4
    worker.number("m-4")


def test_members_who_wait_are_demand(store: QueueStore, clock: Clock) -> None:
    """Waiting members count as demand, so that seats move to their worker."""
    worker, _ = full(store, clock)
    for number in range(6):
        worker.turned(f"m-{number}")
        worker.turned(f"m-{number}")
    asyncio.run(worker.seats.refresh())
    assert worker.seats.grant
    assert worker.seats.grant.demand == Audience(0, 4 + 6, 0)


def test_guests_get_no_number(store: QueueStore, clock: Clock) -> None:
    """A guest without a seat is told so and nothing else, in an emergency as well."""
    worker, _ = full(store, clock)
    assert worker.turned("198.51.100.1", GUEST) == TurnedAway()
    asyncio.run(worker.mode_watch.set(ModeChange(Mode.EMERGENCY, "ops"), None))
    assert worker.turned("198.51.100.1", GUEST) == TurnedAway()


def test_hosts_never_wait(store: QueueStore, clock: Clock) -> None:
    """A host gets a member's seat even if members wait."""
    worker, _ = full(store, clock)
    worker.number("m-0")
    worker.enters("host", HOST)
    assert worker.here == Audience(1, 3, 0)


def test_ten_thousand_who_ask_cost_the_store_nothing(store: QueueStore, clock: Clock) -> None:
    """No request asks the store, whether it finds a seat or not."""
    worker, _ = full(store, clock)
    asked = store.asked
    for number in range(10_000):
        worker.turned(f"m-{number}")
    assert store.asked == asked


def test_a_crowd_is_numbered_at_once(store: QueueStore, clock: Clock) -> None:
    """A thousand members have their numbers after one call, in the order in which they came, and no number is left."""
    worker, _ = full(store, clock)
    asked = store.asked
    for _ in range(2):
        for number in range(1000):
            worker.turned(f"m-{number}")
    asyncio.run(worker.refresh(2))
    assert store.asked == asked + 2
    assert [worker.number(f"m-{number}")[0] for number in range(1000)] == list(range(1, 1001))
    assert asyncio.run(store.queue(0, 0)) == QueueCounters(1001, 1000, 0)


def test_an_estimate_follows_the_pace_of_calls(store: QueueStore, clock: Clock) -> None:
    """Where nothing moves no time is promised; once seats come free, those further back wait longer."""
    worker, (mine, *_) = full(store, clock)
    signed_tickets = [worker.number(f"m-{n}")[1] for n in range(8)]
    last = worker.turned("m-7", signed_ticket=signed_tickets[7]).place
    assert last
    assert last.wait_s is None
    worker.admission.seats.release(mine.seat)
    for _ in range(2):
        clock.now_s += 1
        asyncio.run(worker.refresh())
    waits = [place.wait_s for n in (4, 7) if (place := worker.turned(f"m-{n}", signed_ticket=signed_tickets[n]).place)]
    assert 0 < (waits[0] or 0) < (waits[1] or 0)


def test_while_the_store_is_away_tickets_and_numbers_stay_good(store: QueueStore, clock: Clock) -> None:
    """Without a store nobody's paper is forgotten; who has none is answered without a number and without an error."""
    worker, (mine, *_) = full(store, clock)
    _, signed_ticket = worker.number("alice")
    store.away = True
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            asyncio.run(worker.admission.refresh())
    for number in range(16):
        worker.turned(f"m-{number}")
    assert worker.turned("late") == TurnedAway()
    assert worker.number("alice", signed_ticket)[0] == 1
    worker.admission.seats.release(mine.seat)
    worker.enters("in-0", signed_ticket=mine.ticket)


def test_without_a_capacity_there_is_no_waiting_room(store: QueueStore, clock: Clock) -> None:
    """A room without a limit asks for no numbers and lets all in."""
    worker = Worker(store, clock, 0)
    asyncio.run(worker.refresh(3))
    for number in range(100):
        worker.enters(f"m-{number}")
    assert store.asked == 0


def test_the_background_keeps_the_room_fresh_and_stops(store: QueueStore, clock: Clock) -> None:
    """Started and stopped again, the room has learnt the fleet's secret and leaves nothing running."""
    worker = Worker(store, clock, 4)

    async def story() -> int:
        await worker.seats.start()
        await worker.admission.refresher.start()
        await worker.admission.refresher.stop()
        await worker.seats.stop()
        return len(asyncio.all_tasks())

    assert asyncio.run(story()) == 1
    assert store.asked == 1


# --- numbers are used once ------------------------------------------------------------------------


def test_a_called_number_is_good_for_one_seat(store: QueueStore, clock: Clock) -> None:
    """A number seats its member once; a member that shows it again waits like everybody."""
    worker, entries = full(store, clock)
    signed_tickets = {name: worker.number(name)[1] for name in ("mallory", "bob", "carol")}
    for entry in entries[:2]:
        worker.admission.seats.release(entry.seat)
    asyncio.run(worker.refresh())
    worker.enters("mallory", signed_ticket=signed_tickets["mallory"])
    for _ in range(15):
        worker.turned("mallory", signed_ticket=signed_tickets["mallory"])
    worker.enters("bob", signed_ticket=signed_tickets["bob"])
    assert worker.here.members == 4
    assert worker.left == []
    assert worker.number("mallory")[0] > 3, "a new number, behind those who wait"


def test_a_number_that_seated_is_a_ticket(store: QueueStore, clock: Clock) -> None:
    """Its member comes back with the ticket that it became, as with any other."""
    worker, (mine, *_) = full(store, clock)
    _, signed_ticket = worker.number("alice")
    worker.admission.seats.release(mine.seat)
    asyncio.run(worker.refresh())
    entry = worker.enters("alice", signed_ticket=signed_ticket)
    back = worker.enters("alice", signed_ticket=entry.ticket)
    assert back.seat.ticket_id == entry.seat.ticket_id
    assert worker.left == ["alice"]


def test_when_a_member_first_came_is_on_its_ticket(store: QueueStore, clock: Clock) -> None:
    """Coming back makes nobody newer, and a number or a ticket that was just given makes nobody older."""
    worker, (mine, *_) = full(store, clock)
    _, signed_ticket = worker.number("alice")
    worker.admission.seats.release(mine.seat)
    asyncio.run(worker.refresh())
    clock.now_s += 1
    came_ms = worker.seats.now_ms()
    entry = worker.enters("alice", signed_ticket=signed_ticket)
    assert worker.seats.ledger.newcomers(came_ms) == [entry.seat]
    clock.now_s += 60
    back = worker.enters("alice", signed_ticket=entry.ticket)
    assert worker.seats.ledger.newcomers(came_ms) == [back.seat]
    assert worker.seats.ledger.newcomers(came_ms + 1) == []


def test_a_number_is_spent_on_every_worker(store: QueueStore, clock: Clock) -> None:
    """Others hear that it has seated its member; of two seats that it got at the same moment one stays."""
    first, (mine, other, *_) = full(store, clock, seats=8)
    second = Worker(store, clock, 8)
    signed_tickets = [first.number(name)[1] for name in ("alice", "bob")]
    for entry in (mine, other):
        first.admission.seats.release(entry.seat)

    async def rounds() -> None:
        for _ in range(3):
            await second.refresh()
            await first.refresh()

    asyncio.run(rounds())
    told: list[str] = []

    async def tell(change: str) -> None:
        told.append(change)

    store.tell = tell  # type: ignore[method-assign]
    seated = first.enters("alice", signed_ticket=signed_tickets[0])
    asyncio.run(first.admission.takeovers.refresh())
    second.admission.takeovers.heard(told.pop())
    assert (
        second.admission.room.number_of(
            second.admission._signer.client_digest(b"token:alice"),
            second.admission._signer.read_number(signed_tickets[0], clock.now_s),
        )
        is None
    )
    twin = Seat(MEMBER, 0, seated.seat.ticket_id, lambda: second.left.append("alice"), seated.seat.path, 1)
    second.seats.ledger.allotment.seats = None
    assert second.seats.ledger.admit(twin, live=False)
    first.admission.takeovers.came_back(seated.seat)
    asyncio.run(first.admission.takeovers.refresh())
    second.admission.takeovers.heard(told.pop())
    assert second.left == ["alice"]


def test_who_asks_without_its_signed_ticket_gets_the_same_number(store: QueueStore, clock: Clock) -> None:
    """300 requests without the paper are one number, and one who wants a seat."""
    worker, _ = full(store, clock)
    numbers = {worker.number("mallory")[0] for _ in range(300)}
    assert len(numbers) == 1
    assert worker.number("bob")[0] == numbers.pop() + 1
    clock.now_s += 100_000
    worker.seats.mode_changed()
    assert worker.number("mallory")[0] > 2, "given up: it was not shown for too long"
