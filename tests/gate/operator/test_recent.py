"""The last quarter of an hour, for operators who come late."""

from __future__ import annotations

import pytest

from gate.doubles import LoopClock, clock_of, facts, memory_store, pass_time, run
from shieldmw import Identity, ListenerClass, Settings
from shieldmw.core.decision import Decision, Reason, Verdict
from shieldmw.core.load import WorkerLoad
from shieldmw.core.traffic import Outcome
from shieldmw.gate.operator.recent import SAMPLE_S, SAMPLES
from shieldmw.wiring import build_desk, build_worker


def test_a_worker_samples_itself_and_keeps_a_quarter_of_an_hour() -> None:
    """Whether or not a page is open; older samples are dropped."""

    async def story() -> None:
        clock = LoopClock()
        worker = build_worker(Settings(redis_url="memory://"), memory_store(clock), clock_of(clock.s))
        await worker.start()
        recent = worker.control.recent
        assert len(recent.samples()) == 1
        await pass_time(10 * SAMPLE_S + 1)
        assert len(recent.samples()) == 11
        await pass_time(2 * SAMPLES * SAMPLE_S)
        samples = recent.samples()
        assert len(samples) == SAMPLES
        assert samples[-1].at_s - samples[0].at_s <= 15 * 60
        await worker.stop()

    run(story())


def test_what_is_told_of_lately_is_a_few_seconds_old() -> None:
    """Neither of one moment, nor of minutes ago."""

    async def story() -> None:
        clock = LoopClock()
        worker = build_worker(Settings(redis_url="memory://", ip_limit="off"), memory_store(clock), clock_of(clock.s))
        await worker.start()
        recent = worker.control.recent

        def lately() -> float:
            return recent.lately(recent.now())[Outcome.LET_IN].guests

        assert lately() == 0.0
        await pass_time(60.0)
        for _ in range(100):
            decision = worker.gate.decide_now(facts())
            assert isinstance(decision, Decision)
            worker.decided(facts(), decision, [])
        await pass_time(2.0)
        told = lately()
        assert 100 / (2 * SAMPLE_S + 2) < told <= 100 / SAMPLE_S
        await pass_time(3 * SAMPLE_S)
        assert lately() == 0.0
        await worker.stop()

    run(story())


@pytest.mark.parametrize(("workers", "reads"), [(1, 12), (20, 12), (21, 6), (200, 2)])
def test_in_a_large_fleet_the_load_reports_are_read_less_often(workers: int, reads: int) -> None:
    """Each worker reads those of all others: with 200 of them the store would send 15 MB a second."""

    async def story() -> None:
        clock = LoopClock()
        store = memory_store(clock)
        worker = build_worker(Settings(redis_url="memory://"), store, clock_of(clock.s))
        recent = worker.control.recent
        found = []

        async def known() -> list[WorkerLoad]:
            found.append(clock.s())
            return []

        worker.control._load_reports.known = known  # type: ignore[method-assign]
        worker.entrance.seats._share.workers = workers
        for _ in range(12):
            await recent.refresh()
        assert len(found) == reads
        assert len(recent.samples()) == 12

    run(story())


def test_the_desk_samples_as_well() -> None:
    """Its page is opened when no worker answers."""

    async def story() -> None:
        desk = build_desk(Settings(redis_url="memory://"), memory_store(LoopClock()))
        await desk.start()
        assert len(desk.control.recent.samples()) == 1
        await desk.stop()

    run(story())


def test_refusals_that_are_meant_are_told_apart() -> None:
    """They are part of those that were sent away."""

    async def story() -> None:
        clock = LoopClock()
        worker = build_worker(Settings(redis_url="memory://"), memory_store(clock), clock_of(clock.s))
        await worker.start()
        await pass_time(60.0)
        for reason in (Reason.NO_SEAT, Reason.EMERGENCY, Reason.STORE_CLOSED, Reason.QUOTA):
            refusal = Decision(Verdict.REFUSED, reason, None, Identity("kim", ListenerClass.MEMBER))
            worker.decided(facts(), refusal, [])
        await pass_time(2.0)
        now = worker.control.recent.now()
        sent_away = worker.control.recent.lately(now)[Outcome.SENT_AWAY].members
        excused = worker.control.recent.excused(now).members
        assert 0 < excused == sent_away * 2 / 3
        await worker.stop()

    run(story())
