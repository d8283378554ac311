"""The epoch: how workers that hear nothing learn that buckets were made full again."""

from __future__ import annotations

import redis

from servers import RedisServer
from store.stores import opened, run, someone


def writes(client: redis.Redis) -> int:
    """How often the server has changed the mode's key."""
    stats = client.info("commandstats")
    names = ("hset", "hsetnx", "pexpire")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in names)


def test_a_reset_and_a_loss_are_another_epoch(server: RedisServer) -> None:
    """What is remembered of buckets holds for one epoch: an operator's reset ends it, and so does lost data."""

    async def story() -> None:
        async with opened(server.url) as store:
            await store.mode()
            first = (await store.mode()).epoch
            assert first is not None
            await store.refill(someone(), ["ip"])
            second = (await store.mode()).epoch
            assert second not in (None, first)
            server.client().flushall()
            assert (await store.mode()).epoch is None
            assert (await store.mode()).epoch not in (None, first, second)

    run(story())


def test_to_poll_the_mode_writes_nothing(server: RedisServer) -> None:
    """A hundred polls change no key, so a server that is out of memory or a replica answers them too."""

    async def story() -> None:
        async with opened(server.url) as store:
            await store.mode()
            server.client().config_resetstat()
            for _ in range(100):
                await store.mode()

    run(story())
    assert writes(server.client()) == 0
