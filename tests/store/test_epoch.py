"""The epoch: how workers that miss announcements learn that buckets were refilled."""

from __future__ import annotations

import redis

from servers import RedisServer
from shieldmw.gate.fleet.mode_watch import ModeWatch
from shieldmw.store.documents import MODE
from store.stores import opened, run, someone


def writes(client: redis.Redis) -> int:
    """How often the server has changed the mode's key."""
    stats = client.info("commandstats")
    names = ("hset", "hsetnx", "pexpire")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in names)


def test_a_reset_and_a_loss_are_another_epoch(server: RedisServer) -> None:
    """What is remembered of buckets holds for one epoch: an operator's reset ends it, and so does lost data.

    Each read tells one, the first after a loss too: a worker that knew of none would not hear of the next loss.
    """

    async def story() -> None:
        async with opened(server.url) as store:
            epochs = [await store.begin_epoch()]
            assert await store.begin_epoch() == (await store.document(MODE)).epoch == epochs[0]
            mode_watch, resets = ModeWatch(store), list[None]()
            mode_watch.on_reset = lambda: resets.append(None)
            await mode_watch.refresh()
            await store.refill(someone(), ["ip"])
            epochs.append((await store.document(MODE)).epoch)
            await mode_watch.refresh()
            for _ in range(3):
                server.client().flushall()
                await mode_watch.refresh()
                epochs.append((await store.document(MODE)).epoch)
            assert None not in epochs
            assert len(set(epochs)) == len(epochs) == 1 + len(resets)

    run(story())


def test_to_poll_the_mode_writes_nothing(server: RedisServer) -> None:
    """A hundred polls change no key, so a server that is out of memory or a replica answers them too."""

    async def story() -> None:
        async with opened(server.url) as store:
            mode_watch = ModeWatch(store)
            await mode_watch.refresh()
            server.client().config_resetstat()
            for _ in range(100):
                await mode_watch.refresh()

    run(story())
    assert writes(server.client()) == 0
