"""Whole workers over one store in virtual time: newcomers in the very instant of a switch cost nobody a seat."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from gate.doubles import pass_time, run
from gate.seats.fleet import Fleet, M, fleet
from shieldmw.core.mode import Mode, ModeChange

NEWCOMERS = 100  # their numbers begin here


def seated_that_left(one: Fleet) -> list[str]:
    """The members that were seated before the switch, and were told to leave."""
    return [who for who in one.left(M) if int(who.partition("-")[2]) < NEWCOMERS]


async def newcomers_come(one: Fleet, numbers: range, apart_s: float) -> None:
    """Members come, one after the other, and wait for their answers together."""
    answers = []
    for number in numbers:
        answers.append(asyncio.create_task(one.comes(M, NEWCOMERS + number)))
        await pass_time(apart_s)
    await asyncio.gather(*answers)


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("seed", range(15))
def test_no_seated_member_leaves_for_one_that_came_with_the_switch(workers: int, seed: int) -> None:
    """A worker that has not heard of an emergency yet admits newcomers as before: those leave again if they are too
    many, and none of the members that fill the emergency's seats.
    """
    dice = Random(seed)

    async def story() -> None:
        async with fleet(workers, seed, capacity=40, emergency_capacity=20) as one:
            await one.fills(20)
            await pass_time(dice.uniform(0, 8))
            switch = asyncio.create_task(one.switch(ModeChange(Mode.EMERGENCY, "ops", for_s=60)))
            await asyncio.sleep(0)
            await newcomers_come(one, range(6), dice.choice([0, 0.02, 0.1]))
            await switch
            await pass_time(20.0)
            assert seated_that_left(one) == []
            assert 20 - workers < one.here.members <= 20

    run(story())


@pytest.mark.parametrize("workers", [2])
@pytest.mark.parametrize("path", ["/live", "/chat"])
@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_a_ticket_given_with_the_switch_makes_no_newcomer_older(
    workers: int, path: str, elsewhere: bool, seed: int
) -> None:
    """Those that came with the switch and show their new ticket at once, for the same stream or another, are new."""

    async def comes_twice(one: Fleet, number: int) -> None:
        node = one.dice.choice(one.nodes)
        if not (await node.comes(M, number)).refused:
            again = one.dice.choice(one.nodes) if elsewhere else node
            await again.comes(M, number, node.seated[f"{M}-{number}"].ticket, path)

    async def story() -> None:
        async with fleet(workers, seed, capacity=40, emergency_capacity=20) as one:
            await one.fills(20)
            await pass_time(12.0)
            switch = asyncio.create_task(one.switch(ModeChange(Mode.EMERGENCY, "ops", for_s=60)))
            await asyncio.sleep(0)
            await asyncio.gather(*(comes_twice(one, NEWCOMERS + number) for number in range(6)))
            await switch
            await pass_time(20.0)
            assert seated_that_left(one) == []

    run(story())
