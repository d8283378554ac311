"""The decisions of the whole fleet, as each of its workers tells them."""

from __future__ import annotations

from gate.doubles import LoopClock, clock_of, facts, memory_store, pass_time, run
from shieldmw import Settings
from shieldmw.core.decision import Decision
from shieldmw.core.metrics import COUNT, FLEET_DECISIONS
from shieldmw.errors import StoreUnavailable
from shieldmw.gate.metrics.counts import Counts, doubles
from shieldmw.gate.metrics.fleet_decisions import REPORT_S
from shieldmw.gate.worker import Worker
from shieldmw.wiring import build_desk, build_worker

SETTINGS = Settings(redis_url="memory://", ip_limit="2/hour")
ALLOWED, REFUSED = (FLEET_DECISIONS.series.index((outcome, "guest")) for outcome in ("allowed", "refused"))


def ask(worker: Worker) -> None:
    """One request of a guest."""
    decision = worker.gate.decide_now(facts())
    assert isinstance(decision, Decision)
    worker.decided(facts(), decision, [])


async def told(worker: Worker) -> tuple[int, int] | None:
    """The allowed and refused requests of guests in the whole fleet, as of a scrape."""
    decided = (await worker.control.metrics()).decided
    return None if decided is None else (decided[ALLOWED], decided[REFUSED])


def test_any_worker_tells_those_of_all_also_of_one_that_is_gone() -> None:
    """So that no counter falls. The process of the operators tells them as well, and adds none."""

    async def story() -> None:
        clock = LoopClock()
        store = memory_store(clock)
        one, two = (build_worker(SETTINGS, store, clock_of(clock.s)) for _ in range(2))
        for worker in (one, two):
            await worker.start()
        for _ in range(3):
            ask(one)
        assert await told(one) == (2, 1)
        ask(one)
        await pass_time(2 * REPORT_S)
        assert await told(two) == (2, 2)
        ask(one)
        await one.stop()
        ask(two)
        assert await told(two) == (2, 4)
        desk = build_desk(SETTINGS, store)
        decided = (await desk.control.metrics()).decided
        assert decided is not None
        assert sum(decided) == 6
        await two.stop()

    run(story())


def test_a_worker_does_not_report_again_what_the_one_before_it_has_counted() -> None:
    """It goes on in the same place, with the same counters."""

    async def story() -> None:
        clock, cells = LoopClock(), doubles(bytearray(8 * COUNT))
        store = memory_store(clock)
        for asked in (1, 2):
            worker = build_worker(SETTINGS, store, clock_of(clock.s), counts=Counts("0", cells))
            await worker.start()
            ask(worker)
            assert await told(worker) == (asked, 0)
            await worker.stop()

    run(story())


def test_without_the_store_they_are_not_told() -> None:
    """Rather than a part of them."""

    async def story() -> None:
        clock = LoopClock()
        store = memory_store(clock)
        worker = build_worker(SETTINGS, store, clock_of(clock.s))
        await worker.start()

        async def away(*_: object) -> list[int]:
            raise StoreUnavailable("no answer")

        store.decided = away  # type: ignore[method-assign, assignment]
        assert await told(worker) is None
        await worker.stop()

    run(story())
