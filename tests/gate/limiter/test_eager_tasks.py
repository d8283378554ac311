"""Eager tasks (`asyncio.eager_task_factory` of Python 3.12): a call may end before its maker has its task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from gate.doubles import FlakyStore, LeasingStore, LoopClock, clock_of, run
from shieldmw.core.bucket import Charge, Outcome, TakeRequest
from shieldmw.core.client import Client, shared_client
from shieldmw.core.debts import Debt
from shieldmw.core.decision import OnStoreFailure
from shieldmw.core.limits import Limit
from shieldmw.core.plan import Requester
from shieldmw.errors import StoreError, StoreUnavailable
from shieldmw.gate.limiter.batch import Batch, TakeReply
from shieldmw.gate.limiter.breaker_store import BreakerStore
from shieldmw.gate.limiter.fallback import SETTLE_AGAIN_S, Fallback
from shieldmw.gate.limiter.pool import Pool
from shieldmw.store.memory import WarmBuckets

AWAY = StoreUnavailable("away")
LIMIT = Limit("all", 1, 1, 1000)
OWN = Charge(Client("ip", "203.0.113.7/32", "ip:203.0.113.7/32"), LIMIT)
SHARED = Charge(shared_client("everyone", "all"), LIMIT)


class Ended(asyncio.Future[Any]):
    """A task that has ended before its maker got it."""

    def set_name(self, name: str) -> None:
        """Tasks have names."""


def eager(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **_: Any) -> Ended:
    """What becomes of work that never waits."""
    task = Ended(loop=loop)
    try:
        work.send(None)
    except StopIteration:
        task.set_result(None)
        return task
    raise AssertionError("it waits")


def run_eagerly(story: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine, whose tasks are eager."""

    async def with_factory() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(eager)  # type: ignore[arg-type]
        try:
            await story()
        finally:
            loop.set_task_factory(None)

    run(with_factory())


def _answered(requester: Requester | None, request: TakeRequest, outcome: Outcome, sent_us: int) -> TakeReply:
    return TakeReply(request.charges, outcome, sent_us)


def test_calls_for_charges() -> None:
    """Whether one failed or not, those who ask later are answered as well."""

    async def story() -> None:
        clock = LoopClock()
        store = FlakyStore(LeasingStore(clock))
        batch = Batch(store, _answered, lambda *_: None, clock_of(clock.s))
        for failing in (None, AWAY, None):
            store.failing = failing
            assert (batch.take(None, TakeRequest((OWN,))).result() is None) is (failing is not None)

    run_eagerly(story)


def fallback_of(clock: LoopClock, settled: list[Debt]) -> Fallback:
    """A fallback whose debts are charged once more than one is owed."""

    async def settle(debts: Sequence[Debt], now_us: int, name: str) -> Sequence[Debt]:
        settled.extend(debts)
        if len(settled) == 1:
            raise StoreError("away")
        return ()

    local = WarmBuckets(most_buckets=16, now_us=clock.us)
    return Fallback(OnStoreFailure.LOCAL, local, lambda: 1, settle, clock_of(clock.s))


def test_calls_for_portions() -> None:
    """Requests that wait for a later one are answered as well."""

    async def story() -> None:
        clock = LoopClock()
        store = FlakyStore(LeasingStore(clock))
        breaker_store = BreakerStore(store, OnStoreFailure.LOCAL, clock_of(clock.s))
        pool = Pool(SHARED, breaker_store, fallback_of(clock, []), lambda: 1, clock_of(clock.s))
        for failing in (AWAY, None):
            store.failing = failing
            reply = await pool.take(SHARED._replace(cost=100))
            assert reply is not None
            assert reply.outcome.allowed

    run_eagerly(story)


def test_debts() -> None:
    """What could not be charged is charged later."""

    async def story() -> None:
        clock, settled = LoopClock(), list[Debt]()
        fallback = fallback_of(clock, settled)
        assert fallback.take_now((OWN,)) is not None
        fallback.pay()
        asyncio.get_running_loop().now_s += 2 * SETTLE_AGAIN_S  # type: ignore[attr-defined]
        fallback.pay()
        assert len(settled) == 2

    run_eagerly(story)
