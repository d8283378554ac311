"""The background refresher: when it runs, and what it logs of failures."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

import pytest

from gate.doubles import START_S, loop_time, pass_time, run, yield_often
from shieldmw.gate.refresher import Refresher

INTERVAL_S, LEAST_S = 300.0, 10.0


@dataclass
class Work:
    """Something to refresh; notes when it was asked to, in seconds since the start."""

    failing: bool = False
    takes_s: float = 0.0
    begun: list[float] = field(default_factory=list)
    cancelled: int = 0

    async def __call__(self) -> None:
        self.begun.append(loop_time() - START_S)
        try:
            await asyncio.sleep(self.takes_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.failing:
            raise OSError("away")


def refresher(work: Work) -> Refresher:
    """One like that of a JWKS."""
    return Refresher("keys", work, interval_s=INTERVAL_S, least_s=LEAST_S, first_s=5.0)


def test_it_works_at_once_and_then_every_interval() -> None:
    """The first round is before start returns."""
    work = Work()

    async def story() -> None:
        one = refresher(work)
        await one.start()
        assert work.begun == [0.0]
        await pass_time(3 * INTERVAL_S + 1)
        await one.stop()

    run(story())
    assert work.begun == pytest.approx([0.0, 300.0, 600.0, 900.0])


def test_a_first_round_that_is_slow_does_not_hold_up_the_start() -> None:
    """Start returns after `first_s` at the latest, and the round goes on: what it brings is there when it ends."""
    work = Work(takes_s=20.0)

    async def story() -> float:
        one = refresher(work)
        await one.start()
        waited = loop_time() - START_S
        await pass_time(100.0)
        await one.stop()
        return waited

    assert run(story()) == pytest.approx(5.0)
    assert (work.begun, work.cancelled) == ([0.0], 0)


def test_a_first_round_that_hangs_ends_with_stop() -> None:
    """Whatever goes on in the background is cancelled, not waited for."""
    work = Work(takes_s=1e6)

    async def story() -> float:
        one = refresher(work)
        await one.start()
        await one.stop()
        return loop_time() - START_S

    assert run(story()) == pytest.approx(5.0)
    assert work.cancelled == 1


def test_a_failure_is_tried_again_after_least_s_until_it_succeeds() -> None:
    """While it fails it works each `least_s`; then each interval again."""
    work = Work(failing=True)

    async def story() -> None:
        one = refresher(work)
        await one.start()
        await pass_time(35)
        work.failing = False
        await pass_time(400)
        await one.stop()

    run(story())
    assert work.begun == pytest.approx([0.0, 10.0, 20.0, 30.0, 40.0, 340.0])


def test_soon_means_now_but_not_sooner_than_least_s() -> None:
    """However often it is asked, rounds are `least_s` apart."""
    work = Work()

    async def story() -> None:
        one = refresher(work)
        await one.start()
        await pass_time(50)
        one.refresh_soon()
        await yield_often()
        assert work.begun == pytest.approx([0.0, 50.0])
        for _ in range(300):
            one.refresh_soon()
            await pass_time(0.1)
        await one.stop()

    run(story())
    assert work.begun == pytest.approx([0.0, 50.0, 60.0, 70.0, 80.0], abs=0.2)


def test_failures_are_logged_when_they_begin_and_end(caplog: pytest.LogCaptureFixture) -> None:
    """One line for a row of failures, one for the end of it."""
    work = Work(failing=True)

    async def story() -> None:
        one = refresher(work)
        await one.start()
        await pass_time(100)
        work.failing = False
        await pass_time(1000)
        await one.stop()

    with caplog.at_level(logging.DEBUG, logger="shieldmw"):
        run(story())
    assert [record.message for record in caplog.records] == [
        "keys: cannot be refreshed, keeping what is known and retrying: away",
        "keys: refreshed again",
    ]


def test_stop_cancels_a_round_under_way_and_leaves_no_task() -> None:
    """Nothing goes on after stop, and stop waits for no slow server."""
    work = Work()

    async def story() -> float:
        one = refresher(work)
        await one.start()
        work.takes_s = 1e6
        one.refresh_soon()
        await pass_time(20)
        assert len(work.begun) == 2
        begun = loop_time()
        await one.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return loop_time() - begun

    assert run(story()) == 0.0
    assert work.cancelled == 1


def test_it_can_be_started_again_and_stopped_twice() -> None:
    """A gate that is stopped and started again has fresh keys; a second stop does nothing."""
    work = Work()

    async def story() -> None:
        one = refresher(work)
        await one.stop()
        await one.start()
        await one.stop()
        await one.stop()
        await pass_time(1000)
        assert len(work.begun) == 1
        await one.start()
        await pass_time(INTERVAL_S + 1)
        await one.stop()

    run(story())
    assert len(work.begun) == 3


def test_started_twice_it_still_is_one_task() -> None:
    """Which stop ends."""

    async def story() -> None:
        one = refresher(Work())
        before = asyncio.all_tasks()
        await one.start()
        await one.start()
        assert len(asyncio.all_tasks() - before) == 1
        await one.stop()
        assert asyncio.all_tasks() == before

    run(story())
