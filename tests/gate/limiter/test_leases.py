"""Leases: a hot client causes few calls, others are never charged in advance, and no client gains or loses."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest

from gate.doubles import (
    FakeClock,
    FlakyStore,
    LeasingStore,
    LoopClock,
    WorkerParts,
    at_once,
    clock_of,
    facts,
    loop_time,
    nth_address,
    pass_time,
    plan_of,
    requester_at,
    run,
    worker,
    yield_often,
)
from shieldmw.core.bucket import Party, TakeRequest, Term, take
from shieldmw.core.client import Client
from shieldmw.core.decision import Decision, Reason
from shieldmw.core.limits import Limit, parse_limits
from shieldmw.core.plan import Requester
from shieldmw.errors import StoreUnavailable
from shieldmw.gate.limiter.batch import TakeReply
from shieldmw.gate.limiter.leases import Leases

PEER = "203.0.113.7"
IP = Client("ip", f"{PEER}/32", f"ip:{PEER}/32")
BUCKET = f"ip {IP}"
AWAY = StoreUnavailable("away")
SLOW = "10000/day"

# Whoever comes for the first time is not hot: with the second request comes the lease.
COLD = 1

[SLOW_LIMIT] = parse_limits(SLOW, name="ip")


@dataclass
class Fleet:
    """Some workers, and the store between them."""

    workers: list[WorkerParts]
    store: FlakyStore
    inner: LeasingStore

    async def start(self) -> None:
        """Sweep in the background."""
        for one in self.workers:
            await one.start()

    async def stop(self) -> None:
        """End all."""
        for one in self.workers:
            await one.stop()

    async def ask(self, times: int = 1, *, every_s: float = 0.0, worker: int = 0, peer: str = PEER) -> list[Decision]:
        """Requests one after the other."""
        decisions = []
        for _ in range(times):
            decisions.append(await self.workers[worker].gate.decide(facts(peer=peer)))
            if every_s:
                await pass_time(every_s)
        return decisions

    @property
    def used_units(self) -> float:
        """What the store's bucket of the client holds beyond full, in units of the slow limit, to be rounded up."""
        return (self.inner.tats_us.get(BUCKET, 0) - self.inner.now_us()) / SLOW_LIMIT.unit_us


def fleet(workers: int = 1, *, ahead_us: int = 987_654_321, **values: Any) -> Fleet:
    """Workers of one fleet, whose clock is another than the store's."""
    clock = LoopClock()
    inner = LeasingStore(clock, ahead_us=ahead_us)
    store = FlakyStore(inner)
    return Fleet([worker(store, clock, **values) for _ in range(workers)], store, inner)


def open_leases(one: WorkerParts) -> int:
    """How many clients are charged ahead."""
    assert one.leases is not None
    return len(one.leases.open)


def passed(decisions: list[Decision]) -> int:
    """How many were not refused."""
    return sum(not decision.refused for decision in decisions)


# --- what they are for ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every_s", "limit", "most_calls"),
    [(0.0001, "100000/minute", 20), (0.001, "100000/minute", 20), (0.01, "100000/minute", 110), (0, SLOW, 20)],
)
def test_a_hot_client_costs_few_calls(every_s: float, limit: str, most_calls: int) -> None:
    """A thousand requests one after the other pass with so many calls at most, none of them for nobody."""

    async def story() -> None:
        one = fleet(ip_limit=limit)
        assert passed(await one.ask(1000, every_s=every_s)) == 1000
        assert 3 <= one.store.calls <= most_calls
        assert one.store.requests == one.store.calls

    run(story())


def test_a_crowd_of_hot_clients_costs_few_calls_each() -> None:
    """A hundred clients at once, each a thousand requests."""

    async def story() -> None:
        one = fleet(ip_limit="100000/minute")
        peers = [f"198.18.0.{number}" for number in range(100)]
        decisions = await asyncio.gather(*(one.ask(1000, every_s=0.001, peer=peer) for peer in peers))
        assert sum(map(passed, decisions)) == 100_000
        assert one.store.requests <= 100 * 20
        assert one.store.calls <= 100

    run(story())


@pytest.mark.parametrize("every_s", [0.100001, 0.15, 1.0])
def test_a_cold_client_is_never_charged_ahead(every_s: float) -> None:
    """Whoever asks less often than each tenth of a second is charged for what it asks, and nothing else."""

    async def story() -> None:
        one = fleet(ip_limit=SLOW)
        await one.start()
        await one.ask(100, every_s=every_s)
        assert (one.store.calls, one.inner.asked_ahead, one.inner.leased) == (100, 0, 0)
        assert one.store.calls_to_give_back == 0
        await one.stop()

    run(story())


def test_a_flood_of_clients_that_come_once_is_never_charged_ahead() -> None:
    """However many they are."""

    async def story() -> None:
        one = fleet(ip_limit=SLOW)
        for number in range(2000):
            await one.ask(peer=f"198.18.{number // 250}.{number % 250}")
        assert one.inner.asked_ahead == 0

    run(story())


# --- what they must not do --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_no_more_is_spent_than_the_bucket_holds(seed: int) -> None:
    """Four workers, bursts and pauses at random, a store that lags or fails: burst + rate * D in every window."""
    chance = random.Random(seed)
    limit, burst = chance.choice([("100/second", 100), ("50/second", 400), ("1000/minute", 64), ("7/second", 16)])
    [bucket] = parse_limits(limit, name="ip", burst=burst)
    times_us: list[int] = []

    async def client(one: Fleet, number: int) -> None:
        for _ in range(chance.randrange(300, 600)):
            began_us = round(loop_time() * 1e6)
            (decision,) = await one.ask(worker=number)
            # Spent at some moment in between: the window from began to now holds it.
            if not decision.refused:
                times_us.append(began_us)
            await pass_time(chance.choice([0, 0, 0, 0, 0.001, 0.003, 0.02, 0.3]))

    async def story() -> None:
        one = fleet(4, ahead_us=chance.randrange(10**9), ip_limit=limit, ip_burst=burst, on_redis_failure="closed")
        one.store.lags = True
        await one.start()
        await asyncio.gather(*(client(one, number % 4) for number in range(6)))
        await one.stop()
        assert one.inner.leased > (100 if burst >= 100 else -1)

    run(story())
    times_us.sort()
    assert len(times_us) > burst
    for first, start_us in enumerate(times_us):
        for last in range(first + burst, len(times_us)):
            span_us = times_us[last] - start_us
            assert last - first + 1 <= burst + span_us // bucket.unit_us, f"{last - first + 1} units in {span_us} us"


@pytest.mark.parametrize("seed", range(6))
def test_what_is_left_is_back_after_a_second(seed: int) -> None:
    """However a worker's client stops: its bucket is then exactly where it would be without leases."""
    chance = random.Random(seed)

    async def story() -> None:
        one = fleet(ip_limit=SLOW)
        await one.start()
        spent = 0
        for _ in range(5):
            times = chance.randrange(1, 700)
            spent += passed(await one.ask(times, every_s=chance.choice([0, 0.0001, 0.01, 0.09])))
            stopped_s = loop_time()
            while open_leases(one.workers[0]):
                await pass_time(0.01)
            assert loop_time() - stopped_s <= 1
            refilled = 1 + round(loop_time() - loop_start) / 8.64
            assert spent - refilled <= one.used_units <= spent
        assert one.inner.leased > 100
        assert one.inner.given_back_us > 0
        await one.stop()

    loop_start = 86_400.0
    run(story())


def test_stopping_gives_everything_back() -> None:
    """A worker that ends leaves its clients' buckets as they truly are."""

    async def story() -> None:
        one = fleet(ip_limit=SLOW)
        await one.start()
        peers = [f"198.18.{number // 250}.{number % 250}" for number in range(600)]
        for peer in peers:
            await one.ask(4, peer=peer)
        assert open_leases(one.workers[0]) == 600
        await one.stop()
        assert open_leases(one.workers[0]) == 0
        now_us = one.inner.now_us()
        assert [-(-(tat_us - now_us) // SLOW_LIMIT.unit_us) for tat_us in one.inner.tats_us.values()] == [4] * 600
        assert one.store.calls_to_give_back == 3

    run(story())


def test_stopping_without_the_store_ends() -> None:
    """What cannot be given back comes back by itself."""

    async def story() -> None:
        one = fleet(ip_limit=SLOW)
        await one.start()
        await one.ask(20)
        one.store.failing = AWAY
        await one.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(story())


def test_one_request_at_a_time_asks_for_a_lease() -> None:
    """Fifty requests of a hot client at once: one asks ahead, the others for themselves, and all pass."""

    async def story() -> None:
        one = fleet(ip_limit=SLOW)
        await one.ask(COLD)
        one.store.held = asyncio.Event()
        waiting = [asyncio.create_task(one.workers[0].gate.decide(facts())) for _ in range(50)]
        await yield_often()
        assert one.store.under_way == 1
        one.store.held.set()
        assert passed(list(await asyncio.gather(*waiting))) == 50
        assert (one.inner.asked_ahead, one.store.requests) == (1, 50 + COLD)
        assert open_leases(one.workers[0]) == 1

    run(story())


@pytest.mark.parametrize("when", ["before the store has decided", "after it"])
def test_a_request_that_goes_away_leaves_its_lease_to_the_others(when: str) -> None:
    """What was charged ahead for it is spent by those that follow, without a call."""

    async def story() -> None:
        one = fleet(ip_limit=SLOW)
        await one.ask(COLD)
        held = asyncio.Event()
        if when == "after it":
            one.store.answer_held = held
        else:
            one.store.held = held
        requests = asyncio.create_task(one.workers[0].gate.decide(facts()))
        await yield_often()
        requests.cancel()
        await asyncio.gather(requests, return_exceptions=True)
        assert requests.cancelled()
        held.set()
        one.store.held = one.store.answer_held = None
        await yield_often()
        assert (one.inner.asked_ahead, open_leases(one.workers[0])) == (1, 1)
        calls = one.store.calls
        assert passed(await one.ask(8)) == 8
        assert one.store.calls == calls

    run(story())


@pytest.mark.parametrize("seed", range(3))
def test_ten_thousand_who_go_away_lose_nothing_for_the_others(seed: int) -> None:
    """At the end the bucket holds one unit for each that was decided, and none for a lease."""
    chance = random.Random(seed)

    async def story() -> None:
        one = fleet(ip_limit="1000000/day")
        await one.start()
        one.store.lags = True
        tasks: list[asyncio.Task[Decision]] = []
        gone = 0
        while gone < 10_000:
            tasks.append(asyncio.create_task(one.workers[0].gate.decide(facts())))
            if chance.random() < 0.3:
                await yield_often(chance.randrange(4))
            if chance.random() < 0.9:
                gone += tasks[-chance.randrange(min(len(tasks), 9)) - 1].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        stayed = sum(isinstance(result, Decision) for result in results)
        assert len(tasks) - stayed > 5000
        await pass_time(1.0)
        assert open_leases(one.workers[0]) == 0
        used = -(-(one.inner.tats_us[BUCKET] - one.inner.now_us()) // 86_400)
        assert stayed - 12 <= used <= len(tasks)
        assert one.inner.leased > 5000
        await one.stop()

    run(story())


# --- forgetting -------------------------------------------------------------------------------------


def test_forgetting_drops_leases_and_gives_nothing_back() -> None:
    """The bucket was made full again: nothing of the lease is in it any more."""

    async def story() -> None:
        one = fleet(ip_limit=SLOW)
        await one.start()
        await one.ask(5)
        assert open_leases(one.workers[0]) == 1
        await one.inner.refill(IP, ["ip"])
        one.workers[0].gate._limiter.invalidate()
        assert open_leases(one.workers[0]) == 0
        await pass_time(2)
        assert one.store.calls_to_give_back == 0
        calls = one.store.calls
        await one.ask()
        assert one.store.calls == calls + 1
        await one.stop()
        assert -(-one.used_units // 1) == 1

    run(story())


@pytest.mark.parametrize("when", ["before the store has decided", "after it"])
def test_a_lease_under_way_when_all_is_forgotten_is_dropped(when: str) -> None:
    """Whether it was charged before or after the reset is not known: it is neither spent nor given back."""

    async def story() -> None:
        one = fleet(ip_limit=SLOW)
        await one.start()
        await one.ask(COLD)
        held = asyncio.Event()
        if when == "after it":
            one.store.answer_held = held
        else:
            one.store.held = held
        requests = asyncio.create_task(one.workers[0].gate.decide(facts()))
        await yield_often()
        await one.inner.refill(IP, ["ip"])
        one.workers[0].gate._limiter.invalidate()
        held.set()
        assert not (await requests).refused
        one.store.held = one.store.answer_held = None
        assert open_leases(one.workers[0]) == 0
        await pass_time(2)
        assert one.store.calls_to_give_back == 0
        await one.ask(2)
        assert open_leases(one.workers[0]) == 1
        await one.stop()

    run(story())


def test_a_lease_given_back_after_a_reset_fills_nothing() -> None:
    """A worker that has not heard yet gives back to a bucket that is another by now: it stays as it is."""

    async def story() -> None:
        one = fleet(2, ip_limit=SLOW)
        await one.ask(5)
        await one.inner.refill(IP, ["ip"])
        await one.ask(2000, worker=1)
        used = one.used_units
        await one.workers[0].stop()
        assert one.store.calls_to_give_back == 1
        assert one.used_units == used

    run(story())


# --- without the store ------------------------------------------------------------------------------


def test_without_the_store_leases_are_spent_and_then_local_buckets() -> None:
    """What was charged ahead is good for that many requests, without a call; the burst holds all the same."""

    async def story() -> None:
        one = fleet(ip_limit="1000/day")
        await one.ask(COLD + 1)
        leased, calls = one.inner.leased, one.store.calls
        assert leased >= 8
        one.store.failing = AWAY
        assert passed(await one.ask(leased)) == leased
        assert one.store.calls == calls
        rest = await one.ask(2000)
        assert {decision.reason for decision in rest} == {Reason.WITHIN_LIMITS, Reason.QUOTA}
        assert 1000 - leased <= passed(rest) + leased + COLD + 1 <= 1000
        assert one.store.calls > calls

    run(story())


@pytest.mark.parametrize(("on_failure", "reason"), [("open", Reason.STORE_OPEN), ("closed", Reason.STORE_CLOSED)])
def test_open_and_closed_hold_once_the_lease_is_spent(on_failure: str, reason: Reason) -> None:
    """Not one request sooner: what is leased was granted."""

    async def story() -> None:
        one = fleet(ip_limit=SLOW, on_redis_failure=on_failure)
        await one.ask(COLD + 1)
        one.store.failing = AWAY
        decisions = await one.ask(one.inner.leased + 3)
        reasons = [decision.reason for decision in decisions]
        assert reasons == [Reason.WITHIN_LIMITS] * one.inner.leased + [reason] * 3

    run(story())


def test_a_failed_ask_for_a_lease_is_asked_again() -> None:
    """Once the store answers the client is hot and charged ahead as before."""

    async def story() -> None:
        one = fleet(ip_limit=SLOW, on_redis_failure="open")
        await one.ask(COLD)
        one.store.failing = AWAY
        await one.ask(2)
        one.store.failing = None
        await one.ask(2)
        assert open_leases(one.workers[0]) == 1

    run(story())


# --- bounds -----------------------------------------------------------------------------------------


def requesters() -> Iterator[Requester]:
    """Clients without end."""
    plan = plan_of(Term(Party.ADDRESS, SLOW_LIMIT))
    for number in count():
        yield requester_at(plan, nth_address(number))


def prefetch_of(leases: Leases, requester: Requester, now_us: int) -> int:
    """How much a client would have ahead."""
    return leases.prefetch(requester, requester.charges(), now_us)


def hot(leases: Leases, requester: Requester, now_us: int) -> int:
    """The same of one that asks for the second time."""
    prefetch_of(leases, requester, now_us)
    return prefetch_of(leases, requester, now_us + 1)


def leased(requester: Requester, prefetch: int, now_us: int) -> TakeReply:
    """A store's answer that grants it."""
    charges = requester.charges()
    return TakeReply(charges, take([None] * len(charges), TakeRequest(charges, prefetch), now_us), now_us)


def test_no_more_than_so_many_clients_are_charged_ahead() -> None:
    """The others ask for each request, until somebody's lease has ended."""
    clock = FakeClock()
    leases = Leases(LeasingStore(clock).give_back, most=10, clock=clock_of(clock.s))

    async def story() -> None:
        for number, requester in zip(range(50), requesters(), strict=False):
            prefetch = hot(leases, requester, clock.us())
            assert (prefetch > 0) == (number < 10)
            if prefetch:
                leases.answered(requester.key, leased(requester, prefetch, clock.us()))
        assert len(leases.open) == 10
        clock.now_s += 1
        await leases.sweep()
        assert len(leases.open) == 0
        assert hot(leases, next(requesters()), clock.us())

    run(story())


def test_no_more_than_so_many_clients_are_charged_ahead_at_once() -> None:
    """Also where many ask for their first lease while nobody has one yet."""
    clock = FakeClock()
    leases = Leases(LeasingStore(clock).give_back, most=10, clock=clock_of(clock.s))
    asking = [
        (requester, hot(leases, requester, clock.us())) for _, requester in zip(range(50), requesters(), strict=False)
    ]
    for requester, prefetch in asking:
        if prefetch:
            leases.answered(requester.key, leased(requester, prefetch, clock.us()))
    assert len(leases.open) == 10


def test_a_lease_grows_while_it_is_used_up_at_once_and_shrinks_where_it_is_not() -> None:
    """8, 16, … up to 1,024 as long as each is spent within a tenth of a second; halved by each that is swept."""
    clock = FakeClock()
    leases = Leases(LeasingStore(clock).give_back, clock=clock_of(clock.s))
    requester = requester_at(plan_of(Term(Party.ADDRESS, Limit("ip", 1, 60, 10**6))))

    async def story() -> None:
        asked = [hot(leases, requester, clock.us())]
        for _ in range(10):
            leases.answered(requester.key, leased(requester, asked[-1], clock.us()))
            while leases.open[requester.key].spend(clock.us()) is not None:
                pass
            leases.exhausted(requester.key, clock.us())
            clock.now_s += 0.09
            asked.append(prefetch_of(leases, requester, clock.us()))
        assert asked == [8, 16, 32, 64, 128, 256, 512, 1024, 1024, 1024, 1024]
        leases.answered(requester.key, leased(requester, asked[-1], clock.us()))
        clock.now_s += 0.6
        await leases.sweep()
        assert (hot(leases, requester, clock.us()), len(leases.open)) == (8, 0)

    run(story())


def test_a_slow_limit_beside_a_fast_one_is_not_charged_ahead() -> None:
    """A fast bucket would end the lease early, and the slow one would have paid for what was never spent."""

    async def story() -> None:
        one = fleet(ip_limit="1000/second; 100000/day")
        await one.start()
        spent = 0
        for _ in range(100):
            spent += passed(await one.ask(2, every_s=0.05))
            await pass_time(0.15)
        await one.stop()
        used_us = one.inner.tats_us[f"ip-2 {IP}"] - one.inner.now_us()
        assert spent == 200
        assert used_us <= 200 * 864_000

    run(story())


def test_what_a_worker_charges_behind_its_lease_loses_nothing() -> None:
    """While one request asks ahead another asks for itself: a second later nothing of the lease is missing."""

    async def story() -> None:
        one = fleet(ip_limit=SLOW)
        await one.start()
        await one.ask(COLD)
        one.store.held = asyncio.Event()
        asks_ahead = asyncio.create_task(one.ask())
        await yield_often()
        asks_alone = asyncio.create_task(one.ask())
        await yield_often()
        one.store.held.set()
        await asyncio.gather(asks_ahead, asks_alone)
        await pass_time(2)
        await one.stop()
        assert -(-one.used_units // 1) == COLD + 2

    run(story())


def test_what_fifty_charge_at_once_behind_a_lease_loses_nothing() -> None:
    """The same of many requests at once, some of which find the lease open and spend it."""

    async def story() -> None:
        one = fleet(ip_limit=SLOW)
        await one.start()
        one.store.lags = True
        await one.ask(COLD)
        tasks = []
        for _ in range(50):
            tasks.append(asyncio.create_task(one.ask()))
            await yield_often(1)
        await asyncio.gather(*tasks)
        assert one.inner.leased > 0
        await pass_time(2)
        await one.stop()
        assert -(-one.used_units // 1) == COLD + 50

    run(story())


def test_what_is_charged_behind_another_workers_charge_keeps_the_lease() -> None:
    """Another worker that charges between a lease and the same client's next ask may have leased: nothing goes back."""

    async def story() -> None:
        one = fleet(2, ip_limit=SLOW)
        await one.start()
        await one.ask(COLD)
        one.store.held = asyncio.Event()
        tasks = []
        for number in (0, 1, 0):
            tasks.append(asyncio.create_task(one.ask(worker=number)))
            await yield_often()
        one.store.held.set()
        await asyncio.gather(*tasks)
        await pass_time(2)
        await one.stop()
        assert one.inner.given_back_us == 0
        assert -(-one.used_units // 1) == COLD + 3 + one.inner.leased

    run(story())


def test_nobody_is_told_of_what_was_charged_ahead() -> None:
    """One unit less with each request, whether it asked, asked ahead or spent a lease."""

    async def story() -> None:
        one = fleet(ip_limit=SLOW)
        decisions = await one.ask(40)
        assert one.inner.leased > 20
        assert [decision.statuses[0].remaining for decision in decisions] == list(range(9_999, 9_959, -1))

    run(story())


def test_requests_at_once_are_not_told_of_what_was_charged_ahead_either() -> None:
    """Those that share a call with the one that asks ahead are decided before it."""

    async def story() -> None:
        one = fleet(ip_limit=SLOW)
        decisions = await at_once(lambda _: one.workers[0].gate.decide(facts()), 40)
        assert one.inner.leased > 5
        assert {decision.statuses[0].remaining for decision in decisions} == set(range(9_960, 10_000))

    run(story())


@pytest.mark.parametrize(("limit", "first", "rest"), [(100, 0, 100), (100, 3, 97), (100, 10, 90), (1000, 0, 1000)])
def test_a_burst_at_once_passes_whole(limit: int, first: int, rest: int) -> None:
    """Whether the rest ask with the one that asks ahead, or behind its call: what it holds is not missing to them."""

    async def story() -> None:
        one = fleet(ip_limit=f"{limit}/day")
        one.store.held = asyncio.Event()
        tasks = [asyncio.create_task(one.ask()) for _ in range(first)]
        await yield_often()
        tasks += [asyncio.create_task(one.ask()) for _ in range(rest)]
        await yield_often()
        one.store.held.set()
        assert sum([passed(await task) for task in tasks]) == limit
        assert passed(await one.ask(20)) == 0

    run(story())


def test_decisions_at_once_on_one_lease_are_each_counted() -> None:
    """A lease of so many units is good for so many requests, whoever spends them."""

    async def story() -> None:
        one = fleet(ip_limit=SLOW)
        await one.ask(COLD + 1)
        units, calls = one.inner.leased, one.store.calls
        await at_once(lambda _: one.workers[0].gate.decide(facts()), units)
        assert one.store.calls == calls
        await one.ask()
        assert one.store.calls == calls + 1

    run(story())
