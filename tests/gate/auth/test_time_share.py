"""A share of the worker's time: the CPU time used, the order of clients, and the longest wait."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

import pytest

from gate.doubles import VirtualLoop, at_once, loop_time, pass_time, run, yield_often
from shieldmw.gate.auth.time_share import BURST_S, LONGEST_WAIT_S, MOST_WAITING, MOST_WAITING_EACH, SHARE, TimeShare
from shieldmw.gate.clock import Clock


class Work:
    """Functions that take a while by their own timer, and note whose they are."""

    def __init__(self, takes_s: float = 0.001) -> None:
        self.takes_s = takes_s
        self.spent_s = 0.0
        self.done: list[str] = []
        self.share: TimeShare[str] = TimeShare(Clock(now_s=lambda: self.spent_s, random=Random(7)))

    async def run(self, whom: str) -> str | None:
        """Run one."""

        def function() -> str:
            self.spent_s += self.takes_s
            self.done.append(whom)
            return whom

        return await self.share.run(whom, function)


@pytest.mark.parametrize("takes_s", [0.00005, 0.001, 0.03, 0.5])
def test_a_quarter_of_the_time_is_all_there_is(takes_s: float) -> None:
    """Whatever one function takes, and however many want to run."""
    work = Work(takes_s)

    async def story() -> float:
        begun_s = loop_time()
        for _ in range(10):
            await at_once(lambda n: work.run(f"client {n % 50}"), 500)
        return loop_time() - begun_s

    elapsed_s = run(story())
    assert 0 < work.spent_s <= BURST_S + SHARE * elapsed_s + takes_s


def test_what_is_rare_waits_for_nothing() -> None:
    """While there is time left a function runs at once."""
    work = Work()

    async def story() -> float:
        begun_s = loop_time()
        for _ in range(int(BURST_S / work.takes_s)):
            assert await work.run("anybody") == "anybody"
        return loop_time() - begun_s

    assert run(story()) == 0.0


def test_clients_take_turns() -> None:
    """A client with many functions queued has one turn a round, as does a client with one."""
    work = Work()

    async def story() -> None:
        await work.run("first")
        work.spent_s, work.takes_s = work.spent_s, BURST_S
        await work.run("takes what is left")
        work.takes_s = 0.001
        flood = [asyncio.create_task(work.run("flood")) for _ in range(20)]
        await yield_often()
        others = [asyncio.create_task(work.run(name)) for name in ("alice", "bob")]
        await asyncio.gather(*flood, *others)

    run(story())
    assert work.done[2:6] == ["flood", "alice", "bob", "flood"]


def test_nobody_waits_for_longer_than_a_second() -> None:
    """A turn that does not come soon does not come."""
    work = Work(takes_s=10.0)

    async def story() -> float:
        await work.run("takes all")
        begun_s = loop_time()
        assert await work.run("in vain") is None
        return loop_time() - begun_s

    assert run(story()) == pytest.approx(LONGEST_WAIT_S)
    assert work.done == ["takes all"]


def test_the_queue_is_bounded_for_each_and_for_all() -> None:
    """Those for whom there is no place are told at once."""
    work = Work(takes_s=10.0)

    async def story() -> tuple[int, int]:
        await work.run("takes all")
        tasks = [asyncio.create_task(work.run("one")) for _ in range(MOST_WAITING_EACH + 10)]
        await yield_often()
        told_one = sum(task.done() for task in tasks)
        tasks += [asyncio.create_task(work.run(f"client {n}")) for n in range(MOST_WAITING)]
        await yield_often()
        told_all = sum(task.done() for task in tasks)
        await asyncio.gather(*tasks)
        return told_one, told_all

    assert run(story()) == (10, 10 + MOST_WAITING_EACH)


async def keep_in_flight(work: Work, whom: str, count: int, back_in_s: float = 0.001) -> list[asyncio.Task[None]]:
    """A flood in a closed loop: each that was answered comes again, until cancelled."""

    async def again() -> None:
        while True:
            await work.run(whom)
            await asyncio.sleep(back_in_s)

    tasks = [asyncio.create_task(again()) for _ in range(count)]
    await pass_time(2.0)
    return tasks


async def timed(work: Work, whom: str) -> float | None:
    """How long it took until the function was run; None where it was not."""
    begun_s = loop_time()
    return None if await work.run(whom) is None else loop_time() - begun_s


@pytest.mark.parametrize("in_flight", [20, 70, 100, 200])
def test_a_flood_at_the_same_address_keeps_nobody_out(in_flight: int) -> None:
    """As long as those in flight can be run within the longest wait, forty of forty newcomers are."""
    work = Work()

    async def story() -> list[float | None]:
        flood = await keep_in_flight(work, "address", in_flight)
        waits = [await timed(work, "address") for _ in range(40)]
        for task in flood:
            task.cancel()
        return waits

    waits_s = run(story())
    assert None not in waits_s
    assert max(wait_s or 0.0 for wait_s in waits_s) <= LONGEST_WAIT_S


def test_a_busy_loop_takes_nothing_from_the_share() -> None:
    """Where the loop comes round every 20 ms, five functions of a millisecond run each time, and not one."""
    work = Work()

    async def story() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        await work.run("first")
        waiting = [asyncio.create_task(work.run("address")) for _ in range(500)]
        until_s = loop.now_s + LONGEST_WAIT_S
        while loop.now_s < until_s:
            loop.now_s += 0.02
            await asyncio.sleep(0)
        await asyncio.gather(*waiting)

    run(story())
    assert len(work.done) > 0.9 * SHARE * LONGEST_WAIT_S / work.takes_s


@pytest.mark.parametrize("in_flight", [200, 1000])
def test_a_flood_at_one_address_delays_another_by_no_more_than_its_turn(in_flight: int) -> None:
    """Two addresses, so every other turn."""
    work = Work()

    async def story() -> list[float | None]:
        flood = await keep_in_flight(work, "address", in_flight)
        waits = [await timed(work, "another address") for _ in range(40)]
        for task in flood:
            task.cancel()
        return waits

    waits_s = run(story())
    assert None not in waits_s
    assert max(wait_s or 0.0 for wait_s in waits_s) <= 2 * work.takes_s / SHARE + 0.001


def test_a_flood_beyond_the_queue_leaves_others_the_same_chance() -> None:
    """Nobody owns the queue: about one in two has its turn, where that is what there is time for."""
    work = Work(takes_s=0.0001)

    async def newcomer(number: int) -> float | None:
        await asyncio.sleep(number * 0.02)
        return await timed(work, "address")

    async def story() -> list[float | None]:
        flood = await keep_in_flight(work, "address", MOST_WAITING_EACH + 500, back_in_s=0.1)
        waits = await asyncio.gather(*(newcomer(number) for number in range(40)))
        for task in flood:
            task.cancel()
        return waits

    assert 10 <= sum(wait_s is not None for wait_s in run(story())) <= 35


def test_who_goes_from_a_full_queue_is_left_to_chance() -> None:
    """The newest no more often than any other: where all places are taken, most newcomers get one."""
    work = Work(takes_s=10.0)

    async def story() -> tuple[int, int]:
        await work.run("takes all")
        first = [asyncio.create_task(work.run("one")) for _ in range(MOST_WAITING_EACH)]
        await yield_often()
        second = [asyncio.create_task(work.run("one")) for _ in range(MOST_WAITING_EACH // 4)]
        await yield_often()
        told = sum(task.done() for task in first), sum(task.done() for task in second)
        await asyncio.gather(*first, *second)
        return told

    told_first, told_second = run(story())
    assert told_first + told_second == MOST_WAITING_EACH // 4
    assert 0 < told_second < MOST_WAITING_EACH // 16


@pytest.mark.parametrize("seed", range(5))
def test_places_are_taken_from_those_who_have_most(seed: int) -> None:
    """Whatever comes in whatever order: the bounds hold, and nobody with fewer gives way to one with more."""
    work, chance = Work(takes_s=10.0), Random(seed)
    often = [chance.choice([1, 30, 1500]) for _ in range(60)]
    asked = [f"client {n}" for n, count in enumerate(often) for _ in range(count)]
    chance.shuffle(asked)

    async def story() -> list[str]:
        await work.run("takes all")
        tasks = [asyncio.create_task(work.run(whom)) for whom in asked]
        await yield_often()
        waiting = [whom for whom, task in zip(asked, tasks, strict=True) if not task.done()]
        await asyncio.gather(*tasks)
        return waiting

    waiting = Counter(run(story()))
    wanted = Counter(asked)
    assert waiting.total() == MOST_WAITING
    most = max(waiting.values())
    assert most <= MOST_WAITING_EACH
    assert all(waiting[whom] >= min(count, most - 1) for whom, count in wanted.items())


def test_whoever_goes_away_costs_those_beside_it_no_turn() -> None:
    """An address of which many have gone comes as soon as any other."""
    work = Work(takes_s=BURST_S * 2)

    async def story() -> None:
        await work.run("takes all")
        gone = [asyncio.create_task(work.run("one")) for _ in range(10)]
        await yield_often()
        stay = [asyncio.create_task(work.run(whom)) for whom in ("one", "two", "two", "two")]
        await yield_often()
        for task in gone:
            task.cancel()
        await asyncio.gather(*stay)

    run(story())
    assert work.done[:3] == ["takes all", "one", "two"]


def test_whoever_goes_away_costs_no_turn() -> None:
    """What nobody waits for any more is not run, and the next is."""
    work = Work(takes_s=BURST_S * 2)

    async def story() -> None:
        await work.run("takes all")
        gone = [asyncio.create_task(work.run("gone")) for _ in range(10)]
        await yield_often()
        for task in gone:
            task.cancel()
        assert await work.run("stays") == "stays"
        assert all(task.cancelled() for task in gone)
        await pass_time(5.0)

    run(story())
    assert work.done == ["takes all", "stays"]


def test_an_error_is_the_callers() -> None:
    """Run at once or in turn: what a function raises is raised where it was asked for, and the next one runs."""
    share: TimeShare[int] = TimeShare(Clock(now_s=lambda: 0.0))

    def fails() -> int:
        raise ValueError("no")

    async def story() -> int | None:
        with pytest.raises(ValueError, match="no"):
            await share.run("anybody", fails)
        work = Work(takes_s=BURST_S * 2)
        await work.run("takes all")
        with pytest.raises(ZeroDivisionError):
            await work.share.run("anybody", lambda: str(1 // 0))
        return await share.run("anybody", lambda: 7)

    assert run(story()) == 7
