"""A call that some of its asks failed: each is told its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from gate.doubles import FakeClock, FlakyStore, memory_store, run
from shieldmw.core.bucket import Ask, Charge, Outcome
from shieldmw.core.client import Client
from shieldmw.core.limits import Limit
from shieldmw.errors import StoreError, StoreUnavailable
from shieldmw.gate.batch import Batch, Told
from shieldmw.store.port import Store, TakenInPart


class HalfAway(FlakyStore):
    """A store half of which is away: clients with an odd number fail."""

    async def take(self, asks: Sequence[Ask]) -> Sequence[Outcome]:
        outcomes = await super().take(asks)
        results: list[Outcome | StoreError] = list(outcomes)
        for place, ask in enumerate(asks):
            if int(ask.charges[0].client.text) % 2:
                results[place] = StoreUnavailable("away")
        raise TakenInPart(results)


def test_those_who_fail_take_nobody_along() -> None:
    """Outcomes go to whom they belong, errors too, and the next call is made as ever."""
    store = HalfAway(memory_store(FakeClock()))
    limit = Limit("ip", 1, 86_400, 100)

    async def work() -> None:
        batch = Batch(cast(Store, store))
        for _ in range(2):
            asks = [Ask((Charge(Client("ip", str(number), f"ip:{number}"), limit),)) for number in range(6)]
            told = await asyncio.gather(*(batch.take(ask) for ask in asks), return_exceptions=True)
            assert [type(each) for each in told] == [Told, StoreUnavailable] * 3
        assert store.calls == 2
        await batch.aclose()

    run(work())
