"""Whole workers over one store in virtual time: members wait their turn, and for nobody who is not there."""

from __future__ import annotations

import asyncio

import pytest

from gate.doubles import loop_time, pass_time, run
from gate.seats.fleet import Fleet, M, fleet
from shieldmw.core.decision import Reason
from shieldmw.core.mode import Mode, ModeChange
from shieldmw.core.waiting import AWAITED_S, SHORTEST_POLL_S
from shieldmw.gate.seats.seats import RENEW_S


async def fill(one: Fleet, seats: int) -> None:
    """Members take all seats, and every worker hears that the house is full."""
    for number in range(seats):
        assert not (await one.comes(M, number)).refused
        await pass_time(0.05)
    await pass_time(2 * RENEW_S + 1)


async def waits(one: Fleet, number: int) -> str:
    """A member finds no seat; the signed number that it gets."""
    answer = await one.comes(M, number)
    assert (answer.reason, answer.place is None) == (Reason.NO_SEAT, False)
    assert answer.signed_ticket
    await pass_time(1.1)  # the other workers hear of its number
    return answer.signed_ticket


async def is_seated(one: Fleet, number: int, signed_ticket: str | None = None) -> None:
    """A member finds its seat: at once if there is one worker; otherwise perhaps when it polls again, where one is."""
    for _ in range(1 if len(one.nodes) == 1 else 6):
        if not (await one.comes(M, number, signed_ticket)).refused:
            return
        await pass_time(SHORTEST_POLL_S)
    pytest.fail(f"member {number} has no seat")


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_a_newcomer_is_seated_where_more_seats_are_free_than_members_wait(workers: int, seed: int) -> None:
    """One member waits and three seats come free: it gets one, and two newcomers get the others at once."""

    async def story() -> None:
        async with fleet(workers, seed, capacity=20) as one:
            await fill(one, 20)
            number = await waits(one, 100)
            for gone in range(3):
                one.blinks(M, gone)
            await pass_time(0.5)
            assert not (await one.comes(M, 101)).refused
            assert not (await one.comes(M, 102)).refused
            await is_seated(one, 100, number)

    run(story())


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_no_newcomer_takes_the_seat_of_a_member_that_was_called(workers: int, seed: int) -> None:
    """Two members wait and two seats come free: both are theirs when they next ask, whoever comes meanwhile."""

    async def story() -> None:
        async with fleet(workers, seed, capacity=20) as one:
            await fill(one, 20)
            numbers = [await waits(one, 100), await waits(one, 101)]
            for gone in range(2):
                one.blinks(M, gone)
            began_s, newcomer = loop_time(), 200
            while loop_time() < began_s + 1.2 * SHORTEST_POLL_S:
                assert (await one.comes(M, newcomer)).refused
                await pass_time(0.2)
                newcomer += 1
            for number, signed in enumerate(numbers, 100):
                await is_seated(one, number, signed)

    run(story())


@pytest.mark.parametrize("workers", [1, 3])
def test_members_who_have_given_up_are_not_waited_for(workers: int) -> None:
    """Two seconds' calls and the time to come: then a newcomer takes at once the seats they were called for."""

    async def story() -> None:
        async with fleet(workers, 0, capacity=20) as one:
            await fill(one, 20)
            for number in range(4):
                await waits(one, 100 + number)
            for gone in range(2):
                one.blinks(M, gone)
            signed_ticket = await waits(one, 200)
            await pass_time(AWAITED_S + 4)
            await is_seated(one, 201)
            await is_seated(one, 200, signed_ticket)

    run(story())


@pytest.mark.parametrize("workers", [1, 2])
def test_once_there_is_no_limit_nobody_waits(workers: int) -> None:
    """After an emergency in which members waited, all are let in; the next one begins with an empty waiting room."""

    async def story() -> None:
        async with fleet(workers, 0, capacity=0, emergency_capacity=10) as one:
            await one.switch(ModeChange(Mode.EMERGENCY, "ops", for_s=60))
            await pass_time(3.0)
            await fill(one, 10)
            number = await waits(one, 100)
            await waits(one, 101)
            await one.switch(ModeChange(Mode.NORMAL, "ops"))
            assert not (await one.comes(M, 100, number)).refused
            assert not (await one.comes(M, 102)).refused
            await pass_time(AWAITED_S + 2)
            for gone in (0, 1, 2, 3, 100, 102):
                one.blinks(M, gone)
            await one.switch(ModeChange(Mode.EMERGENCY, "ops", for_s=60))
            await pass_time(3.0)
            for newcomer in range(4):
                assert not (await one.comes(M, 200 + newcomer)).refused

    run(story())


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("seed", range(6))
def test_nobody_is_seated_before_those_in_front_that_poll_as_told(workers: int, seed: int) -> None:
    """Each free seat calls more members than one; long after, the last in line and a newcomer still come after them."""
    seated: list[int] = []

    async def polls(one: Fleet, number: int, signed: str | None, every_s: float | None = None) -> None:
        while (answer := await one.comes(M, number, signed)).refused:
            signed = answer.signed_ticket or signed
            poll_s = answer.place.poll_s if answer.place else answer.retry_after_us / 1_000_000
            await pass_time(every_s or poll_s)
        seated.append(number)

    async def story() -> None:
        async with fleet(workers, seed, capacity=20) as one:
            await fill(one, 20)
            signed = {number: await waits(one, number) for number in range(100, 105)}
            tasks = [
                asyncio.create_task(polls(one, number, paper, 0.2 if number == 104 else None))
                for number, paper in signed.items()
            ]
            await pass_time(10.0)
            one.blinks(M, 0)
            await pass_time(30.0)
            one.blinks(M, 1)
            tasks.append(asyncio.create_task(polls(one, 200, None, 0.2)))
            await pass_time(30.0)
            assert len(seated) == 2
            assert {104, 200}.isdisjoint(seated)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    run(story())
