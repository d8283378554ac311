"""Answers are delayed longer if many are: even with a large botnet, refusals cost little of the worker's time."""

from __future__ import annotations

import asyncio

import pytest

from gate.doubles import Draws, run
from shieldmw.gate.clock import Clock
from shieldmw.gate.overload.delayed_refusals import LONGER, MOST_A_SECOND, SLOT_S, DelayedRefusals

HOLD_S = 0.4
NO_SPREAD = Clock(random=Draws(0.5))


async def ask_again_and_again(count: int, seconds: float) -> float:
    """How many answers a second clients get who ask again as soon as they are answered."""
    delayed, loop = DelayedRefusals(HOLD_S, NO_SPREAD), asyncio.get_running_loop()
    from_s, until_s = loop.time() + seconds, loop.time() + 2 * seconds
    answers = 0

    async def bot() -> None:
        nonlocal answers
        while loop.time() < until_s:
            await delayed.stay()
            answers += loop.time() >= from_s

    await asyncio.gather(*(bot() for _ in range(count)))
    return answers / seconds


@pytest.mark.parametrize("count", [100, 250])
def test_few_are_held_for_the_time_that_is_set(count: int) -> None:
    """Nobody is held longer than SHIELD_HOLD_MS says where that is often enough."""
    assert run(ask_again_and_again(count, 8)) == pytest.approx(count / HOLD_S, rel=0.15)


@pytest.mark.parametrize("count", [500, 700, 900])
def test_the_answers_of_many_are_paced(count: int) -> None:
    """A botnet that is larger hears no more a second."""
    assert run(ask_again_and_again(count, 8)) <= MOST_A_SECOND * 1.25


def test_nobody_is_held_without_end() -> None:
    """At most some times as long as is set, though thousands are held."""

    async def story() -> None:
        delayed, loop = DelayedRefusals(HOLD_S, NO_SPREAD), asyncio.get_running_loop()
        began_s = loop.time()
        await asyncio.gather(*(delayed.stay() for _ in range(4000)))
        assert loop.time() - began_s == pytest.approx(HOLD_S * LONGER, abs=2 * SLOT_S)

    run(story())
