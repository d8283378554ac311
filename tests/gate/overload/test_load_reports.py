"""Workers report the load of their apps, and an operator can read all reports from any process."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from gate.doubles import FakeClock, LoopClock, clock_of, facts, memory_store, pass_time, run
from shieldmw.core.client import ListenerClass
from shieldmw.core.concurrency import AdaptiveLimit
from shieldmw.core.lane import Rank
from shieldmw.core.load import FRESH_S, WorkerLoad, unseated
from shieldmw.core.mode import Mode, ModeChange
from shieldmw.core.seats import Audience
from shieldmw.errors import StoreUnavailable
from shieldmw.gate.fleet.mode_watch import ModeWatch
from shieldmw.gate.overload.delayed_refusals import DelayedRefusals
from shieldmw.gate.overload.gatekeeper import Gatekeeper
from shieldmw.gate.overload.load_reports import LEAST_S, REPORT_S, LoadReports
from shieldmw.gate.overload.overload import Overload
from shieldmw.gate.seats.capacity import SeatPlan
from shieldmw.gate.seats.seats import Seats
from shieldmw.store.memory import MemoryStore


class CountingStore(MemoryStore):
    """A store that can be away, and counts reports."""

    away = False
    reports = 0

    async def report_load(self, load: WorkerLoad) -> None:
        """Take it, if it is not away."""
        self.reports += 1
        if self.away:
            raise StoreUnavailable("away")
        await super().report_load(load)

    async def drop_load(self, worker: str) -> None:
        """Drop it, if it is not away."""
        if self.away:
            raise StoreUnavailable("away")
        await super().drop_load(worker)


@dataclass
class Worker:
    """One worker's lane and its reports, on a clock of the test's."""

    store: MemoryStore
    clock: FakeClock
    has_lane: bool = True
    keeper: Gatekeeper = field(init=False)
    overload: Overload = field(init=False)
    seats: Seats = field(init=False)
    reports: LoadReports = field(init=False)

    def __post_init__(self) -> None:
        self.keeper = Gatekeeper(100_000, AdaptiveLimit(4), clock_of(self.clock.s))
        self.overload = Overload(self.keeper, DelayedRefusals(0), lambda *_: False)
        self.seats = Seats(self.store, ModeWatch(self.store), SeatPlan(0, 0, 0))
        overload = self.overload if self.has_lane else None
        self.reports = LoadReports(self.store, self.seats, overload, self.clock.s, clock_of(self.clock.s))

    async def shed(self, *ranks: Rank) -> None:
        """Tell so many to come later."""
        for rank in ranks:
            await self.overload.shed(facts(), rank, None, None, Mode.NORMAL)


def counting_store(clock: FakeClock) -> CountingStore:
    return CountingStore(b"fleet", now_us=clock.us)


def test_every_process_tells_of_all_workers() -> None:
    """Each of them, and one that has no lane itself."""

    async def story() -> None:
        clock = LoopClock()
        store = memory_store(clock)
        workers = [Worker(store, clock) for _ in range(3)]
        for worker in workers:
            await worker.reports.start()
        elsewhere = Worker(store, clock, has_lane=False)
        await elsewhere.reports.start()
        ids = {worker.seats.worker for worker in workers}
        for process in (*workers, elsewhere):
            assert {load.worker for load in await process.reports.of_fleet()} == ids
        assert elsewhere.reports.here() == []
        await workers[0].reports.stop()
        assert {load.worker for load in await elsewhere.reports.of_fleet()} == ids - {workers[0].seats.worker}
        for process in (*workers, elsewhere):
            await process.reports.stop()
        assert await elsewhere.reports.of_fleet() == []

    run(story())


def test_a_report_says_how_the_app_stands(caplog: pytest.LogCaptureFixture) -> None:
    """In flight, waiting and shed by class, the rate since the report before, and the longest turn since then.

    The log says the same of the moment in which the first was shed.
    """

    async def story() -> None:
        clock = LoopClock()
        worker = Worker(memory_store(clock), clock)
        await worker.reports.refresh()
        lane = worker.keeper.lane
        for _ in range(4):
            assert lane.enters(Rank.MEMBER, clock.us())
        await pass_time(0.030)
        lane.turn(clock.us())
        await pass_time(2.470)
        for rank in (Rank.MEMBER, Rank.RETURNING_GUEST, Rank.GUEST, Rank.GUEST):
            worker.keeper.queue(rank)
        await worker.shed(Rank.GUEST, Rank.GUEST, Rank.RETURNING_GUEST, Rank.MEMBER)
        await worker.reports.refresh()
        (load,) = worker.reports.here()
        assert (load.in_flight, load.in_flight_limit, load.turn_us) == (4, 4, 30_000)
        assert (load.waiting, load.shed) == (Audience(0, 1, 3), Audience(0, 1, 3))
        assert (load.shed_lately, load.lately_ms) == (load.shed, 2500)
        assert load.at_s == clock.s()
        assert load.pid > 0
        assert load.host
        await pass_time(2.0)
        await worker.reports.refresh()
        (later,) = worker.reports.here()
        assert (later.shed_lately, later.shed, later.lately_ms) == (Audience(), load.shed, 2000)
        assert later.turn_us == 0, "there was no turn"

    run(story())
    stands = "turns of the event loop take up to 30 ms, 4 of 4 requests in flight, 4 waiting"
    assert caplog.messages == [f"the app is asked for more than it can do: shed guest: 1; {stands}"]


def test_a_report_tells_listeners_without_a_seat_apart() -> None:
    """One that asked two workers is one; once it has a seat where it asked, it is none."""

    async def story() -> None:
        clock = LoopClock()
        store = memory_store(clock)
        here, there = Worker(store, clock), Worker(store, clock)
        for worker in (here, there):
            worker.seats.turned_away(ListenerClass.MEMBER, 7 << 40)
            worker.seats.turned_away(ListenerClass.GUEST, 9 << 40)
        there.seats.turned_away(ListenerClass.MEMBER, 5 << 40)
        for worker in (here, there):
            await worker.reports.refresh()
        assert unseated(await here.reports.of_fleet()) == Audience(0, 2, 1)
        assert unseated(here.reports.here()) == Audience(0, 1, 1)

    run(story())


def test_reports_come_each_two_seconds_and_less_often_in_a_large_fleet() -> None:
    """As all that workers tell: together so many a second."""

    async def story() -> None:
        clock = LoopClock()
        store = counting_store(clock)
        worker = Worker(store, clock)
        await worker.reports.start()
        await pass_time(10 * REPORT_S + 0.1)
        assert store.reports == 11
        worker.seats._share.workers = 350
        await pass_time(REPORT_S)
        before = store.reports
        await pass_time(35.0)
        assert store.reports - before == 10
        await worker.reports.stop()
        await pass_time(100.0)
        assert store.reports - before == 10

    run(story())


def test_a_worker_reports_soon_that_it_follows_another_mode() -> None:
    """An operator who has switched waits for it; otherwise nothing is reported sooner than usual."""

    async def story() -> None:
        clock = LoopClock()
        store = counting_store(clock)
        worker = Worker(store, clock)
        await worker.reports.start()
        await pass_time(10 * REPORT_S + LEAST_S)
        before = store.reports
        await worker.seats._mode_watch.set(ModeChange(Mode.EMERGENCY, "kim"), None)
        worker.reports.refresh_soon()
        await pass_time(0.01)
        assert store.reports == before + 1
        (load,) = await worker.reports.of_fleet()
        assert load.mode_version == 1
        await pass_time(REPORT_S)
        assert store.reports == before + 2
        await worker.reports.stop()

    run(story())


def test_a_store_that_is_away_costs_only_the_others_reports(caplog: pytest.LogCaptureFixture) -> None:
    """The worker's own stays fresh; once the store is back all are told again. The log has a line for each, and a
    worker that stops is not held up.
    """

    async def story() -> None:
        clock = LoopClock()
        store = counting_store(clock)
        worker, other = Worker(store, clock), Worker(store, clock)
        await worker.reports.start()
        await other.reports.start()
        store.away = True
        await pass_time(10 * FRESH_S)
        (own,) = worker.reports.here()
        assert clock.s() - own.at_s <= REPORT_S
        assert await worker.reports.of_fleet() == [own], "what the others told is too old"
        store.away = False
        await pass_time(REPORT_S)
        assert len(await worker.reports.of_fleet()) == 2
        assert len(caplog.records) == 4
        store.away = True
        await worker.reports.stop()
        await other.reports.stop()

    run(story())


def test_a_worker_without_a_lane_reports_nothing() -> None:
    """Nor does it call the store at all until somebody asks."""

    async def story() -> None:
        clock = LoopClock()
        store = counting_store(clock)
        worker = Worker(store, clock, has_lane=False)
        await worker.reports.start()
        await worker.reports.refresh()
        await pass_time(10 * REPORT_S)
        await worker.reports.stop()
        assert store.reports == 0

    run(story())


def test_workers_are_told_in_a_fixed_order() -> None:
    """By host and process: who looks again finds each in its place."""

    async def story() -> None:
        clock = LoopClock()
        store = memory_store(clock)
        nobody = Audience()
        for host, pid in (("web-2", 7), ("web-1", 30), ("web-1", 4)):
            name = f"{host}-{pid}"
            await store.report_load(WorkerLoad(name, host, pid, clock.s(), 0, 0, 4, nobody, nobody, nobody, 0))
        loads = await Worker(store, clock, has_lane=False).reports.of_fleet()
        assert [load.worker for load in loads] == ["web-1-4", "web-1-30", "web-2-7"]

    run(story())
