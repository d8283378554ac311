"""What is read from a worker's parts: gauges as they are, and totals as far as they have grown."""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gate.doubles import LoopClock, clock_of, pass_time, run
from shieldmw import Identity, ListenerClass, Settings
from shieldmw.core.decision import Decision, Reason, Verdict
from shieldmw.core.facts import Facts
from shieldmw.core.lane import Rank
from shieldmw.core.metrics import (
    CAPACITY,
    DECISION_SECONDS,
    EVICTIONS,
    LANE_INSIDE,
    LANE_LIMIT,
    LANE_SHED,
    LANE_WAITING,
    PID,
    SEATS,
    STORE_UP,
    TURN,
    UPDATED,
    Metric,
    cell,
)
from shieldmw.gate.metrics.counts import Counts
from shieldmw.gate.overload.load_reports import REPORT_S
from shieldmw.gate.worker import Worker
from shieldmw.store.memory import MemoryStore
from shieldmw.wiring import build_worker

FACTS = Facts("203.0.113.7", "/live", "/live", frozenset({"GET"}))


def told(story: Callable[[Worker, Counts], Awaitable[None]], **values: Any) -> None:
    """Tell a story of a worker that has started, on the clock of the loop."""

    async def telling() -> None:
        clock = LoopClock()
        counts = Counts()
        settings = Settings(**{"redis_url": "memory://", "live_paths": "/live", **values})
        worker = build_worker(settings, MemoryStore(b"s" * 32, now_us=clock.us), clock_of(clock.s), counts=counts)
        await worker.start()
        try:
            await story(worker, counts)
        finally:
            await worker.stop()

    run(telling())


def value(worker: Worker, metric: Metric, *labels: str) -> float:
    """One value as of a scrape now."""
    (here,) = worker.control._workers()
    return here.cells[cell(metric, *labels)]


def seated(worker: Worker, name: str) -> None:
    """Give a seat to a new listener of a class."""
    identity = None if name == "guest" else Identity(name, ListenerClass(name))
    allowed = Decision(Verdict.ALLOWED, Reason.WITHIN_LIMITS, b"\x01\x02\x03\x04", identity, live=True)
    entered = worker.entrance.enter_now(FACTS, allowed, lambda: None)
    assert entered is not None
    assert entered[1] is not None


def test_seats_and_evictions_are_counted_by_class() -> None:
    """An eviction is counted once, however often it is read."""

    async def story(worker: Worker, counts: Counts) -> None:
        for name in ("guest", "guest", "member"):
            seated(worker, name)
        assert [value(worker, SEATS, name) for name in ListenerClass] == [0, 1, 2]
        ledger = worker.entrance.seats.ledger
        worker.entrance.seats.evict([seat for seat in ledger if seat.listener_class == "guest"], Reason.DENY_LIST)
        for _ in range(3):
            assert [value(worker, EVICTIONS, name) for name in ListenerClass] == [0, 0, 2]
        assert value(worker, CAPACITY) == 10

    told(story, capacity=10, streams_per_address=0)


def test_no_limit_of_seats_is_infinity() -> None:
    """And not 0, which is none at all."""

    async def story(worker: Worker, counts: Counts) -> None:
        assert value(worker, CAPACITY) == math.inf

    told(story)


def test_the_lane_is_told_by_class() -> None:
    """Returning guests are guests; what was shed is counted once."""

    async def story(worker: Worker, counts: Counts) -> None:
        overload = worker.overload
        assert overload is not None
        overload.shed_by_rank[Rank.GUEST] = 3
        overload.shed_by_rank[Rank.RETURNING_GUEST] = 2
        overload.shed_by_rank[Rank.MEMBER] = 1
        place = overload.lane.places.enter()
        waiter = overload._keeper.queue(Rank.MEMBER)
        for _ in range(2):
            assert [value(worker, LANE_SHED, name) for name in ListenerClass] == [0, 1, 5]
            assert [value(worker, LANE_WAITING, name) for name in ListenerClass] == [0, 1, 0]
            assert (value(worker, LANE_INSIDE), value(worker, LANE_LIMIT)) == (1, 1)
        overload.lane.leave(Rank.MEMBER, waiter)
        place.count -= 1

    told(story, max_in_flight=1)


def test_without_a_lane_there_is_nothing_of_it() -> None:
    """And all else is told."""

    async def story(worker: Worker, counts: Counts) -> None:
        assert (value(worker, LANE_LIMIT), value(worker, STORE_UP)) == (0, 1)

    told(story, overload="off")


@pytest.mark.parametrize("overload", ["on", "off"])
def test_gauges_are_written_every_few_seconds_for_the_other_workers(overload: str) -> None:
    """Without a scrape of this one. A worker whose gauges are old hangs."""

    async def story(worker: Worker, counts: Counts) -> None:
        before_s = counts.cells[cell(UPDATED)]
        assert before_s
        assert counts.cells[PID] == os.getpid()
        seated(worker, "guest")
        await pass_time(REPORT_S + 0.1)
        assert counts.cells[cell(SEATS, "guest")] == 1
        assert counts.cells[cell(UPDATED)] - before_s == pytest.approx(REPORT_S, abs=0.1)

    told(story, overload=overload)


def test_a_long_turn_is_told_until_the_next_period_is_over() -> None:
    """Though the lane forgets it with each report: a scrape may come right after one."""

    async def story(worker: Worker, counts: Counts) -> None:
        assert worker.overload is not None
        worker.overload.lane.longest_turn_us = 250_000
        assert value(worker, TURN) == 0.25
        await pass_time(REPORT_S + 0.1)
        assert worker.overload.lane.longest_turn_us < 250_000
        assert value(worker, TURN) == 0.25
        await pass_time(REPORT_S)
        assert value(worker, TURN) < 0.25

    told(story)


def test_one_decision_is_timed_every_few_seconds() -> None:
    """It is the same decision; the others cost no look at the clock."""

    async def story(worker: Worker, counts: Counts) -> None:
        def timed() -> float:
            here = cell(DECISION_SECONDS, "local")
            return sum(counts.cells.tolist()[here : here + DECISION_SECONDS.width - 1])

        for turn in (1, 2):
            for _ in range(3):
                decision = worker.decide_now(FACTS)
                assert isinstance(decision, Decision)
                assert decision.reason is Reason.WITHIN_LIMITS
            assert timed() == turn
            await pass_time(REPORT_S + 0.1)

    told(story)


def test_a_worker_that_stops_writes_its_totals_and_leaves() -> None:
    """The next one in its place adds its own to them."""
    counts = Counts()

    async def worked() -> None:
        clock = LoopClock()
        settings = Settings(redis_url="memory://", live_paths="/live", capacity=5)
        worker = build_worker(settings, MemoryStore(b"s" * 32, now_us=clock.us), clock_of(clock.s), counts=counts)
        await worker.start()
        seated(worker, "member")
        await worker.stop()

    for turn in (1, 2):
        run(worked())
        assert counts.cells[cell(EVICTIONS, "member")] == turn  # a worker that stops sends all away
        assert counts.cells[PID] == 0
