"""Limits that many clients share, on several workers in virtual time: never exceeded, fully used, with few calls."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from gate.doubles import FlakyStore, LeasingStore, LoopClock, clock_of, loop_time, pass_time, run, yield_often
from shieldmw.core.bucket import FAR_BELIEVED_US, Charge, Outcome, wait_us
from shieldmw.core.client import shared_client
from shieldmw.core.decision import OnStoreFailure
from shieldmw.core.limits import Limit
from shieldmw.core.portion import AHEAD_US, LONGEST_SPREAD_US, MOST_PIECES, HeldUnits, Portion, PortionRequest
from shieldmw.errors import StoreUnavailable
from shieldmw.gate.limiter.breaker_store import BreakerStore
from shieldmw.gate.limiter.fallback import Fallback
from shieldmw.gate.limiter.pool import SharedReply
from shieldmw.gate.limiter.shared_limits import SharedLimits
from shieldmw.store.memory import WarmBuckets

S = 1_000_000


class FarStore(FlakyStore):
    """A store that takes half a millisecond to answer, or ``call_s``; ``asked`` holds the requests for portions."""

    def __init__(self, inner: LeasingStore) -> None:
        super().__init__(inner)
        self.asked: list[PortionRequest] = []
        self.call_s = 0.000_5
        self.on_answer: Callable[[], None] | None = None

    async def portion(self, request: PortionRequest) -> Portion:
        """A portion, decided half way."""
        self.asked.append(request)
        await asyncio.sleep(self.call_s / 2)
        portion = await super().portion(request)
        await asyncio.sleep(self.call_s / 2)
        if self.on_answer is not None:
            # Happens once all requests that waited have their replies, before any of them goes on.
            asyncio.get_running_loop().call_soon(self.on_answer)
        return portion


@dataclass
class Fleet:
    """Workers with one store; the clock is that of the loop."""

    limits: Sequence[Limit]
    cost: int = 1
    size: int = 4
    on_failure: OnStoreFailure = OnStoreFailure.LOCAL
    clock: LoopClock = field(default_factory=LoopClock)
    admitted: list[int] = field(default_factory=list)
    refused: int = 0

    def __post_init__(self) -> None:
        self.inner = LeasingStore(self.clock, ahead_us=77_777_777)
        self.store = FarStore(self.inner)
        self.charges = tuple(
            Charge(shared_client("guests", limit.name), limit, min(self.cost, limit.burst)) for limit in self.limits
        )
        self.workers = [self.worker() for _ in range(self.size)]

    def worker(self) -> SharedLimits:
        """One more."""
        clock, loops = clock_of(self.clock.s), clock_of(loop_time)
        breaker = BreakerStore(self.store, self.on_failure, loops)
        local = WarmBuckets(now_us=self.clock.us)
        fallback = Fallback(self.on_failure, local, lambda: self.size, self.inner.settle, loops)
        return SharedLimits(breaker, fallback, self.store.give_back, workers=lambda: self.size, clock=clock)

    async def ask(self, worker: int) -> SharedReply | None:
        """One request."""
        charged = self.workers[worker].of(self.charges)
        assert charged is not None
        tats_us = charged.spend(self.clock.us())
        if tats_us is not None:
            reply: SharedReply | None = SharedReply(charged.charges, Outcome(True, self.clock.us(), tats_us))
        else:
            reply = charged.refused_now(self.clock.us()) or await charged.take()
        if reply is not None and reply.outcome.allowed:
            self.admitted.append(self.clock.us())
        else:
            self.refused += 1
        return reply

    async def passes(self, worker: int) -> bool:
        """Whether a request passes."""
        reply = await self.ask(worker)
        return reply is not None and reply.outcome.allowed

    async def keep_asking(self, worker: int, rate_per_s: float, until_s: float, dice: random.Random) -> None:
        """Requests at random times, at so many a second."""
        async with asyncio.TaskGroup() as requests:
            while loop_time() < until_s:
                await pass_time(dice.expovariate(rate_per_s))
                requests.create_task(self.ask(worker))

    def left(self) -> int:
        """How many units are left in the first limit's bucket."""
        tat_us = self.inner.tats_us.get(self.charges[0].bucket, 0)
        limit = self.limits[0]
        return (limit.tau_us - max(0, tat_us - self.inner.now_us())) // limit.unit_us

    def assert_promise(self, limit: Limit, late_us: int = 1000) -> None:
        """In any span D at most burst + rate * D was admitted; an answer may be under way for so long."""
        for first in range(0, len(self.admitted), 7):
            from_us = self.admitted[first]
            for count in range(1, len(self.admitted) - first, 5):
                span_us = self.admitted[first + count] - from_us + late_us
                assert self.cost * (count + 1) * limit.unit_us <= span_us + limit.tau_us


def told(reply: SharedReply | None) -> int:
    """The wait in microseconds that a refused request is told."""
    assert reply is not None
    assert not reply.outcome.allowed
    return wait_us(reply.charges, reply.outcome)


async def told_first(fleet: Fleet) -> int:
    """Use up what there is, from one worker; the wait of the first request that is refused."""
    reply = await fleet.ask(0)
    while reply is not None and reply.outcome.allowed:
        reply = await fleet.ask(0)
    return told(reply)


def test_garbage_in_the_bucket_refuses_for_a_minute_after_it_is_gone() -> None:
    """Not for a day, and without a reset; until then it costs a call a minute."""

    async def story() -> None:
        fleet = Fleet([Limit("guests", 10, 1, 10)], size=1)
        fleet.inner.tats_us[fleet.charges[0].bucket] = 9 * 10**15
        for _ in range(100):
            assert not await fleet.passes(0)
            await pass_time(3)
        assert len(fleet.store.asked) <= 1 + 300 * S // FAR_BELIEVED_US
        fleet.inner.tats_us.clear()
        await pass_time(FAR_BELIEVED_US / S)
        assert await fleet.passes(0)

    run(story())


DEMANDS: dict[str, list[float]] = {
    "even": [1500, 1500, 1500, 1500],
    "uneven": [4500, 1200, 250, 50],
    "one-worker": [6000, 0.1, 0.1, 0.1],
}


@pytest.mark.parametrize("burst", [10, 200, 2000])
@pytest.mark.parametrize("demand", list(DEMANDS))
def test_thrice_the_limit_uses_it_to_the_full_and_no_more(demand: str, burst: int) -> None:
    """2,000/s on 4 workers that are asked for 6,000/s: never above burst + rate * D, and at least 95 % of it."""
    limit = Limit("guests", 2000, 1, burst)

    async def story() -> None:
        fleet, dice, span_s = Fleet([limit]), random.Random(1), 2.5
        start_s = loop_time()
        async with asyncio.TaskGroup() as workers:
            for worker, rate in enumerate(DEMANDS[demand]):
                workers.create_task(fleet.keep_asking(worker, rate, start_s + span_s, dice))
        fleet.assert_promise(limit)
        late = [at_us for at_us in fleet.admitted if at_us >= (start_s + 1) * S]
        assert len(late) >= 0.95 * 2000 * (span_s - 1)
        assert len(fleet.admitted) <= burst + 2000 * (span_s + 0.01)
        if burst == 2000:
            # About one call a worker every 20 ms; more only while the demand is not known yet.
            assert len(fleet.store.asked) <= 1.5 * fleet.size * span_s * S / AHEAD_US

    run(story())


@pytest.mark.parametrize("demand", [[300, 300, 300, 300], [1100, 90, 9, 1]])
def test_below_the_limit_nobody_is_refused(demand: list[int]) -> None:
    """1,200/s of 2,000/s: all pass, though each worker holds some of the limit."""

    async def story() -> None:
        fleet, dice, start_s = Fleet([Limit("guests", 2000, 1, 2000)]), random.Random(2), loop_time()
        async with asyncio.TaskGroup() as workers:
            for worker, rate in enumerate(demand):
                workers.create_task(fleet.keep_asking(worker, rate, start_s + 3, dice))
        assert fleet.refused == 0
        assert len(fleet.store.asked) <= 2 * fleet.size * 3 * S / AHEAD_US

    run(story())


@pytest.mark.parametrize("at_once", [1, 6])
def test_a_small_limit_is_usable_to_the_last_unit(at_once: int) -> None:
    """10/minute on four workers: ten requests pass wherever they arrive, one by one or several at once."""

    async def story() -> None:
        fleet, dice = Fleet([Limit("guests", 10, 60, 10)]), random.Random(3)
        for _ in range(6):
            worker = dice.randrange(fleet.size)
            await asyncio.gather(*(fleet.ask(worker) for _ in range(at_once)))
            await pass_time(0.05)
        for worker in range(fleet.size):
            await asyncio.gather(*(fleet.ask(worker) for _ in range(10)))
        assert len(fleet.admitted) == 10

    run(story())


def test_an_empty_bucket_is_not_asked_again_until_a_unit_can_be_there() -> None:
    """The refusal says when that is, and until then costs no call; then exactly one passes."""

    async def story() -> None:
        limit = Limit("guests", 10, 60, 10)
        fleet = Fleet([limit])
        await asyncio.gather(*(fleet.ask(0) for _ in range(10)))
        told_us = told(await fleet.ask(0))
        assert limit.unit_us - 2000 <= told_us <= limit.unit_us
        calls = len(fleet.store.asked)
        for _ in range(1000):
            assert told_us < told(await fleet.ask(0)) <= told_us + LONGEST_SPREAD_US + S
        assert len(fleet.store.asked) == calls
        await pass_time(told_us / S - 0.001)
        assert not await fleet.passes(0)
        await pass_time(0.001)
        assert [await fleet.passes(0) for _ in range(2)] == [True, False]

    run(story())


# --- what the refused are told


@pytest.mark.parametrize("size", [1, 4])
def test_the_refused_are_told_to_come_one_after_the_other(size: int) -> None:
    """Each a unit of its worker's share later than the one before, in whole seconds, up to 15 seconds later in all; a
    while after the crowd has gone the next one is told of the next unit again."""

    async def story() -> None:
        limit = Limit("guests", 100, 1, 100)
        fleet = Fleet([limit], size=size)
        first_us = await told_first(fleet)
        assert first_us <= AHEAD_US
        for place in range(1, 10_000):
            told_us, turn_us = told(await fleet.ask(0)), min(place * size * limit.unit_us, LONGEST_SPREAD_US)
            assert told_us % S == 0
            assert turn_us <= told_us < first_us + turn_us + S
        await pass_time(LONGEST_SPREAD_US / S + 1)
        assert await told_first(fleet) <= AHEAD_US

    run(story())


@pytest.mark.parametrize("size", [1, 4])
def test_a_crowd_that_waits_as_it_is_told_asks_seldom_and_is_served_in_time(size: int) -> None:
    """Two thousand guests at once, twenty times the limit: told to come in a second, each would ask ten times."""

    async def story() -> None:
        limit, crowd = Limit("guests", 100, 1, 100), 2000
        fleet, dice = Fleet([limit], size=size), random.Random(4)

        async def guest(worker: int) -> None:
            reply = await fleet.ask(worker)
            while reply is not None and not reply.outcome.allowed:
                # What Retry-After says: whole seconds, with a jitter of up to a fifth.
                await pass_time(math.ceil(told(reply) / S * (1 + dice.random() / 5)))
                reply = await fleet.ask(dice.randrange(size))

        start_s = loop_time()
        await asyncio.gather(*(guest(number % size) for number in range(crowd)))
        assert len(fleet.admitted) == crowd
        assert loop_time() - start_s <= 1.5 * crowd / 100
        assert fleet.refused <= 2 * crowd

    run(story())


@pytest.mark.parametrize("cost", [2, 3, 7])
def test_requests_that_cost_several_units(cost: int) -> None:
    """Each is charged in full, on the promise; no worker sits on units that are too few for a request."""

    async def story() -> None:
        limit = Limit("guests", 600, 1, 60)
        fleet, dice, start_s = Fleet([limit], cost=cost), random.Random(4), loop_time()
        async with asyncio.TaskGroup() as workers:
            for worker in range(fleet.size):
                workers.create_task(fleet.keep_asking(worker, 600 / cost, start_s + 2, dice))
        fleet.assert_promise(limit)
        assert len(fleet.admitted) * cost >= 0.9 * 600 * 2

    run(story())


def test_units_that_are_too_few_for_a_request_are_left_to_others() -> None:
    """Of three units one request of two takes two; the other unit is not taken by a worker that has no use for it."""

    async def story() -> None:
        limit = Limit("guests", 3, 3600, 3)
        fleet = Fleet([limit], cost=2, size=2)
        assert [await fleet.passes(worker) for worker in (0, 1, 1)] == [True, False, False]
        await pass_time(limit.unit_us / S + 0.01)
        assert await fleet.passes(0)

    run(story())


def test_two_limits_are_charged_both_or_neither() -> None:
    """A request that the second limit refuses costs the first nothing."""

    async def story() -> None:
        wide, narrow = Limit("guests", 20, 60, 20), Limit("guests-2", 5, 60, 5)
        fleet = Fleet([wide, narrow], size=1)
        replies = [await fleet.ask(0) for _ in range(9)]
        assert [reply.outcome.allowed for reply in replies if reply] == [True] * 5 + [False] * 4
        assert replies[0] is not None
        assert replies[-1] is not None
        assert [charge.limit.name for charge in replies[0].charges] == ["guests", "guests-2"]
        assert [charge.limit.name for charge in replies[-1].charges] == ["guests-2"]
        await fleet.workers[0].aclose()
        assert fleet.left() == 15

    run(story())


# --- requests that go away


def test_ten_thousand_cancellations_lose_nothing_and_spend_nothing_twice() -> None:
    """Requests that go away at any moment while they wait leave their units to others: in the end all are used."""

    async def story() -> None:
        burst = 50_000
        fleet, dice = Fleet([Limit("guests", burst, 10**8, burst)], size=2), random.Random(5)
        tasks: list[asyncio.Task[bool]] = []
        cancelled = 0
        await fleet.passes(0)  # a bucket that is not full loses nothing while units are idle

        def cancel_some() -> None:
            nonlocal cancelled
            cancelled += sum(task.cancel() for task in dice.sample(tasks, 20))

        for _ in range(1000):
            fleet.store.on_answer = dice.choice([None, cancel_some])
            tasks = [asyncio.create_task(fleet.passes(dice.randrange(2))) for _ in range(50)]
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(0)
            await pass_time(dice.choice([0, 0.0002, 0.0005, 0.0006]))
            cancel_some()
            await asyncio.gather(*tasks, return_exceptions=True)
            await pass_time(1)  # so that little is asked for ahead, and requests wait
        fleet.store.on_answer = None
        assert cancelled >= 10_000
        assert len(fleet.admitted) < burst
        for worker in (0, 1):
            while await fleet.passes(worker):
                pass
        assert len(fleet.admitted) == burst

    run(story())


def test_a_request_that_goes_away_as_it_is_served_gives_its_unit_back() -> None:
    """Also if it has its reply already and has only not gone on yet."""

    async def story() -> None:
        fleet = Fleet([Limit("guests", 4, 86_400, 4)], size=1)
        await fleet.passes(0)  # a bucket that is not full loses nothing while units are idle
        tasks = [asyncio.create_task(fleet.passes(0)) for _ in range(3)]
        fleet.store.on_answer = lambda: [task.cancel() for task in tasks].clear()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        assert fleet.left() == 0
        assert [await fleet.passes(0) for _ in range(4)] == [True] * 3 + [False]

    run(story())


# --- what is given back


def test_what_is_unused_is_given_back() -> None:
    """On a stop at once, otherwise after half a second: the bucket has what no request has used."""

    async def story() -> None:
        limit = Limit("guests", 1000, 3600, 1000)
        for stops in (True, False):
            fleet = Fleet([limit], size=1)
            await fleet.workers[0].refresher.start()
            for _ in range(4):
                await asyncio.gather(*(fleet.ask(0) for _ in range(20)))
                await pass_time(0.005)
            assert fleet.left() < 1000 - len(fleet.admitted)
            if stops:
                await fleet.workers[0].aclose()
            else:
                await pass_time(1.0)
            assert fleet.left() == 1000 - len(fleet.admitted) == 920
            await fleet.workers[0].refresher.stop()

    run(story())


def test_nothing_is_given_back_behind_another_worker() -> None:
    """If another worker has charged the bucket since, its portion counts on ours."""

    async def story() -> None:
        fleet = Fleet([Limit("guests", 1000, 3600, 1000)], size=2)
        for _ in range(4):
            await asyncio.gather(*(fleet.ask(0) for _ in range(20)))
        await fleet.ask(1)
        left = fleet.left()
        await fleet.workers[0].aclose()
        assert fleet.left() == left
        await fleet.workers[1].aclose()

    run(story())


def test_portions_are_forgotten_where_buckets_were_reset() -> None:
    """A portion is void after that, also one that is under way, but for the requests that wait for it."""

    async def story() -> None:
        limit = Limit("guests", 100, 86_400, 100)
        fleet = Fleet([limit], size=1)
        await asyncio.gather(*(fleet.ask(0) for _ in range(10)))
        held = asyncio.gather(*(fleet.passes(0) for _ in range(2)))
        await pass_time(0.000_3)  # the store has decided, and its answer is under way
        fleet.workers[0].invalidate()
        fleet.inner.tats_us.clear()
        assert await held == [True, True]
        fleet.admitted.clear()
        fleet.inner.tats_us.clear()
        for _ in range(150):
            await fleet.ask(0)
        assert len(fleet.admitted) == 100

    run(story())


def test_what_an_old_answer_says_is_not_believed_after_a_reset() -> None:
    """A request that waits while buckets are reset is not refused because the bucket was empty before."""

    async def story() -> None:
        fleet = Fleet([Limit("guests", 3, 86_400, 3)], size=2)
        assert [await fleet.passes(0) for _ in range(3)] == [True] * 3
        held = asyncio.create_task(fleet.passes(1))
        await pass_time(0.000_3)
        fleet.workers[1].invalidate()
        fleet.inner.tats_us.clear()
        assert await held

    run(story())


@pytest.mark.parametrize("call_s", [0.001, 0.03, 0.1])
def test_no_request_waits_for_more_than_two_calls(call_s: float) -> None:
    """The one under way and its own, however long they take and however many ask: the rest is refused."""

    async def story() -> None:
        fleet = Fleet([Limit("guests", 100, 1, 100)], size=1)
        fleet.store.call_s = call_s
        longest_s = 0.0

        async def timed() -> None:
            nonlocal longest_s
            began_s = loop_time()
            await fleet.ask(0)
            longest_s = max(longest_s, loop_time() - began_s)

        async with asyncio.TaskGroup() as requests:
            for _ in range(1500):
                requests.create_task(timed())
                await pass_time(0.001)
        assert longest_s <= 2 * call_s + 0.001
        assert fleet.refused > 1000
        assert len(fleet.admitted) <= 100 + 150 + 10

    run(story())


@pytest.mark.parametrize("order", [1, -1], ids=["the first one first", "the last one first"])
@pytest.mark.parametrize("admitted", [[], [0], [999], range(0, 1000, 40)])
def test_refunds_of_many_requests_at_once_lose_nothing(admitted: Sequence[int], order: int) -> None:
    """All but some are refused by another limit: what they give back continues each other, and is spent only once."""
    held = HeldUnits(Limit("guests", 1000, 1, 1000))
    held.add(Portion(0, 1000, 1_000_000), 0)
    spent = [held.take(1, 0) for _ in range(1000)]
    refunded = [each for number, each in enumerate(spent) if number not in admitted]
    for each in refunded[::order]:
        held.refund(each)
        assert len(held._pieces) <= MOST_PIECES
    assert held.spent == len(admitted)
    assert held.units(0) == len(refunded)
    assert sum(held.spend(1, 0) > 0 for _ in range(1001)) == len(refunded)


def test_refunds_in_any_order_leave_few_pieces() -> None:
    """To look through what is left takes no time; no unit comes back twice, whatever was lost in between."""
    dice = random.Random(1)
    for _ in range(30):
        held = HeldUnits(Limit("guests", 200, 1, 200))
        held.add(Portion(0, 200, 1_000_000), 0)
        spent = [held.take(1, 0) for _ in range(200)]
        for _ in range(600):
            if spent and dice.random() < 0.6:
                held.refund(spent.pop(dice.randrange(len(spent))))
            elif again := held.take(dice.choice([1, 1, 2]), 0):
                spent.append(again)
            assert len(held._pieces) <= MOST_PIECES
        used = [(start_us, end_us) for each in spent for _, start_us, end_us in each]
        left = [(piece.tat_us, piece.ceiling_us) for piece in held._pieces if piece.ceiling_us > piece.tat_us]
        assert all(end_us <= start_us for (_, end_us), (start_us, _) in pairwise(sorted(used + left)))


# --- while the store is away


@pytest.mark.parametrize(
    ("on_failure", "passed"), [(OnStoreFailure.LOCAL, 25), (OnStoreFailure.OPEN, None), (OnStoreFailure.CLOSED, None)]
)
def test_without_the_store_each_worker_has_its_share(on_failure: OnStoreFailure, passed: int | None) -> None:
    """`local`: a quarter of the limit on each of four workers; otherwise there is no reply, and the gate decides."""

    async def story() -> None:
        fleet = Fleet([Limit("guests", 100, 86_400, 100)], on_failure=on_failure)
        fleet.store.failing = StoreUnavailable("away")
        for worker in range(4):
            replies = [await fleet.ask(worker) for _ in range(60)]
            if passed is None:
                assert replies == [None] * 60
            else:
                assert [reply.outcome.allowed for reply in replies if reply] == [True] * passed + [False] * 35

    run(story())


def test_what_was_admitted_without_the_store_is_charged_afterwards() -> None:
    """Once the store answers, it has been charged all of that; a request refunded meanwhile is not charged."""

    async def story() -> None:
        fleet = Fleet([Limit("guests", 1000, 86_400, 1000)], size=1)
        fleet.store.failing = StoreUnavailable("away")
        replies = [await fleet.ask(0) for _ in range(30)]
        for reply in replies[:10]:
            assert reply is not None
            reply.refund()
        fleet.store.failing = None
        await pass_time(2)
        await fleet.ask(0)
        await pass_time(1)
        owed = fleet.inner._tats.get(fleet.charges[0].bucket)
        assert owed is not None
        assert round((owed - fleet.inner.now_us()) / fleet.limits[0].unit_us) in (19, 20)

    run(story())


def test_requests_that_wait_for_a_call_that_fails_are_decided_here() -> None:
    """Also those that came while it was under way; and on a stop nobody is left waiting."""

    async def story() -> None:
        fleet = Fleet([Limit("guests", 100, 86_400, 100)], size=2)
        fleet.store.hangs_for_s = 0.05
        assert sum(await asyncio.gather(*(fleet.passes(0) for _ in range(80)))) == 50
        for times, passed in ((1, 50), (20, 0)):  # before the call is made, and while it is under way
            asked = asyncio.gather(*(fleet.passes(1) for _ in range(60)))
            await yield_often(times)
            await fleet.workers[1].aclose()
            assert sum(await asked) == passed

    run(story())


def test_the_store_is_found_again_though_the_request_that_probes_goes_away() -> None:
    """While the store is away one request a second asks it; if that one is cancelled at once, the call is made."""

    async def story() -> None:
        fleet = Fleet([Limit("guests", 100, 86_400, 100)], size=1)
        fleet.store.failing = StoreUnavailable("away")
        for _ in range(9):
            await fleet.passes(0)
        fleet.store.failing = None
        await pass_time(1.5)
        calls = len(fleet.store.asked)
        probe = asyncio.create_task(fleet.passes(0))
        await asyncio.sleep(0)
        probe.cancel()
        await pass_time(0.01)
        await fleet.passes(0)
        assert probe.cancelled()
        assert len(fleet.store.asked) > calls

    run(story())


def test_a_limit_that_refuses_for_a_while_does_not_hide_units_of_another() -> None:
    """The first limit's bucket is empty, but this worker has a unit of it in hand."""

    async def story() -> None:
        scarce, wide = Limit("guests", 2, 86_400, 2), Limit("guests-2", 100, 86_400, 100)
        fleet = Fleet([scarce, wide], size=1)
        replies = [await fleet.ask(0) for _ in range(3)]
        assert [reply.outcome.allowed for reply in replies if reply] == [True, True, False]
        assert replies[1] is not None
        replies[1].refund()
        charged = fleet.workers[0].of(fleet.charges)
        assert charged is not None
        charged._pools[1][0].invalidate()  # so that this one must ask
        assert await fleet.passes(0)

    run(story())
