"""Whole workers over one store in virtual time: newcomers in the very instant of a switch cost nobody a seat."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from gate.doubles import packed, pass_time, run
from gate.seats.fleet import Fleet, G, M, fleet
from shieldmw import Identity
from shieldmw.core.decision import Decision, Reason, Verdict
from shieldmw.core.facts import Facts
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


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("delay_s", [0, 0.02, 0.1, 0.6])
@pytest.mark.parametrize("seed", range(4))
def test_without_guests_no_seated_member_leaves_either(workers: int, delay_s: float, seed: int) -> None:
    """Workers that have heard of the emergency and one that has not give the same seats: those who got them leave."""

    async def story() -> None:
        async with fleet(workers, seed, capacity=40, emergency_capacity=20) as one:
            for number in range(20):
                await one.comes(M, number)
            await pass_time(12.0)
            switch = asyncio.create_task(one.switch(ModeChange(Mode.EMERGENCY, "ops", for_s=60)))
            await asyncio.sleep(delay_s)
            for number in range(4):
                await one.nodes[number % workers].comes(M, NEWCOMERS + number)
            await switch
            await pass_time(20.0)
            assert seated_that_left(one) == []
            assert one.here.members == 20

    run(story())


@pytest.mark.parametrize("workers", [2, 4, 8])
@pytest.mark.parametrize("guests", [0, 30])
@pytest.mark.parametrize("seed", range(2))
def test_no_seated_member_leaves_for_a_crowd(workers: int, guests: int, seed: int) -> None:
    """More newcomers than there are seats come to all workers at once, and one hears of the emergency last."""

    async def story() -> None:
        async with fleet(workers, seed, capacity=180, emergency_capacity=90) as one:
            for number in range(90):
                await one.comes(M, number)
            for number in range(guests):
                await one.comes(G, number)
            await pass_time(12.0)
            switch = asyncio.create_task(one.switch(ModeChange(Mode.EMERGENCY, "ops", for_s=60)))
            await asyncio.sleep(0)
            crowd = [one.nodes[number % workers].comes(M, NEWCOMERS + number) for number in range(120)]
            await asyncio.gather(*crowd)
            await switch
            await pass_time(20.0)
            assert seated_that_left(one) == []
            assert one.here.members == 90

    run(story())


async def wake_often(every_s: float) -> None:
    """One more timer of the loop, which changes the order in which others fire."""
    while True:
        await pass_time(every_s)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("timer_s", [0.3, 0.7, 1000.0])
@pytest.mark.parametrize("later_s", [0.0, 0.05, 0.4, 0.77])
def test_a_cut_of_members_is_not_held_up(workers: int, timer_s: float, later_s: float) -> None:
    """If there are more members than seats, they begin to leave at once, and newcomers get none of their seats.

    No more leave than must, whenever the cut begins, and in whatever order workers report and evict.
    """

    async def story() -> None:
        timer = asyncio.create_task(wake_often(timer_s))
        async with fleet(workers, 0, capacity=40, emergency_capacity=20) as one:
            for number in range(40):
                await one.comes(M, number)
            await pass_time(12.0 + later_s)
            await one.switch(ModeChange(Mode.EMERGENCY, "ops", for_s=60))
            for number in range(5):
                await one.comes(M, NEWCOMERS + number)
            await pass_time(1.2)
            assert len(seated_that_left(one)) >= 4
            await pass_time(15.0)
            assert len(seated_that_left(one)) == 20
            assert one.here.members == 20
        timer.cancel()

    run(story())


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("path", ["/live", "/chat"])
@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("seed", range(5))
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


def test_the_ticket_of_a_poll_makes_no_listener_older() -> None:
    """It is as new as its first stream, however long it has polled: so it leaves before those seated before it."""

    async def story() -> None:
        async with fleet(1, 0, capacity=40) as one:
            (node,) = one.nodes
            asked = Facts("203.0.113.7", "/hls", "/hls", frozenset({"GET"}))
            who = packed("203.0.113.7"), Identity(f"{M}-7")
            decision = Decision(Verdict.ALLOWED, Reason.WITHIN_LIMITS, *who, lease_s=30)
            _, ticket = node.worker.polls.enter(asked, decision)
            assert ticket is not None
            await pass_time(20.0)
            since_ms = node.worker.entrance.seats.now_ms()
            await node.comes(M, 7, ticket)
            seat = node.seated[f"{M}-7"].seat
            assert node.worker.entrance.seats.ledger.newcomers(since_ms) == [seat]

    run(story())


@pytest.mark.parametrize("workers", [4, 10, 20])
@pytest.mark.parametrize("seed", range(3))
def test_about_as_many_newcomers_leave_as_are_too_many(workers: int, seed: int) -> None:
    """One is too many, and every worker has some that came with the switch: not each of them sends one away."""

    async def story() -> None:
        async with fleet(workers, seed, capacity=160, emergency_capacity=80) as one:
            for number in range(41):
                await one.comes(M, number)
            await pass_time(12.0)
            for number in range(40):
                await one.nodes[number % workers].comes(M, NEWCOMERS + number)
            await one.switch(ModeChange(Mode.EMERGENCY, "ops", for_s=60))
            await pass_time(20.0)
            assert 76 <= one.here.members <= 80

    run(story())


@pytest.mark.parametrize("workers", [2, 10, 20])
def test_newcomers_leave_wherever_they_are(workers: int) -> None:
    """All of those too many came to one worker: the others have none to send away, and it sends more in the end."""

    async def story() -> None:
        async with fleet(workers, 0, capacity=160, emergency_capacity=80) as one:
            for number in range(78):
                await one.comes(M, number)
            await pass_time(12.0)
            switch = asyncio.create_task(one.switch(ModeChange(Mode.EMERGENCY, "ops", for_s=60)))
            await asyncio.sleep(0)
            for number in range(5):
                await one.nodes[1].comes(M, NEWCOMERS + number)
            await switch
            await pass_time(20.0)
            assert seated_that_left(one) == []
            assert 77 <= one.here.members <= 80

    run(story())


def test_those_that_came_during_an_emergency_are_not_late_when_it_ends() -> None:
    """It ends by itself, and fewer seats are left: members leave step by step, in their usual order."""

    async def story() -> None:
        async with fleet(1, 0, capacity=20, emergency_capacity=40) as one:
            await one.fills(5)
            await one.switch(ModeChange(Mode.EMERGENCY, "ops", for_s=60))
            for number in range(30):
                await one.comes(M, NEWCOMERS + number)
            await one.nodes[0].worker.control._mode_watch.refresher.stop()
            await pass_time(61.0)
            assert 0 < len(one.left(M)) < 10
            await pass_time(20.0)
            assert one.here.members == 20

    run(story())
