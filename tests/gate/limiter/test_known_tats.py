"""Refusals without a call: none is wrong, none is missed, and none outlives a reset.

The truth is a bucket of the reference; what a worker remembers of it may be late, out of order and told by a clock
that shows something else.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.doubles import (
    FakeClock,
    FlakyStore,
    LeasingStore,
    LoopClock,
    WorkerParts,
    at_once,
    facts,
    memory_store,
    nth_address,
    pass_time,
    plan_of,
    requester_at,
    run,
    worker,
    yield_often,
)
from shieldmw.core.bucket import FAR_BELIEVED_US, Charges, Outcome, Party, TakeRequest, Term, take
from shieldmw.core.client import Client
from shieldmw.core.decision import Decision, Reason, Verdict
from shieldmw.core.limits import Limit
from shieldmw.core.plan import Requester
from shieldmw.core.refusal_cache import LONGEST_GRAIN_US
from shieldmw.errors import StoreUnavailable
from shieldmw.gate.limiter.known_tats import KnownTats

IP = Client("ip", "203.0.113.7/32", "ip:203.0.113.7/32")
S = 1_000_000
START_US = 10**12

# Three buckets that fill at different speeds; costs up to more than a burst.
LIMITS = (Limit("a", 1, 1, 5), Limit("b", 10, 1, 7), Limit("c", 1, 60, 3))

relaxed = settings(deadline=None, max_examples=400)


def asking(costs: tuple[int | None, ...]) -> Requester:
    """A client that is charged each limit that has a cost."""
    found = zip(LIMITS, costs, strict=True)
    return requester_at(plan_of(*(Term(Party.ADDRESS, limit, cost) for limit, cost in found if cost is not None)))


@dataclass
class World:
    """A store's buckets, the true time, and one worker whose clock shows so much more or less."""

    worker_ahead_us: int
    now_us: int = START_US
    tats_us: dict[str, int] = field(default_factory=dict)
    refusals: KnownTats = field(default_factory=KnownTats)
    under_way: list[tuple[Requester, Outcome, int]] = field(default_factory=list)
    answered: int = 0

    @property
    def ticks_us(self) -> int:
        """What the worker's clock shows."""
        return self.now_us + self.worker_ahead_us

    def _decide(self, charges: Charges) -> Outcome:
        return take([self.tats_us.get(charge.bucket) for charge in charges], TakeRequest(charges), self.now_us)

    def _charge(self, charges: Charges) -> Outcome:
        outcome = self._decide(charges)
        if outcome.allowed:
            tats_us = zip(charges, outcome.tats_us, strict=True)
            self.tats_us |= {charge.bucket: tat_us for charge, tat_us in tats_us if charge.cost}
        return outcome

    def ask(self, costs: tuple[int | None, ...], way_us: int) -> None:
        """A request: answered by what is known, else by the store, whose word comes when it ``arrives``."""
        requester = asking(costs)
        charges = requester.charges()
        known = self.refusals.find(requester, self.ticks_us)
        if known is not None:
            self.answered += 1
            true = self._decide(charges)
            assert not true.allowed, "a false refusal"
            assert all(
                tat_us - known.now_us <= true_us - true.now_us or true_us == true.now_us
                for tat_us, true_us in zip(known.tats_us, true.tats_us, strict=True)
            ), "a wait longer than the true one"
            return
        sent_us = self.ticks_us
        self.now_us += way_us
        outcome = self._charge(charges)
        if not outcome.allowed:
            self.under_way.append((requester, outcome, sent_us))

    def other(self, costs: tuple[int | None, ...]) -> None:
        """A request on another worker."""
        self._charge(asking(costs).charges())

    def arrive(self, which: int) -> None:
        """One of the store's refusals is told."""
        if self.under_way:
            self.refusals.remember(*self.under_way.pop(which % len(self.under_way)))

    def wait(self, us: int) -> None:
        """Time goes by."""
        self.now_us += us

    def reset(self) -> None:
        """An operator makes the buckets full again: what is known and what is under way holds no longer."""
        self.tats_us.clear()
        self.under_way.clear()
        self.refusals.clear()


COSTS = st.tuples(*[st.one_of(st.none(), st.sampled_from([0, 1, 1, 2, limit.burst, 9])) for limit in LIMITS])
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.tuples(COSTS.filter(any), st.sampled_from([0, 0, 1, 700, 400_000]))),
        st.tuples(st.just("other"), st.tuples(COSTS.filter(any))),
        st.tuples(st.just("arrive"), st.tuples(st.integers(0, 3))),
        st.tuples(st.just("arrive"), st.tuples(st.integers(0, 3))),
        st.tuples(st.just("wait"), st.tuples(st.sampled_from([0, 1, 99_999, 100_000, S - 1, S, S + 1, 30 * S]))),
        st.tuples(st.just("reset"), st.just(())),
    ),
    max_size=40,
)


@relaxed
@given(EVENTS, st.sampled_from([0, 5 * S, -START_US + 1, 10**15]))
def test_no_refusal_is_false_whatever_is_told_when(events: list[tuple[str, tuple[int, ...]]], ahead_us: int) -> None:
    """Several limits, costs of 0 up to more than a burst, words that come late or out of order, resets, other workers.

    So what is admitted is what the store admits, to the request.
    """
    world = World(ahead_us)
    for name, arguments in events:
        getattr(world, name)(*arguments)


def _within(limit: Limit, cost: int | None) -> int | None:
    """A cost that the gate charges: none is above the burst."""
    return None if cost is None else min(cost, limit.burst)


@relaxed
@given(COSTS.filter(any), COSTS.filter(any), st.integers(0, 8), st.integers(0, 100 * S))
def test_what_was_told_at_once_is_the_whole_truth(
    costs: tuple[int | None, ...], again: tuple[int | None, ...], taken: int, later_us: int
) -> None:
    """Refused exactly as long as the store refuses, to the microsecond, at any cost of the same buckets."""
    world = World(5 * S)
    for _ in range(taken):
        world.other((1, 1, 1))
    costs, again = (tuple(map(_within, LIMITS, some)) for some in (costs, again))
    requester = asking(costs)
    charges = requester.charges()
    refused = world._charge(charges)
    if refused.allowed:
        return
    world.refusals.remember(requester, refused, world.ticks_us)
    waits_us = [
        tat_us - refused.now_us + charge.step_us - charge.limit.tau_us
        for charge, tat_us in zip(charges, refused.tats_us, strict=True)
    ]
    same = tuple(None if cost is None else more for cost, more in zip(costs, again, strict=True))
    for wait_us in (0, later_us, max([0, *waits_us]), max([1, *waits_us]) - 1):
        world.now_us = refused.now_us + wait_us
        for asked in (requester, asking(same)):
            known = world.refusals.find(asked, world.ticks_us)
            assert (known is None) == world._decide(asked.charges()).allowed


def test_a_flood_of_clients_leaves_no_more_than_so_many() -> None:
    """Memory is bounded whoever is refused, and those who were refused last are known."""
    refusals = KnownTats(most_buckets=100)
    limit = Limit("ip", 1, 60, 1)
    plan = plan_of(Term(Party.ADDRESS, limit))
    for number in range(10_000):
        requester = requester_at(plan, nth_address(number))
        refusals.remember(requester, Outcome(False, START_US, (START_US + limit.tau_us,)), 0)
        assert len(refusals) <= 100
        assert refusals.find(requester, 0) is not None
    assert len(refusals) >= 50
    refusals.clear()
    assert len(refusals) == 0
    assert refusals.find(requester, 0) is None


# --- through the gate -------------------------------------------------------------------------------


def make(**values: Any) -> tuple[WorkerParts, FlakyStore]:
    """A worker far from its store; time passes as timers do."""
    clock = LoopClock()
    store = FlakyStore(LeasingStore(clock, ahead_us=12_345_678))
    return worker(store, clock, **values), store


async def decide(one: WorkerParts, count: int = 1, peer: str = "203.0.113.7") -> list[Decision]:
    """Decisions one after the other."""
    return [await one.gate.decide(facts(peer=peer)) for _ in range(count)]


def test_a_client_refused_again_costs_no_call_and_one_after_its_wait() -> None:
    """From the first refusal until the very microsecond at which a unit is back."""
    one, store = make(ip_limit="2/minute")

    async def story() -> None:
        first, second, refused = await decide(one, 3)
        assert [first.refused, second.refused, refused.refused] == [False, False, True]
        for _ in range(3):
            began, store.calls = one.clock.us(), 0
            again = refused
            while again.refused and one.clock.us() - began < 29_900_000:
                (again,) = await decide(one)
                assert began + refused.retry_after_us <= one.clock.us() + again.retry_after_us <= began + 30_300_000
                await pass_time(0.1)
            assert (again.refused, store.calls) == (True, 0)
            await pass_time((began + refused.retry_after_us - 1 - one.clock.us()) / 1e6)
            assert ((await decide(one))[0].refused, store.calls) == (True, 0)
            await pass_time(1e-6)
            assert ((await decide(one))[0].refused, store.calls) == (False, 1)
            (refused,) = await decide(one)
            assert refused.retry_after_us == 30_000_000

    run(story())


def test_a_unit_that_another_worker_took_costs_one_call() -> None:
    """After the wait the store is asked once; its new refusal is good for the whole next wait."""
    clock = FakeClock()
    fleet = memory_store(clock)
    store = FlakyStore(fleet)
    one, other = worker(store, clock, ip_limit="2/minute"), worker(fleet, clock, ip_limit="2/minute")

    async def story() -> None:
        await decide(one, 3)
        clock.now_s += 30
        assert not (await decide(other))[0].refused
        store.calls = 0
        for _ in range(299):
            assert (await decide(one))[0].refused
            clock.now_s += 0.1
        assert store.calls == 1

    run(story())


def test_a_client_that_used_up_a_longer_limit_is_told_the_whole_wait_at_once() -> None:
    """A deploy has shortened the limit: the client is told that wait, costs a call a minute, and then passes."""
    clock = FakeClock()
    fleet = memory_store(clock)
    store = FlakyStore(fleet)
    old, new = worker(fleet, clock, ip_limit="1000/hour"), worker(store, clock, ip_limit="10/second")

    async def story() -> None:
        await decide(old, 500)
        (refused,) = await decide(new)
        wait_us = refused.retry_after_us
        assert wait_us == 500 * 3_600_000 - 900_000
        for second in range(0, 1700, 17):
            (again,) = await decide(new)
            assert 0 <= again.retry_after_us - (wait_us - second * S) < LONGEST_GRAIN_US
            clock.now_s += 17
        assert store.calls <= 1 + 1700 * S // FAR_BELIEVED_US
        clock.now_s += wait_us / S - 1700 - 0.001
        assert (await decide(new))[0].refused
        clock.now_s += 0.001
        assert not (await decide(new))[0].refused

    run(story())


@pytest.mark.parametrize("limits", ["2/minute", "2/minute,100/hour"])
def test_garbage_in_the_store_refuses_a_client_for_a_minute_after_it_is_gone(limits: str) -> None:
    """Without a reset. Until then it costs hardly a call."""
    clock = FakeClock()
    fleet = memory_store(clock)
    store = FlakyStore(fleet)
    one = worker(store, clock, ip_limit=limits)

    async def story() -> None:
        fleet._tats.put(f"ip {IP.kind}:{IP.text}", 9 * 10**15)
        for _ in range(100):
            assert (await decide(one))[0].refused
            clock.now_s += 2
        assert store.calls <= 1 + 200 * S // FAR_BELIEVED_US
        fleet.clear()
        clock.now_s += FAR_BELIEVED_US / S
        assert [decision.refused for decision in await decide(one, 3)] == [False, False, True]
        store.calls = 0
        assert (await decide(one))[0].refused
        assert store.calls == 0, "its own refusal is remembered in the place of the garbage"

    run(story())


def test_a_crowd_of_refused_clients_costs_one_ask_each() -> None:
    """A thousand clients, each refused a hundred times at once."""
    one, store = make(ip_limit="1/hour")

    async def story() -> None:
        peers = [f"198.18.{number // 250}.{number % 250}" for number in range(1000)]
        await asyncio.gather(*(decide(one, 2, peer) for peer in peers))
        store.requests = store.calls = 0
        decisions = await at_once(lambda number: one.gate.decide(facts(peer=peers[number % 1000])), 100_000)
        assert {decision.reason for decision in decisions} == {Reason.QUOTA}
        assert (store.calls, store.requests) == (0, 0)

    run(story())


@pytest.mark.parametrize("leases", ["on", "off"])
def test_a_refusal_under_way_when_all_is_forgotten_is_not_remembered(leases: str) -> None:
    """Whoever was refused before an operator's reset asks the store after it, and passes."""
    one, store = make(ip_limit="2/minute", leases=leases)

    async def story() -> None:
        await decide(one, 2)
        store.answer_held = asyncio.Event()
        refused = asyncio.create_task(one.gate.decide(facts()))
        await yield_often()
        await store.inner.refill(IP, ["ip"])
        await pass_time(0.001)
        one.gate._limiter.invalidate()
        store.answer_held.set()
        assert (await refused).verdict is Verdict.REFUSED
        store.answer_held = None
        assert len(one.limiter._known_tats) == 0
        store.calls = 0
        (after,) = await decide(one)
        assert (after.verdict, store.calls) == (Verdict.ALLOWED, 1)

    run(story())


def test_a_refusal_under_way_when_all_is_forgotten_is_not_held_against_anybody_without_the_store() -> None:
    """The store goes away right after an operator's reset: the client has its share of a full bucket."""
    one, store = make(ip_limit="2/day")

    async def story() -> None:
        await decide(one, 2)
        store.answer_held = asyncio.Event()
        refused = asyncio.create_task(one.gate.decide(facts()))
        await yield_often()
        await store.inner.refill(IP, ["ip"])
        await pass_time(0.001)
        one.gate._limiter.invalidate()
        store.answer_held.set()
        assert (await refused).verdict is Verdict.REFUSED
        store.failing = StoreUnavailable("away")
        assert [decision.refused for decision in await decide(one, 3)] == [False, False, True]

    run(story())
