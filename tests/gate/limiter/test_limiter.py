"""Batches, remembered refusals and leases decide exactly as buckets in this process would."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from gate.doubles import (
    CountingVerifier,
    FlakyStore,
    Heard,
    LeasingStore,
    LoopClock,
    clock_of,
    facts,
    pass_time,
    run,
    worker,
)
from shieldmw.core.bucket import Charge, TakeRequest, take
from shieldmw.core.client import Client
from shieldmw.core.decision import Decision
from shieldmw.core.limits import Limit, parse_limits
from shieldmw.gate.limiter.limiter import LocalLimiter
from shieldmw.store.memory import MemoryBuckets

LEASES = ("off", "on")

Step = tuple[float, str | None, str, int]


def trace(seed: int, clients: int, credentials: list[str | None]) -> list[Step]:
    """Requests at random: pauses, who asks with what, and how often in a row."""
    chance = random.Random(seed)
    pauses = [0, 0, 0.0001, 0.001, 0.004, 0.03, 0.09, 0.11, 0.4, 1.3, 7.0]
    steps = []
    for _ in range(600):
        peer = f"203.0.113.{chance.randrange(clients)}"
        times = chance.choice([1, 1, 1, 2, 8, 30])
        steps.append((chance.choice(pauses), chance.choice(credentials), peer, times))
    return steps


def play(steps: list[Step], *, plain: bool = False, **values: Any) -> tuple[list[Decision], FlakyStore]:
    """What one worker decides, one request after the other; ``plain``: by buckets that are at hand."""

    async def story() -> tuple[list[Decision], FlakyStore]:
        clock = LoopClock()
        store = FlakyStore(LeasingStore(clock, ahead_us=77_777_777))
        one = worker(store, clock, tokens=CountingVerifier(valid={"alice", "bob"}), **values)
        if plain:
            one.gate._limiter = LocalLimiter(MemoryBuckets(now_us=clock.us), clock_of(clock.s))
        await one.start()
        decisions = []
        for pause_s, credential, peer, times in steps:
            await pass_time(pause_s)
            for _ in range(times):
                decisions.append(await one.gate.decide(facts(credential, peer=peer)))
        await one.stop()
        return decisions, store

    return run(story())


def alike(decision: Decision, reference: Decision) -> bool:
    """The same to whoever is answered, the wait of a refusal too."""
    return (
        decision.verdict is reference.verdict
        and decision.reason is reference.reason
        and decision.identity == reference.identity
        and decision.violated == reference.violated
        and [level.remaining for level in decision.statuses] == [level.remaining for level in reference.statuses]
        and decision.retry_after_us == reference.retry_after_us
    )


@pytest.mark.parametrize(
    ("limit", "burst"), [("10/second", 50), ("100/minute", None), ("40/second; 500/minute", None), ("3/second", 3)]
)
@pytest.mark.parametrize("seed", range(3))
def test_every_way_is_the_same_way(seed: int, limit: str, burst: int | None) -> None:
    """Guests and members, hot and cold, at and far from the edge: batch and refusals change not a single decision.

    Nor do leases where the bucket is too small for any.
    """
    steps = trace(seed, 3, [None, None, "alice", "bob", "forged"])
    values: dict[str, Any] = {"ip_limit": limit, "token_limit": limit, "ip_burst": burst, "token_burst": burst}
    reference, _ = play(steps, plain=True, **values)
    assert 100 < sum(decision.refused for decision in reference) < len(reference) - 100
    for leases in LEASES if burst == 3 else LEASES[:1]:
        decisions, store = play(steps, leases=leases, **values)
        assert store.calls <= len(decisions)
        for number, (decision, expected) in enumerate(zip(decisions, reference, strict=True)):
            assert alike(decision, expected), f"leases {leases}, request {number}"


@pytest.mark.parametrize(
    ("limit", "burst"), [("10/second", 50), ("100/minute", None), ("200/minute", 150), ("5000/day", 500)]
)
@pytest.mark.parametrize("seed", range(3))
def test_leases_take_next_to_nothing_from_one_worker(seed: int, limit: str, burst: int | None) -> None:
    """All on or all off: as many pass, but for what is lost where a lease ends between two units; none too many."""
    steps = trace(seed, 2, [None])
    values: dict[str, Any] = {"ip_limit": limit, "ip_burst": burst}
    reference, _ = play(steps, plain=True, **values)
    decisions, store = play(steps, **values)
    without, passed = (sum(not decision.refused for decision in some) for some in (reference, decisions))
    assert 100 < without < len(reference) - 100
    assert 0.98 * without - 1 <= passed <= without
    assert store.requests < len(decisions)
    assert isinstance(store.inner, LeasingStore)
    assert store.inner.leased > 10


@pytest.mark.parametrize("leases", LEASES)
@pytest.mark.parametrize("seed", range(3))
def test_workers_together_let_pass_what_one_bucket_holds(seed: int, leases: str) -> None:
    """Three workers of one hot client: never more than burst + rate * D, and no less but for what leases hold."""
    [bucket] = parse_limits("200/second", name="ip", burst=600)

    async def story() -> None:
        chance = random.Random(seed)
        clock = LoopClock()
        store = FlakyStore(LeasingStore(clock, ahead_us=31_000_000))
        store.lags = True
        workers = [worker(store, clock, ip_limit="200/second", ip_burst=600, leases=leases) for _ in range(3)]
        for each in workers:
            await each.start()
        passed_us: list[int] = []

        async def client(number: int) -> None:
            for _ in range(600):
                began_us = clock.us()
                if not (await workers[number % 3].gate.decide(facts())).refused:
                    passed_us.append(began_us)
                await pass_time(chance.choice([0, 0.0004, 0.001, 0.02]))

        began_us = clock.us()
        await asyncio.gather(*(client(number) for number in range(9)))
        span_us = clock.us() - began_us
        most = bucket.burst + span_us // bucket.unit_us
        assert max_over(passed_us, bucket) <= 0
        # It was never full again in between: what is missing is what leases held when it ended, or lost.
        assert most - 3 * (bucket.burst // 8) <= len(passed_us) <= most
        for each in workers:
            await each.stop()

    run(story())


def max_over(times_us: list[int], limit: Limit) -> int:
    """By how much the fullest window goes beyond burst + rate * D; the reference bucket never refuses exactly then."""
    tat_us: int | None = None
    over = 0
    for at_us in sorted(times_us):
        outcome = take([tat_us], TakeRequest((Charge(Client("ip", "x", "x"), limit),)), at_us)
        over += not outcome.allowed
        tat_us = outcome.tats_us[0]
    return over


@pytest.mark.parametrize("leases", LEASES)
def test_each_refusal_is_announced_once_however_it_was_decided(leases: str) -> None:
    """By the store, or by what is known: one event for each."""

    async def story() -> None:
        clock = LoopClock()
        heard = Heard()
        store = FlakyStore(LeasingStore(clock))
        one = worker(store, clock, observers=[heard], ip_limit="100/hour", leases=leases)
        decisions = [await one.gate.decide(facts()) for _ in range(300)]
        assert [event.decision for event in heard.events] == [each for each in decisions if each.refused]
        assert sum(not decision.refused for decision in decisions) == 100

    run(story())
