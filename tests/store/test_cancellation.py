"""A cancelled request does not affect the replies of others."""

from __future__ import annotations

import asyncio
import random

import pytest

from servers import RedisServer
from shieldmw.core.bucket import Charge
from shieldmw.store.fleet import RedisStore
from shieldmw.store.keys import Keys
from store.stores import SECRET, all_keys, opened, run, slow_limit, someone, take

CANCELLED = 10_000
AT_ONCE = 100
UNITS = 20_000

# More turns of the loop than a take needs on a busy machine: some are cancelled late, or never.
MOST_TURNS = 60


async def take_own(store: RedisStore, number: int) -> bool:
    """Take as many units as the number from a bucket of one's own: another's reply has another TAT."""
    charge = Charge(someone(f"client {number}"), slow_limit(UNITS), number)
    outcome = await take(store, [charge])
    assert outcome.allowed
    assert outcome.tats_us == (outcome.now_us + number * charge.limit.unit_us,), f"{number} got another's reply"
    return True


async def cancel_later(task: asyncio.Task[bool], turns: int) -> None:
    """Cancel after some turns of the loop."""
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()


async def wave(store: RedisStore, first: int, chance: random.Random) -> tuple[int, int]:
    """Takes at once, of which nine in ten are cancelled: how many that hit, and how many were answered."""
    tasks = [asyncio.create_task(take_own(store, first + offset)) for offset in range(AT_ONCE)]
    hit = chance.sample(tasks, AT_ONCE * 9 // 10)
    await asyncio.gather(*(cancel_later(task, chance.randrange(MOST_TURNS)) for task in hit))
    results = await asyncio.gather(*tasks, return_exceptions=True)
    cancelled = 0
    for task, result in zip(tasks, results, strict=True):
        if isinstance(result, asyncio.CancelledError):
            assert task in hit
            cancelled += 1
        else:
            assert result is True, result
    return cancelled, AT_ONCE - cancelled


@pytest.mark.timeout(300)
def test_cancelled_takes_never_cross_replies(server: RedisServer) -> None:
    """Ten thousand takes cancelled at any point: whoever is answered gets the own answer, and no bucket a wrong charge.

    Afterwards the same store works, on no more connections than it may have.
    """
    client = server.client()
    chance = random.Random(20240812)

    async def work() -> None:
        async with opened(server.url) as store:
            await take_own(store, 1)
            cancelled = answered = 0
            first = 2
            while cancelled < CANCELLED:
                if first + AT_ONCE > UNITS:
                    client.flushall()
                    first = 2
                hits, answers = await wave(store, first, chance)
                cancelled, answered, first = cancelled + hits, answered + answers, first + AT_ONCE
            assert answered > cancelled // 20
            connections = [entry for entry in client.client_list() if entry["name"] == "shieldmw"]
            assert len(connections) <= 1
            client.flushall()
            assert all(await asyncio.gather(*(take_own(store, number) for number in range(1, 200))))

    run(work())


def test_a_cancelled_take_charges_its_own_bucket_or_none(server: RedisServer) -> None:
    """What lies in the server after cancelled takes is their full charge or no key at all."""
    client = server.client()
    chance = random.Random(20240812)
    keys = Keys("shield", SECRET)

    async def work() -> None:
        async with opened(server.url) as store:
            for number in range(10):
                await wave(store, 1 + number * AT_ONCE, chance)

    run(work())
    unit_ms = slow_limit(UNITS).unit_us / 1000
    charged = {keys.bucket(Charge(someone(f"client {number}"), slow_limit(UNITS))): number for number in range(1, 1001)}
    found = all_keys(client)
    assert len(found) >= 100
    for key in found:
        assert round(client.pttl(key) / unit_ms, 2) == charged[key]
