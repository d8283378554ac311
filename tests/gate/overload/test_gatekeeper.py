"""The lane on an event loop: no request is forgotten, and nothing is left behind, even if clients disconnect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.doubles import pass_time, run, yield_often
from gate.overload.lanes import assert_nothing_left, gatekeeper, scheduled, until_quiet, work
from shieldmw.core.concurrency import AdaptiveLimit
from shieldmw.core.lane import Lane, Rank
from shieldmw.gate.overload.gatekeeper import SWEEP_S, Gatekeeper, Passage, Waiter


def test_while_calm_each_enters_at_once_with_one_callback_a_turn() -> None:
    """However many come in a turn of the loop."""

    async def story() -> None:
        keeper = gatekeeper()
        for _ in range(3):
            passages = [keeper.enter_now(Rank.GUEST) for _ in range(50)]
            assert scheduled() == 1
            for passage in passages:
                assert passage is not None
                passage.end()
            await yield_often(3)
            assert_nothing_left(keeper)

    run(story())


def test_while_calm_few_are_measured() -> None:
    """One in two milliseconds; of those who had to wait, every one."""

    async def story() -> None:
        keeper = gatekeeper(1000)
        clock_s = asyncio.get_running_loop().time
        began_s, measured = clock_s(), 0
        while clock_s() - began_s < 0.1:
            passage = keeper.enter_now(Rank.GUEST)
            assert passage is not None
            measured += passage.inside_then == 1
            passage.end()
            await asyncio.sleep(0.0005)
        assert 40 <= measured <= 52
        full = gatekeeper(1)
        inside = full.enter_now(Rank.GUEST)
        assert inside is not None
        tasks = [asyncio.create_task(full.wait(Rank.GUEST)) for _ in range(5)]
        await yield_often()
        inside.end()
        for task in tasks:
            passage = await task
            assert passage is not None
            assert passage.inside_then == 1
            passage.end()

    run(story())


def test_those_who_wait_are_woken_in_the_order_of_favour() -> None:
    """Whatever the order in which they came; inside a class the first to come is the first."""

    async def story() -> None:
        keeper = gatekeeper(1)
        order: list[tuple[Rank, int]] = []

        async def request(rank: Rank, number: int) -> None:
            passage = await keeper.wait(rank)
            assert passage is not None
            order.append((rank, number))
            await asyncio.sleep(0.001)
            passage.begun("page")

        inside = keeper.enter_now(Rank.GUEST)
        assert inside is not None
        came = [(rank, number) for number in range(3) for rank in reversed(Rank)]
        tasks = [asyncio.create_task(request(*each)) for each in came]
        await yield_often()
        inside.end()
        await asyncio.gather(*tasks)
        assert order == sorted(came)
        await until_quiet()
        assert_nothing_left(keeper)

    run(story())


def test_what_is_told_twice_is_heard_once() -> None:
    """A response that begins, and ends, and is said to have ended."""

    async def story() -> None:
        keeper = gatekeeper()
        others = keeper.enter_now(Rank.GUEST)
        passage = keeper.enter_now(Rank.GUEST)
        assert passage is not None
        assert others is not None
        for _ in range(2):
            passage.begun("page")
            assert keeper.lane.places.inside == 1
        for _ in range(2):
            passage.end()
            assert keeper.lane.places.inside == 1
        others.end()
        others.begun("page")
        assert keeper.lane.places.inside == 0

    run(story())


def test_a_full_app_is_looked_at_now_and_then_and_not_all_the_time() -> None:
    """Nothing inside ends: the loop must not spin, and those who have waited too long are refused all the same."""

    turns = 0

    class Counted(Lane[Waiter]):
        __slots__ = ()

        def turn(self, now_us: int) -> None:
            nonlocal turns
            turns += 1
            super().turn(now_us)

    async def story() -> None:
        keeper = gatekeeper(1)
        keeper.lane = Counted(100_000, AdaptiveLimit(1), keeper._let_in, keeper._refuse)
        loop = asyncio.get_running_loop()
        inside = keeper.enter_now(Rank.GUEST)
        assert inside is not None
        began_s = loop.time()
        assert await asyncio.gather(*(keeper.wait(Rank.GUEST) for _ in range(20))) == [None] * 20
        waited_s = loop.time() - began_s
        assert waited_s <= 1.0 + 2 * SWEEP_S
        assert turns <= waited_s / SWEEP_S + 3
        inside.end()
        await until_quiet()
        assert_nothing_left(keeper)

    run(story())


def test_a_place_that_becomes_free_is_taken_in_the_same_moment() -> None:
    """Not only once the queue is looked at again."""

    async def story() -> None:
        keeper = gatekeeper(1)
        inside = keeper.enter_now(Rank.GUEST)
        assert inside is not None
        waiting = asyncio.create_task(keeper.wait(Rank.MEMBER))
        await pass_time(SWEEP_S / 2)
        now_s = asyncio.get_running_loop().time()
        inside.begun("page")
        passage = await waiting
        assert asyncio.get_running_loop().time() == now_s
        assert passage is not None
        passage.end()

    run(story())


def _gone_before(waiting: asyncio.Task[Passage | None], inside: Passage) -> None:
    waiting.cancel()
    inside.end()


def _gone_after(waiting: asyncio.Task[Passage | None], inside: Passage) -> None:
    inside.end()
    waiting.cancel()


@pytest.mark.parametrize("moment", [_gone_before, _gone_after])
def test_who_goes_away_in_the_moment_of_being_let_in_leaves_the_place_to_the_next(
    moment: Callable[[asyncio.Task[Passage | None], Passage], None],
) -> None:
    """Cancelled just before its turn comes, and just after it came, but before it could run."""

    async def story() -> None:
        keeper = gatekeeper(1)
        inside = keeper.enter_now(Rank.GUEST)
        assert inside is not None
        gone = asyncio.create_task(keeper.wait(Rank.MEMBER))
        stays = asyncio.create_task(keeper.wait(Rank.GUEST))
        await yield_often()
        moment(gone, inside)
        passage = await stays
        assert gone.cancelled()
        assert passage is not None
        assert keeper.lane.places.inside == 1
        passage.end()
        await until_quiet()
        assert_nothing_left(keeper)

    run(story())


def test_who_goes_away_while_it_waits_leaves_the_queue() -> None:
    """At once: nobody behind it is refused for a queue of those who have gone."""

    async def story() -> None:
        keeper = gatekeeper(1)
        inside = keeper.enter_now(Rank.GUEST)
        assert inside is not None
        gone = [asyncio.create_task(keeper.wait(Rank.GUEST)) for _ in range(100)]
        await yield_often()
        assert keeper.lane.waiting == 100
        for task in gone:
            task.cancel()
        await yield_often()
        assert keeper.lane.waiting == 0
        inside.end()
        await until_quiet()
        assert_nothing_left(keeper)

    run(story())


async def _request(keeper: Gatekeeper, rank: Rank, computes_ms: float, awaits_ms: float, *, fails: bool) -> bool:
    """What the middleware does with the lane; whether it came to the app."""
    passage = keeper.enter_now(rank)
    if passage is None and not keeper.would_refuse(rank):
        passage = await keeper.wait(rank)
    if passage is None:
        return False
    try:
        work(computes_ms)
        await asyncio.sleep(awaits_ms / 1000)
        if not fails:
            passage.begun("page")
        await asyncio.sleep(0.001)
    finally:
        passage.end()
    return True


def test_ten_thousand_cancellations_leave_nothing_behind() -> None:
    """Waiting requests are cancelled, some of them at the very moment of their turn."""
    gone_waiting = gone_let_in = 0

    async def request(keeper: Gatekeeper, random: Random) -> None:
        nonlocal gone_waiting
        rank = random.choice(list(Rank))
        passage = keeper.enter_now(rank)
        if passage is None:
            try:
                passage = await keeper.wait(rank)
            except asyncio.CancelledError:
                gone_waiting += 1
                raise
        if passage is None:
            return
        try:
            work(random.choice((0, 0, 1, 15)))
            await asyncio.sleep(random.random() * 0.004)
        finally:
            passage.end()

    async def story() -> None:
        nonlocal gone_let_in
        random = Random(11)
        keeper = gatekeeper(3)
        while gone_waiting < 10_000:
            tasks = [asyncio.create_task(request(keeper, random)) for _ in range(random.randrange(4, 40))]
            await asyncio.sleep(0)
            for _ in range(random.randrange(8)):
                waiting = keeper.lane.waiting
                await asyncio.sleep(random.choice((0, 0, 0.001)))
                gone_let_in += keeper.lane.waiting < waiting
                for task in random.sample(tasks, len(tasks) // 4):
                    task.cancel()
            for task in random.sample(tasks, len(tasks) // 2):
                task.cancel()
            if random.random() < 0.3:
                await asyncio.gather(*tasks, return_exceptions=True)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await until_quiet()
        assert_nothing_left(keeper)

    run(story())
    assert gone_let_in >= 500, "some were cancelled just after somebody was let in"


requests = st.tuples(
    st.sampled_from(list(Rank)),
    st.sampled_from([0.0, 0.1, 2.0, 12.0, 60.0]),
    st.sampled_from([0.0, 1.0, 30.0, 300.0, 2000.0]),
    st.booleans(),
    st.sampled_from([None, None, None, 0, 1, 2, 5]),
)
turns = st.lists(
    st.tuples(st.lists(requests, max_size=8), st.sampled_from([0.0, 0.0, 0.001, 0.03])), min_size=1, max_size=15
)


@pytest.mark.thorough
@settings(deadline=None, max_examples=200)
@given(turns, st.integers(1, 4), st.booleans(), st.sampled_from([None, 0.1, 0.5]))
def test_nobody_waits_for_ever(
    plan: list[tuple[list[tuple[Rank, float, float, bool, int | None]], float]],
    most_inside: int,
    adapts: bool,
    guest_share: float | None,
) -> None:
    """Any schedule of arrivals, ends, failures and cancellations comes to rest: all are done, nothing is held."""

    async def story() -> None:
        keeper = gatekeeper(0 if adapts else most_inside)
        keeper.lane.places.limit = most_inside
        keeper.lane.guest_share = guest_share
        tasks: list[asyncio.Task[bool]] = []
        others = []
        for arrivals, pause_s in plan:
            for rank, computes_ms, awaits_ms, fails, gone_after in arrivals:
                task = asyncio.create_task(_request(keeper, rank, computes_ms, awaits_ms, fails=fails))
                tasks.append(task)
                if gone_after is not None:
                    others.append(asyncio.create_task(_cancel_after(task, gone_after)))
            await asyncio.sleep(pause_s)
        await until_quiet(60)
        assert all(task.done() for task in tasks)
        assert_nothing_left(keeper)

    run(story())


async def _cancel_after(task: asyncio.Task[bool], turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()


def test_no_place_stays_empty_while_somebody_waits() -> None:
    """A lost wake-up would show as a request that waits beside a free place until the next sweep."""

    async def story() -> None:
        keeper = gatekeeper(2)
        done = 0

        async def request() -> None:
            nonlocal done
            passage = keeper.enter_now(Rank.GUEST) or await keeper.wait(Rank.GUEST)
            if passage is not None:
                await asyncio.sleep(0.01)
                passage.begun("page")
                done += 1

        began_s = asyncio.get_running_loop().time()
        await asyncio.gather(*(request() for _ in range(60)))
        assert done == 60
        assert asyncio.get_running_loop().time() - began_s == pytest.approx(0.3, abs=0.02)

    run(story())


def test_those_who_hang_in_the_app_keep_nobody_out_for_long() -> None:
    """Uploads that trickle, an upstream that hangs: members enter all the same, and no place is lost or won."""

    async def story() -> None:
        keeper = gatekeeper()
        most = 10 * keeper.lane.places.limit
        hanging = [keeper.enter_now(Rank.MEMBER) for _ in range(most)]
        assert keeper.enter_now(Rank.MEMBER) is None
        guests = [asyncio.create_task(keeper.wait(Rank.GUEST)) for _ in range(20)]
        for _ in range(10):  # again and again, each time with every place taken by others who hang
            member = await keeper.wait(Rank.MEMBER)
            assert member is not None
            member.begun("page")
            hanging += [keeper.enter_now(Rank.MEMBER) for _ in range(most)]
        hanging += await asyncio.gather(*guests)
        for passage in hanging:
            if passage is not None:
                passage.end()
                passage.begun("page")
        await until_quiet()
        assert_nothing_left(keeper)

    run(story())


def test_a_limit_that_is_set_keeps_nobody_out_for_ever_whatever_hangs() -> None:
    """SHIELD_MAX_IN_FLIGHT is the operator's word for what works; what hangs for seconds does not."""

    async def story() -> None:
        keeper = gatekeeper(1)
        inside = keeper.enter_now(Rank.GUEST)
        assert inside is not None
        began_s = asyncio.get_running_loop().time()
        while (member := await keeper.wait(Rank.MEMBER)) is None:
            assert keeper.lane.places.inside == 1
        assert 5 <= asyncio.get_running_loop().time() - began_s <= 10
        assert keeper.lane.places.inside == 1
        member.end()
        inside.end()
        await until_quiet()
        assert_nothing_left(keeper)

    run(story())
