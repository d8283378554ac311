"""Delayed answers: bounded, spread over time, on one timer, and none delayed forever."""

from __future__ import annotations

import asyncio

import pytest

from gate.doubles import Draws, run, yield_often
from gate.overload.lanes import scheduled, until_quiet
from shieldmw.gate.clock import Clock
from shieldmw.gate.overload.delayed_refusals import MOST_HELD, SLOT_S, SPREAD, DelayedRefusals


async def stayed_s(delayed: DelayedRefusals) -> float:
    """How long an answer was held."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await delayed.stay()
    return loop.time() - began_s


def test_answers_are_held_and_spread() -> None:
    """Those of one moment come back over a span of time, each within a slot of when it is due."""

    async def story() -> None:
        delayed = DelayedRefusals(0.4, Clock(random=Draws(0, 0.25, 0.5, 0.75, 1)))
        took_s = await asyncio.gather(*(stayed_s(delayed) for _ in range(5)))
        least_s, most_s = 0.4 * (1 - SPREAD), 0.4 * (1 + SPREAD)
        due_s = [least_s + (most_s - least_s) * step / 4 for step in range(5)]
        assert took_s == pytest.approx(due_s, abs=2 * SLOT_S)
        assert sorted(took_s) == list(took_s)
        assert len(set(took_s)) == 5

    run(story())


def test_all_share_one_timer() -> None:
    """However many are held, and none is left once the last has gone."""

    async def story() -> None:
        delayed = DelayedRefusals(0.4)
        tasks = [asyncio.create_task(delayed.stay()) for _ in range(500)]
        await yield_often()
        assert (delayed.held, scheduled()) == (500, 1)
        await asyncio.gather(*tasks)
        assert delayed.held == 0
        await until_quiet()
        again = asyncio.create_task(delayed.stay())
        await yield_often()
        assert (delayed.held, scheduled()) == (1, 1)
        await again

    run(story())


def test_beyond_the_bound_nobody_is_held() -> None:
    """Memory is bounded: the next one is answered at once, and there is room again when others have gone."""

    async def story() -> None:
        delayed = DelayedRefusals(0.4)
        tasks = [asyncio.create_task(delayed.stay()) for _ in range(MOST_HELD)]
        await yield_often()
        assert await stayed_s(delayed) == 0
        await asyncio.gather(*tasks)
        assert await stayed_s(delayed) > 0

    run(story())


def test_who_goes_away_while_it_is_held_is_held_no_longer() -> None:
    """Nothing is left of it after its time."""

    async def story() -> None:
        delayed = DelayedRefusals(0.4)
        tasks = [asyncio.create_task(delayed.stay()) for _ in range(10)]
        await yield_often()
        for task in tasks[:9]:
            task.cancel()
        await yield_often()
        assert delayed.held == 1
        await tasks[9]
        await until_quiet()
        assert (delayed.held, scheduled()) == (0, 0)

    run(story())


def test_without_a_time_nothing_is_held() -> None:
    """SHIELD_HOLD_MS=0 costs no future and no timer."""

    async def story() -> None:
        delayed = DelayedRefusals(0)
        assert await stayed_s(delayed) == 0
        assert scheduled() == 0

    run(story())
