"""A call in which only some requests fail: each gets its own result."""

from __future__ import annotations

import asyncio

from gate.doubles import FakeClock, PartlyAway, memory_store, run
from gate.limiter.test_batch import answered, failed
from shieldmw.core.bucket import Charge, TakeRequest
from shieldmw.core.client import Client
from shieldmw.core.limits import Limit
from shieldmw.gate.limiter.batch import Batch


def test_those_who_fail_take_nobody_along() -> None:
    """Outcomes go to the requests that they belong to, and the next call is made as ever."""
    store = PartlyAway(memory_store(FakeClock()), away_for=("1", "3", "5"))
    limit = Limit("ip", 1, 86_400, 100)

    async def work() -> None:
        batch = Batch(store, answered, failed)
        for _ in range(2):
            requests = [TakeRequest((Charge(Client("ip", str(number), f"ip:{number}"), limit),)) for number in range(6)]
            told = await asyncio.gather(*(batch.take(None, ask) for ask in requests))
            assert [each is None for each in told] == [False, True] * 3
        assert store.calls == 2
        await batch.aclose()

    run(work())
