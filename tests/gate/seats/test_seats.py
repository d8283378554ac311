"""Seats of one worker: admitted without a call, granted in the background, given back at the end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from gate.doubles import Heard, clock_of
from shieldmw.core.bucket import EPOCH_S
from shieldmw.core.client import ListenerClass
from shieldmw.core.mode import Mode, ModeChange
from shieldmw.core.seats import LEASE_S, LOST_GRANT, NO_GRANT, PAUSE_S, Audience, Capacity, Grant, Report
from shieldmw.errors import StoreUnavailable
from shieldmw.gate.fleet.mode_watch import ModeWatch
from shieldmw.gate.seats.capacity import SeatPlan
from shieldmw.gate.seats.seat import Seat
from shieldmw.gate.seats.seats import RENEW_S, Seats
from shieldmw.gate.seats.unseated import Unseated
from shieldmw.store.memory import MemoryStore

SECRET = b"a secret of at least 32 characters"
H, M, G = ListenerClass.HOST, ListenerClass.MEMBER, ListenerClass.GUEST


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


class CountingStore(MemoryStore):
    """A store that can be away, and that notes what it is asked for seats."""

    away = False

    def __init__(self, clock: Clock) -> None:
        super().__init__(SECRET, now_us=clock.store_us)
        self.reports: list[Report] = []
        self.released: list[str] = []

    async def seats(self, report: Report, capacity: Capacity) -> Grant:
        """Grant seats, if it is not away."""
        self.reports.append(report)
        if self.away:
            raise StoreUnavailable("away")
        return await super().seats(report, capacity)

    async def release_seats(self, worker: str) -> None:
        """Take seats back, if it is not away."""
        self.released.append(worker)
        if self.away:
            raise StoreUnavailable("away")
        await super().release_seats(worker)


@dataclass
class Worker:
    """One worker: its seats, its switch, and who was told to leave."""

    store: CountingStore
    clock: Clock
    plan: SeatPlan
    left: list[Seat] = field(default_factory=list)
    heard: Heard = field(default_factory=Heard)

    @property
    def evicted(self) -> list[tuple[ListenerClass, int]]:
        """How many of which class were told to leave, step by step."""
        return [(event.listener_class, event.count) for event in self.heard.evictions]

    def __post_init__(self) -> None:
        """Build them as the wiring does."""
        clock = clock_of(self.clock)
        self.mode_watch = ModeWatch(self.store, clock)
        self.seats = Seats(
            self.store,
            self.mode_watch,
            self.plan,
            observers=(self.heard,),
            clock=clock,
        )
        self.mode_watch.on_change = self.seats.mode_changed

    def enter(self, name: ListenerClass, listener: int, *, live: bool = False, cohort: int = 0) -> Seat | None:
        """Somebody comes: the seat, or None. Told to leave, a listener is gone at once."""

        def leave() -> None:
            self.left.append(seat)
            self.seats.release(seat)

        seat = Seat(name, cohort, f"{name}-{listener}", leave)
        return seat if self.seats.admit(seat, live=live, listener=listener) else None

    def crowd(self, name: ListenerClass, count: int, first: int = 0) -> int:
        """Let ``count`` listeners come; returns how many have found a seat."""
        return sum(self.enter(name, first + number) is not None for number in range(count))

    @property
    def here(self) -> Audience:
        """Who has a seat."""
        return self.seats.ledger.present()


@pytest.fixture
def clock() -> Clock:
    """The clock of the test."""
    return Clock()


@pytest.fixture
def store(clock: Clock) -> CountingStore:
    """The store of the test."""
    return CountingStore(clock)


def fleet(store: CountingStore, clock: Clock, workers: int = 1, plan: SeatPlan | None = None) -> list[Worker]:
    """Workers over one store: 100 seats, in emergency 50 of which guests may hold a fifth."""
    return [Worker(store, clock, plan or SeatPlan(100, 50, 0.2)) for _ in range(workers)]


async def refreshed(workers: list[Worker], rounds: int = 1) -> None:
    """All workers report, once or more."""
    for _ in range(rounds):
        for worker in workers:
            await worker.seats.refresh()


EMERGENCY = ModeChange(Mode.EMERGENCY, "ops", "attack")


def test_admitting_ten_thousand_listeners_asks_the_store_nothing(store: CountingStore, clock: Clock) -> None:
    """From one report to the next the store is not asked: not for listeners that come, are turned away or go."""
    (worker,) = fleet(store, clock, plan=SeatPlan(10_000, 10_000, 0.0))

    async def story() -> None:
        await worker.seats.refresh()
        seats = [worker.enter(M, number) for number in range(10_000)]
        assert all(seats)
        assert worker.enter(M, 10_000) is None
        for seat in seats[:5000]:
            worker.seats.release(seat)  # type: ignore[arg-type]

    asyncio.run(story())
    assert len(store.reports) == 1
    assert worker.here == Audience(0, 5000, 0)


def test_without_a_capacity_everybody_finds_a_seat_and_workers_are_counted(store: CountingStore, clock: Clock) -> None:
    """Capacity 0 is no limit; the fleet still knows how many workers and listeners there are."""
    (worker,) = fleet(store, clock, plan=SeatPlan(0, 0, 0.0))
    asyncio.run(refreshed([worker]))
    assert worker.crowd(G, 500) == 500
    asyncio.run(refreshed([worker]))
    assert worker.seats.grant is not None
    assert (worker.seats.grant.workers, worker.seats.grant.present.guests) == (1, 500)


@pytest.mark.parametrize(
    ("plan", "change", "capacity", "guest_share"),
    [
        (SeatPlan(100, 50, 0.2), None, Capacity(100, 100), 1.0),
        (SeatPlan(0, 50, 0.2), None, None, 1.0),
        (SeatPlan(100, 50, 0.2), EMERGENCY, Capacity(50, 10), 0.2),
        (SeatPlan(100, 0, 0.2), EMERGENCY, None, 0.2),
        (SeatPlan(100, 50, 0.2), ModeChange(Mode.EMERGENCY, "ops", capacity=30), Capacity(30, 6), 0.2),
        (SeatPlan(100, 50, 0.2), ModeChange(Mode.EMERGENCY, "ops", guest_share=0.5), Capacity(50, 25), 0.5),
        (SeatPlan(100, 50, 0.2), ModeChange(Mode.EMERGENCY, "ops", guest_share=0.0), Capacity(50, 0), 0.0),
        (SeatPlan(100, 50, 0.2), ModeChange(Mode.NORMAL, "ops", capacity=30), Capacity(100, 100), 1.0),
    ],
)
def test_the_capacity_in_force(
    store: CountingStore,
    clock: Clock,
    plan: SeatPlan,
    change: ModeChange | None,
    capacity: Capacity | None,
    guest_share: float,
) -> None:
    """What an operator says comes before the settings, and only in an emergency guests have but a share."""
    (worker,) = fleet(store, clock, plan=plan)
    if change is not None:
        asyncio.run(worker.mode_watch.set(change, None))
    assert worker.seats.capacity() == capacity
    assert worker.seats.guest_share == guest_share


def test_without_a_limit_in_emergency_a_share_of_zero_still_turns_guests_away(
    store: CountingStore, clock: Clock
) -> None:
    """Share 0 keeps guests out whatever the capacity, and those who are here leave in ten steps."""
    (worker,) = fleet(store, clock, plan=SeatPlan(0, 0, 0.0))
    worker.crowd(G, 100)
    worker.crowd(M, 100)
    asyncio.run(worker.mode_watch.set(EMERGENCY, None))
    assert worker.here == Audience(0, 100, 90)
    assert worker.enter(G, 1000, live=True) is None
    assert worker.enter(M, 1000) is not None


def test_a_grant_is_obeyed_within_one_refresh(store: CountingStore, clock: Clock) -> None:
    """What a report is granted is what the worker holds from then on: guests here make room for members there."""
    workers = fleet(store, clock, 2)

    async def story() -> None:
        await workers[0].seats.refresh()
        assert workers[0].crowd(G, 200) == 100
        await refreshed(workers)
        assert workers[1].crowd(M, 10) == 0  # the first holds all seats still
        await refreshed(workers[::-1])
        assert workers[0].seats.grant
        assert workers[0].seats.grant.seats == 90
        for _ in range(10):
            workers[0].seats.mode_changed()  # the steps of the cut
        assert workers[0].here.total == 90
        await refreshed(workers, 2)
        assert workers[1].crowd(M, 10) == 10

    asyncio.run(story())
    assert sum(worker.here.total for worker in workers) <= 100


def test_live_members_do_not_leave_for_new_ones_elsewhere(store: CountingStore, clock: Clock) -> None:
    """A full fleet lets nobody of a class go for another of it; a seat that gets free moves on."""
    workers = fleet(store, clock, 2)

    async def story() -> None:
        await workers[0].seats.refresh()
        seats = [workers[0].enter(M, number) for number in range(100)]
        await refreshed(workers)
        assert workers[1].crowd(M, 50) == 0
        await refreshed(workers, 3)
        for _ in range(10):
            workers[0].seats.mode_changed()
        assert workers[0].here.members == 100
        for seat in seats[:20]:
            assert seat is not None
            workers[0].seats.release(seat)
        await refreshed(workers, 3)
        assert workers[1].crowd(M, 50) == 20

    asyncio.run(story())


def test_who_was_turned_away_counts_as_demand(store: CountingStore, clock: Clock) -> None:
    """Listeners without a seat are reported as wanting one: each once, and for as long as it asks."""
    (worker,) = fleet(store, clock, plan=SeatPlan(10, 10, 0.0))

    def demand() -> Audience:
        """What the last report said is wanted beyond who is here."""
        want, here = store.reports[-1].demand, store.reports[-1].present
        return Audience(want.hosts - here.hosts, want.members - here.members, want.guests - here.guests)

    async def story() -> None:
        await worker.seats.refresh()
        first = [worker.enter(M, number) for number in range(10)]
        for _ in range(3):
            worker.crowd(M, 7, first=100)
            worker.crowd(G, 5, first=200)
        await worker.seats.refresh()
        assert store.reports[-1].present == Audience(0, 10, 0)
        assert demand() == Audience(0, 7, 5)
        worker.seats.release(first[0])  # type: ignore[arg-type]
        assert worker.enter(M, 100, live=True)  # one of them finds a seat
        await worker.seats.refresh()
        assert demand() == Audience(0, 6, 5)
        clock.now_s += RENEW_S
        await worker.seats.refresh()
        assert demand() == Audience(0, 6, 5)  # for one round more it may ask again
        clock.now_s += RENEW_S
        await worker.seats.refresh()
        clock.now_s += RENEW_S
        await worker.seats.refresh()
        assert demand() == Audience()

    asyncio.run(story())


def test_a_report_says_what_is_held_and_no_more_once_the_lease_has_ended(store: CountingStore, clock: Clock) -> None:
    """A worker reports its grant while its lease runs; before the first grant and after the lease, none."""
    (worker,) = fleet(store, clock)

    async def story() -> None:
        for later_s in (0.0, LEASE_S - 0.001, LEASE_S):
            clock.now_s += later_s
            await worker.seats.refresh()

    asyncio.run(story())
    assert [report.seats for report in store.reports] == [NO_GRANT, 100, LOST_GRANT]
    assert [report.guest_seats for report in store.reports] == [NO_GRANT, 100, LOST_GRANT]


def test_before_any_grant_few_may_come(store: CountingStore, clock: Clock) -> None:
    """A worker that the store never answered lets in half of what it would have alone."""
    (worker,) = fleet(store, clock)
    store.away = True

    async def story() -> None:
        with pytest.raises(StoreUnavailable):
            await worker.seats.refresh()
        assert worker.crowd(M, 200) == 50

    asyncio.run(story())


def test_while_the_lease_runs_an_outage_changes_nothing(store: CountingStore, clock: Clock) -> None:
    """With the store away the grant is used to its last seat until its lease ends."""
    workers = fleet(store, clock, 4)

    async def story() -> None:
        await refreshed(workers, 2)
        store.away = True
        clock.now_s += LEASE_S - 0.001
        with pytest.raises(StoreUnavailable):
            await workers[0].seats.refresh()

    asyncio.run(story())
    assert [worker.crowd(M, 100) for worker in workers] == [25] * 4


def test_after_the_lease_nobody_must_leave_and_half_an_equal_share_may_come(store: CountingStore, clock: Clock) -> None:
    """Without a lease seated listeners stay, and a worker fills up to half of its part of the fleet as last known."""
    full, empty, *others = fleet(store, clock, 4)

    async def story() -> None:
        await refreshed([full, empty, *others], 2)
        assert full.crowd(M, 100) == 25
        store.away = True
        clock.now_s += LEASE_S
        for worker in (full, empty):
            with pytest.raises(StoreUnavailable):
                await worker.seats.refresh()
            worker.seats.mode_changed()

    asyncio.run(story())
    assert (full.here.members, full.left, full.crowd(M, 9, first=500)) == (25, [], 0)
    assert empty.crowd(M, 100) == 12


def test_when_the_store_is_back_seats_are_granted_again(store: CountingStore, clock: Clock) -> None:
    """After an outage of any length nobody leaves, and once others had time to report the grant is restored."""
    (worker,) = fleet(store, clock)

    async def story() -> None:
        await worker.seats.refresh()
        worker.crowd(M, 60)
        store.away = True
        clock.now_s += 1000.0
        with pytest.raises(StoreUnavailable):
            await worker.seats.refresh()
        store.away = False
        await worker.seats.refresh()
        assert worker.crowd(M, 100, first=1000) == 0
        clock.now_s += PAUSE_S
        await worker.seats.refresh()

    asyncio.run(story())
    assert worker.crowd(M, 100, first=1000) == 40
    assert worker.left == []


def test_an_emergency_cuts_at_once_and_step_by_step(store: CountingStore, clock: Clock) -> None:
    """With the switch the first tenth leaves before the store is asked again; evictions are counted by class."""
    (worker,) = fleet(store, clock)

    async def story() -> None:
        await worker.seats.refresh()
        worker.crowd(M, 40)
        worker.crowd(G, 60)
        await worker.mode_watch.set(EMERGENCY, None)
        assert worker.here == Audience(0, 40, 54)
        assert worker.evicted == [(G, 6)]
        for _ in range(9):
            worker.seats.mode_changed()
        await worker.seats.refresh()

    asyncio.run(story())
    assert worker.here == Audience(0, 40, 10)
    assert sum(number for _, number in worker.evicted) == len(worker.left) == 50
    assert worker.enter(G, 1000, live=True) is None
    assert worker.enter(M, 1000) is not None


def test_a_stopped_worker_has_given_its_seats_back(store: CountingStore, clock: Clock) -> None:
    """At the end of a worker its seats are others' at once, and it holds no grant any more."""
    first, second = fleet(store, clock, 2)

    async def story() -> None:
        await first.seats.start()
        await first.seats.stop()
        await second.seats.refresh()

    asyncio.run(story())
    assert store.released == [first.seats.worker]
    assert first.seats.grant is None
    assert second.seats.grant
    assert second.seats.grant.seats == 100


def test_stopping_without_a_store_is_no_error(
    store: CountingStore, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Seats that cannot be given back return by themselves, and the log says so."""
    (worker,) = fleet(store, clock)

    async def story() -> None:
        await worker.seats.start()
        store.away = True
        await worker.seats.stop()

    asyncio.run(story())
    assert "return by themselves" in caplog.text


def test_a_worker_that_leaves_sends_everybody_away_at_once(store: CountingStore, clock: Clock) -> None:
    """Hosts, members and guests leave at once, whatever the mode; nobody comes any more, and the seats are others'."""
    first, second = fleet(store, clock, 2)

    async def story() -> None:
        await refreshed([first, second], 2)
        for name in ListenerClass:
            assert first.crowd(name, 10) == 10
        first.seats.leave()
        assert len(first.left) == 30
        assert first.seats.is_leaving
        assert (first.here, first.seats.free()) == (Audience(), 0)
        assert [first.crowd(name, 1, first=100) for name in ListenerClass] == [0, 0, 0]
        first.seats.mode_changed()
        assert [first.crowd(name, 1, first=100) for name in ListenerClass] == [0, 0, 0]
        await asyncio.sleep(0)
        await second.seats.refresh()

    asyncio.run(story())
    assert store.released == [first.seats.worker]
    assert second.seats.grant
    assert second.seats.grant.seats == 100


def test_leaving_is_done_once(store: CountingStore, clock: Clock) -> None:
    """A second signal and the end of the lifespan change nothing: seats are given back once, none is taken."""
    (worker,) = fleet(store, clock)

    async def story() -> None:
        await worker.seats.start()
        worker.crowd(M, 5)
        worker.seats.leave()
        worker.seats.leave()
        await worker.seats.stop()
        await worker.seats.stop()

    asyncio.run(story())
    assert len(worker.left) == 5
    assert store.released == [worker.seats.worker]
    assert len(store.reports) == 1


def test_seats_are_given_back_whose_grant_was_never_heard(store: CountingStore, clock: Clock) -> None:
    """A worker that stops before its first report was answered gives back what it may have been granted."""
    (worker,) = fleet(store, clock)

    async def story() -> None:
        store.away = True
        await worker.seats.start()
        store.away = False
        await worker.seats.stop()

    asyncio.run(story())
    assert store.released == [worker.seats.worker]


def test_who_is_there_when_the_worker_stops_leaves(store: CountingStore, clock: Clock) -> None:
    """Where no signal was heard the listeners leave at the latest when the seats are given back."""
    (worker,) = fleet(store, clock, plan=SeatPlan(0, 0, 0.0))

    async def story() -> None:
        await worker.seats.start()
        worker.crowd(G, 5)
        await worker.seats.stop()

    asyncio.run(story())
    assert (len(worker.left), worker.here) == (5, Audience())


def test_free_seats_are_those_a_member_could_have(store: CountingStore, clock: Clock) -> None:
    """Seats that nobody holds and seats of guests are free to members; those of hosts and members are not."""
    (worker,) = fleet(store, clock, plan=SeatPlan(10, 10, 0.0))
    asyncio.run(worker.seats.refresh())
    worker.crowd(H, 1)
    worker.crowd(M, 3)
    worker.crowd(G, 6)
    assert worker.seats.free() == 6
    assert worker.crowd(M, 10, first=100) == 6
    assert worker.seats.free() == 0


# --- waiting for the fleet's answer ---------------------------------------------------------------


def test_a_seat_is_due_while_the_fleet_has_seats_for_all_who_want_one(store: CountingStore, clock: Clock) -> None:
    """A full worker in a fleet with room says so, until more want a seat than there are, or have no share."""
    full, idle = fleet(store, clock, 2)
    asyncio.run(refreshed([full, idle], 3))
    assert full.crowd(G, 50) == 50
    assert full.crowd(G, 50, first=1000) == 0
    assert full.seats.is_due(G)
    assert full.seats.is_due(M)
    assert full.crowd(G, 1, first=2000) == 0
    assert not full.seats.is_due(G), "101 want 100 seats"
    assert full.seats.is_due(M), "members come before them"
    asyncio.run(full.mode_watch.set(ModeChange(Mode.EMERGENCY, "ops", guest_share=0.0), None))
    assert not full.seats.is_due(G)
    assert full.seats.is_due(M)


@pytest.mark.parametrize(("after_s", "due"), [(0.0, True), (LEASE_S - 1, True), (LEASE_S, False)])
def test_just_after_the_start_a_seat_is_due(store: CountingStore, clock: Clock, after_s: float, due: bool) -> None:
    """A worker that has no grant yet takes it the fleet has seats, for as long as a dead worker may hold them."""
    (worker,) = fleet(store, clock)
    store.away = True
    worker.crowd(M, 100)
    clock.now_s += after_s
    assert worker.seats.is_due(M) is due


def test_once_the_lease_has_ended_no_seat_is_due(store: CountingStore, clock: Clock) -> None:
    """While the store is away nobody is told to come back at once, again and again."""
    (worker,) = fleet(store, clock)
    asyncio.run(worker.seats.refresh())
    clock.now_s += LEASE_S
    assert not worker.seats.is_due(M)


def test_all_who_wait_share_one_report_and_tickets_hear_first(store: CountingStore, clock: Clock) -> None:
    """However many wait, they cost the store one call; the order in which they hear is the order of favour."""
    (worker,) = fleet(store, clock)
    heard: list[str] = []

    async def waits(who: str, first: bool) -> None:
        await worker.seats.next_grant(first=first)
        heard.append(who)

    async def story() -> None:
        tasks = [asyncio.create_task(waits("new", False)) for _ in range(50)]
        tasks += [asyncio.create_task(waits("live", True)) for _ in range(50)]
        gone = asyncio.create_task(waits("gone", True))
        await asyncio.sleep(0)
        gone.cancel()
        await worker.seats.refresh()
        await asyncio.gather(*tasks)

    asyncio.run(story())
    assert len(store.reports) == 1
    assert heard == ["live"] * 50 + ["new"] * 50


def test_nobody_waits_again_in_vain_until_more_is_granted(store: CountingStore, clock: Clock) -> None:
    """Where a dead worker holds the seats others do not wait as well, until its lease has ended."""
    dead, worker = fleet(store, clock, 2)

    async def story() -> None:
        await dead.seats.refresh()
        await worker.seats.refresh()
        assert worker.seats.may_ask()
        worker.seats.asked_in_vain()
        for _ in range(2):
            assert not worker.seats.may_ask()
            await worker.seats.refresh()
        for _ in range(2):
            clock.now_s += LEASE_S / 2
            await worker.seats.refresh()
        assert worker.seats.may_ask()

    asyncio.run(story())


def test_a_listener_who_asks_in_two_rounds_is_one_demand() -> None:
    """Counted without going through all who wait."""
    waiting = Unseated()
    for number in range(5):
        waiting.add(ListenerClass.GUEST, number)
    waiting.turn()
    for number in range(3, 8):
        waiting.add(ListenerClass.GUEST, number)
    assert waiting.count() == Audience(guests=8)
    assert not waiting._now[ListenerClass.GUEST] & waiting._last[ListenerClass.GUEST]


def test_the_clock_that_streams_are_ordered_by_goes_back_only_where_the_stores_clock_was_set() -> None:
    """An answer that was slow makes the store's clock look late by as much; a step of an hour is one."""
    clock = Clock()
    (worker,) = fleet(CountingStore(clock), clock)
    first_ms = worker.seats.now_ms()
    clock.now_s -= 0.3
    assert worker.seats.now_ms() == first_ms
    clock.now_s += 0.4
    assert first_ms < worker.seats.now_ms() <= first_ms + 101
    clock.now_s -= 3600
    assert worker.seats.now_ms() < first_ms
