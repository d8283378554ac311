"""Streams of one client, fleet-wide: a member keeps the newest, an address the oldest; no call per listener."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from gate.doubles import clock_of, packed
from shieldmw.core.bucket import EPOCH_S
from shieldmw.core.client import Identity, ListenerClass
from shieldmw.core.decision import Decision, Reason, Verdict
from shieldmw.core.facts import Facts
from shieldmw.core.seats import LEASE_S
from shieldmw.errors import StoreUnavailable
from shieldmw.gate.fleet.mode_watch import ModeWatch
from shieldmw.gate.seats.admission import Admission, Entry, NoSeat, TurnedAway
from shieldmw.gate.seats.capacity import SeatPlan
from shieldmw.gate.seats.seat import Seat
from shieldmw.gate.seats.seats import RENEW_S, Seats
from shieldmw.gate.seats.stream_caps import MOST_AT_ONCE, StreamCaps
from shieldmw.gate.seats.stream_messages import GOODBYE, STREAMS
from shieldmw.gate.seats.takeover import TAKEN
from shieldmw.store.memory import MemoryStore

SECRET = b"a secret of at least 32 characters"
OFFICE = "203.0.113.7"
CAPS = StreamCaps(per_member=3, per_address=20)


@dataclass
class Clock:
    """A clock that goes on by ten milliseconds whenever somebody comes."""

    now_s: float = EPOCH_S + 1_000_000.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now_s

    def store_us(self) -> int:
        """The same, as the store counts."""
        return int((self.now_s - EPOCH_S) * 1_000_000)


class Channel(MemoryStore):
    """A store that keeps what is told until the test delivers it, and that can be away."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(SECRET, now_us=clock.store_us)
        self.told: list[str] = []
        self.away = False

    async def tell(self, change: str) -> None:
        """Note it."""
        if self.away:
            raise StoreUnavailable("away")
        self.told.append(change)


@dataclass
class Worker:
    """One worker's room, and who had to leave it and why."""

    store: Channel
    clock: Clock
    caps: StreamCaps = CAPS
    capacity: int = 10_000
    left: list[tuple[str, Reason]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Build it as the wiring does."""
        clock = clock_of(self.clock)
        self.mode_watch = ModeWatch(self.store, clock)
        self.seats = Seats(self.store, self.mode_watch, SeatPlan(self.capacity, self.capacity, 0.0), clock=clock)
        self.admission = Admission(self.store, self.seats, "interview", caps=self.caps, clock=clock)

    def ask(
        self, who: str, at: str = OFFICE, *, signed_ticket: str | None = None, path: str = "/live"
    ) -> Entry | TurnedAway:
        """A member asks for a stream, or a guest where ``who`` is empty."""
        self.clock.now_s += 0.01
        facts = Facts(at, path, path, frozenset({"GET"}), signed_ticket=signed_ticket)
        identity = Identity(who) if who else None
        decision = Decision(Verdict.ALLOWED, Reason.WITHIN_LIMITS, packed(at), identity, live=True)

        def leave() -> None:
            assert isinstance(answer, Entry)
            self.left.append((who, answer.seat.why))

        answer = self.admission.admit(facts, decision, leave)
        return answer

    def opens(self, who: str, at: str = OFFICE, *, signed_ticket: str | None = None, path: str = "/live") -> Entry:
        """A stream is opened."""
        answer = self.ask(who, at, signed_ticket=signed_ticket, path=path)
        assert isinstance(answer, Entry)
        return answer

    def here(self, name: ListenerClass = ListenerClass.MEMBER) -> list[Seat]:
        """The seats of a class, the oldest first."""
        return sorted((s for s in self.seats.ledger if s.listener_class is name), key=lambda seat: seat.began_ms)


@dataclass
class Fleet:
    """Workers on one channel."""

    count: int = 2
    caps: StreamCaps = CAPS
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        """All start, and hear each other."""
        self.store = Channel(self.clock)
        self.workers = [Worker(self.store, self.clock, self.caps) for _ in range(self.count)]

        async def begin() -> None:
            for _ in range(3):
                for worker in self.workers:
                    await worker.seats.refresh()
                    await worker.admission.refresh()

        asyncio.run(begin())
        self.talk()

    def hear(self, deaf: Worker | None = None) -> None:
        """All but one hear what was told."""
        told, self.store.told = self.store.told, []
        for change in told:
            for worker in self.workers:
                if worker is deaf:
                    continue
                admission = worker.admission
                (admission.takeovers if change.startswith(TAKEN) else admission.streams).heard(change)

    def talk(self, rounds: int = 2, deaf: Worker | None = None) -> None:
        """What the background does: each tells, and all hear."""

        async def tell() -> None:
            for worker in self.workers:
                await worker.admission.streams.refresh()

        for _ in range(rounds):
            asyncio.run(tell())
            self.hear(deaf)

    def total(self, name: ListenerClass = ListenerClass.MEMBER) -> int:
        """How many streams there are."""
        return sum(len(worker.here(name)) for worker in self.workers)


GUEST = ListenerClass.GUEST


def test_of_a_members_streams_the_newest_stay() -> None:
    """The fourth stream ends the first, whose listener is told why; it takes that seat and no other."""
    fleet = Fleet(1)
    (worker,) = fleet.workers
    worker.opens("", "198.51.100.1")
    entries = [worker.opens("mallory") for _ in range(200)]
    assert worker.here() == [entry.seat for entry in entries[-3:]]
    assert worker.left == [("mallory", Reason.REPLACED)] * 197
    assert len(worker.here(GUEST)) == 1


def test_a_hog_without_tickets_holds_three_streams_over_two_workers() -> None:
    """150 streams over two workers become the three newest of all, and no other listener loses a seat for them."""
    fleet = Fleet(2)
    first, second = fleet.workers
    guests = [worker.opens("", f"198.51.100.{n}") for n in range(50) for worker in fleet.workers]
    entries = [fleet.workers[number % 2].opens("mallory") for number in range(150)]
    assert fleet.total() == 6, "each worker holds its own to the cap at once"
    fleet.talk()
    stay = sorted([*first.here(), *second.here()], key=lambda seat: seat.began_ms)
    assert stay == [entry.seat for entry in entries[-3:]]
    assert fleet.total(GUEST) == len(guests)
    assert all(isinstance(worker.ask(f"m-{n}"), Entry) for n in range(10) for worker in fleet.workers)


@pytest.mark.parametrize("count", [3, 7])
def test_single_streams_on_many_workers_are_counted_too(count: int) -> None:
    """A member with one stream on each of many workers keeps the newest three."""
    fleet = Fleet(count)
    entries = [worker.opens("mallory") for worker in fleet.workers]
    fleet.talk(3)
    here = [seat for worker in fleet.workers for seat in worker.here()]
    assert here == [entry.seat for entry in entries[-3:]]


def test_of_an_addresss_streams_the_oldest_stay() -> None:
    """The 21st guest stream of one address is refused, wherever it comes; members there are not counted."""
    fleet = Fleet(2)
    first, second = fleet.workers
    oldest = [first.opens("") for _ in range(15)]
    assert [isinstance(second.ask(""), Entry) for _ in range(25)] == [True] * 20 + [False] * 5
    assert second.ask("") == TurnedAway(why=NoSeat.TOO_MANY_STREAMS)
    fleet.talk()
    assert first.here(GUEST) == [entry.seat for entry in oldest]
    assert len(second.here(GUEST)) == 5
    assert second.left == [("", Reason.TOO_MANY_STREAMS)] * 15
    for worker in fleet.workers:
        assert worker.ask("") == TurnedAway(why=NoSeat.TOO_MANY_STREAMS), "known at once from now on"
        for number in range(100):
            worker.opens(f"member-{number}")
    second.seats.release(second.here(GUEST)[0])
    fleet.talk(1)
    first.opens("")


def test_a_64_is_one_client() -> None:
    """Addresses of one /64 share cohort, demand and streams; those of another do not."""
    fleet = Fleet(1)
    (worker,) = fleet.workers
    seats = [worker.opens("", f"2001:db8::{number:x}").seat for number in range(1, 21)]
    assert {(seat.client, seat.cohort) for seat in seats} == {(seats[0].client, seats[0].cohort)}
    for number in range(300):
        assert worker.ask("", f"2001:db8:0:0:1::{number:x}") == TurnedAway(why=NoSeat.TOO_MANY_STREAMS)
    assert worker.seats._share.unseated.count().guests == 0
    worker.opens("", "2001:db8:0:1::1")


def test_a_64_that_finds_no_seat_is_demand_of_one() -> None:
    """300 addresses of one /64 that are turned away want one seat, not 300."""
    worker = Worker(Channel(Clock()), Clock(), capacity=1)
    asyncio.run(worker.seats.refresh())
    worker.opens("", "198.51.100.1")
    for number in range(300):
        assert isinstance(worker.ask("", f"2001:db8::{number:x}"), TurnedAway)
    assert worker.seats._share.unseated.count().guests == 1


def test_who_comes_back_with_a_ticket_counts_once() -> None:
    """A reconnect elsewhere ends the older stream of its ticket and no other, though the member has all its streams."""
    fleet = Fleet(2)
    first, second = fleet.workers
    entries = [first.opens("alice", path=f"/live/{number}") for number in range(3)]
    fleet.talk()
    second.opens("alice", signed_ticket=entries[2].ticket, path="/live/2")
    assert first.left == []
    fleet.talk()
    assert first.here() == [entries[0].seat, entries[1].seat]
    assert (len(second.here()), second.left) == (1, [])


def test_a_guest_comes_back_with_a_ticket_though_its_address_is_full() -> None:
    """The stream that it replaces does not count, here or elsewhere."""
    fleet = Fleet(2)
    first, second = fleet.workers
    entries = [first.opens("") for _ in range(20)]
    fleet.talk()
    first.opens("", signed_ticket=entries[0].ticket)
    second.opens("", signed_ticket=entries[1].ticket)
    fleet.talk()
    assert fleet.total(GUEST) == 20
    assert {why for _, why in first.left} == {Reason.REPLACED}


def test_of_an_address_the_newest_stream_goes_though_another_came_back_after_it() -> None:
    """A guest with a ticket was there before, however late it comes back: the newest guest leaves in its place."""
    fleet = Fleet(2, StreamCaps(per_address=4))
    first, second = fleet.workers
    entries = [first.opens("") for _ in range(3)]
    second.opens("", signed_ticket=entries[0].ticket, path="/chat")
    newest = second.opens("")
    back = second.opens("", signed_ticket=entries[0].ticket)
    fleet.hear()
    fleet.talk()
    assert newest.seat not in second.here(GUEST)
    assert back.seat in second.here(GUEST)
    assert fleet.total(GUEST) == 4
    assert second.left == [("", Reason.TOO_MANY_STREAMS)]


def test_the_oldest_stream_of_a_member_goes_though_the_clock_went_back() -> None:
    """Which is the oldest is told by when each began, not by the order in which they were admitted."""
    fleet = Fleet(1)
    (worker,) = fleet.workers
    late = worker.opens("alice")
    fleet.clock.now_s -= 2.0
    early = worker.opens("alice")
    fleet.clock.now_s += 3.0
    stay = [worker.opens("alice") for _ in range(2)]
    assert worker.here() == [late.seat, *(entry.seat for entry in stay)]
    assert early.seat not in worker.seats.ledger


def test_what_was_missed_is_told_again() -> None:
    """A worker that missed messages notices with the next one, and all agree."""
    fleet = Fleet(2)
    first, second = fleet.workers
    for _ in range(3):
        first.opens("mallory")
    fleet.talk(1, deaf=second)
    for _ in range(3):
        second.opens("mallory")
    fleet.talk(1, deaf=first)
    assert fleet.total() == 6
    fleet.talk(3)
    assert fleet.total() == len(second.here()) == 3


def test_a_worker_that_begins_to_listen_asks() -> None:
    """A worker that missed announcements has the answers soon, and forgets what it knew before."""
    fleet = Fleet(2)
    first, second = fleet.workers
    for _ in range(3):
        first.opens("mallory")
    fleet.talk()
    newcomer = Worker(fleet.store, fleet.clock)
    fleet.workers.append(newcomer)
    for worker in (newcomer, first, second, newcomer):
        asyncio.run(worker.seats.refresh())
    asyncio.run(newcomer.admission.refresh())
    newcomer.opens("mallory")
    fleet.talk(1, deaf=first)
    newcomer.admission.streams.listening()
    fleet.talk(3)
    assert (len(first.here()), len(second.here()), len(newcomer.here())) == (2, 0, 1)


def test_an_outage_of_the_store_is_made_up_for() -> None:
    """What could not be told is told later, with the same number, and nobody has to begin anew."""
    fleet = Fleet(2)
    first, second = fleet.workers
    for _ in range(3):
        first.opens("mallory")
    fleet.store.away = True
    with pytest.raises(StoreUnavailable):
        fleet.talk()
    fleet.store.away = False
    second.opens("mallory")
    fleet.talk()
    assert (len(first.here()), len(second.here())) == (2, 1)


def test_a_dead_workers_streams_count_until_its_lease_ends() -> None:
    """A crash takes nobody's streams away for longer than it takes its seats."""
    fleet = Fleet(2)
    first, second = fleet.workers
    for _ in range(20):
        first.opens("")
    second.opens("", "198.51.100.1")
    fleet.talk()
    fleet.workers.remove(first)
    assert second.ask("") == TurnedAway(why=NoSeat.TOO_MANY_STREAMS)
    for _ in range(3):
        fleet.clock.now_s += RENEW_S
        fleet.talk(1)
        asyncio.run(second.seats.refresh())
    assert 3 * RENEW_S >= LEASE_S
    second.opens("")


def test_a_stopped_workers_streams_count_no_longer_at_once() -> None:
    """After a restart whose listeners come to the others nobody is refused for streams that are gone."""
    fleet = Fleet(2)
    first, second = fleet.workers
    for _ in range(20):
        first.opens("")
    fleet.talk()
    asyncio.run(first.admission.streams.stop())
    fleet.hear()
    second.opens("")


def test_clients_are_told_in_batches_and_once_each() -> None:
    """A thousand who come cost a few messages; who had one stream that nobody else knows of leaves without any."""
    fleet = Fleet(2)
    first, _ = fleet.workers
    seats = [first.opens(f"member-{number}").seat for number in range(1000)]
    for _ in range(10):
        asyncio.run(first.admission.streams.refresh())
    told = [len(change.split(" ")[2].split(",")) if change[-1] != " " else 0 for change in fleet.store.told]
    assert told[:4] == [MOST_AT_ONCE, MOST_AT_ONCE, 200, 0]
    for seat in seats:
        first.seats.release(seat)
    assert first.admission.streams._to_announce == {}


def test_without_caps_nothing_is_limited_and_nothing_told() -> None:
    """0 is no limit."""
    fleet = Fleet(1, StreamCaps())
    (worker,) = fleet.workers
    for _ in range(100):
        worker.opens("alice")
        worker.opens("")
    assert (fleet.total(), fleet.total(GUEST), worker.admission.streams._to_announce) == (100, 100, {})


def test_without_caps_nothing_runs_and_nothing_is_kept() -> None:
    """No heartbeat, no last words, and what workers with caps ask is left unanswered."""
    worker = Worker(Channel(Clock()), Clock(), StreamCaps())
    streams = worker.admission.streams
    seat = worker.opens("alice").seat
    worker.opens("alice")

    async def story() -> int:
        await streams.start()
        count = len(asyncio.all_tasks()) - 1
        streams.listening()
        streams.heard(f"{STREAMS}x:1 {seat.client:x}?9999999999999.9999999999999")
        worker.seats.release(seat)
        await streams.stop()
        return count

    assert asyncio.run(story()) == 0
    assert worker.store.told == []
    assert (streams._to_announce, streams._to_announce_again, len(streams._elsewhere)) == ({}, [], 0)


NONSENSE = ["", "x", "x:1", "x:one ", "x:-1 ", "x:1 y", "x:1 zz?1", "x:1 1", "x:1 1?x.y", "x:1 1?1,,", ":1 ", "x:²  "]


@pytest.mark.parametrize("text", NONSENSE)
def test_nonsense_is_ignored(text: str) -> None:
    """What is no such message ends no stream."""
    fleet = Fleet(1)
    (worker,) = fleet.workers
    for _ in range(3):
        worker.opens("alice")
    worker.admission.streams.heard(f"{STREAMS}{text}")
    client = worker.here()[0].client
    worker.admission.streams.heard(f"{STREAMS}{worker.seats.worker}:5 {client:x}?9999999999999")  # its own words
    worker.admission.streams.heard(f"{STREAMS}x:{GOODBYE} {client:x}?9999999999999")  # the last words of another
    assert len(worker.here()) == 3
    worker.admission.streams.heard(f"{STREAMS}x:1 {client:x}?9999999999999")
    assert len(worker.here()) == 2


def test_the_pace_is_the_fleets() -> None:
    """What workers tell and report in the background is so much a second for all of them together."""
    worker = Fleet(1).workers[0]
    paces = []
    for worker.seats._share.workers in (1, 10, 50, 200, 10_000):
        paces.append(worker.seats.pace_s(0.25))
    assert paces == [0.25, 0.25, 0.5, 2.0, RENEW_S - 1]
