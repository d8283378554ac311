"""The waiting room in a real server: two counters for any number of waiters. The same promises hold in memory."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import redis

from servers import RedisServer, redis_server
from shieldmw.core.waiting import QueueCounters
from shieldmw.store.fleet import RedisStore
from shieldmw.store.memory import MemoryStore
from shieldmw.store.port import SeatRegister
from shieldmw.store.redis.connection import RedisConnection

KEY = "shield:queue"
SECRET = b"a secret of at least 32 characters"

# A budget that only a server that hangs exceeds, however busy the machine is.
AMPLE_S = 20.0


@asynccontextmanager
async def opened(server: RedisServer) -> AsyncIterator[RedisStore]:
    """The store of one worker."""
    store = RedisStore(RedisConnection(server.url, AMPLE_S), prefix="shield", secret=SECRET, candidate=SECRET)
    try:
        yield store
    finally:
        await store.aclose()


@pytest.fixture(scope="module")
def valkey() -> Iterator[RedisServer]:
    """A server for this module."""
    with redis_server("valkey") as server:
        yield server


@pytest.fixture
def client(valkey: RedisServer) -> redis.Redis:
    """A connection to it, empty."""
    client = valkey.client()
    client.flushall()
    return client


# Each row: numbers to give, seats that came free, and what the counters say then.
TABLE = [
    (0, 0, QueueCounters(1, 0, 0)),  # nobody waits
    (0, 9, QueueCounters(1, 0, 0)),  # nobody is called who has no number
    (3, 0, QueueCounters(1, 3, 0)),
    (1, 0, QueueCounters(4, 4, 0)),
    (0, 2, QueueCounters(5, 4, 2)),
    (8, 1, QueueCounters(5, 12, 3)),  # calls go on where they stood
    (0, 0, QueueCounters(13, 12, 3)),  # looking changes nothing
    (0, 100, QueueCounters(13, 12, 12)),  # no further than numbers were given
    (0, 1, QueueCounters(13, 12, 12)),
    (2, 5, QueueCounters(13, 14, 14)),  # numbers given with free seats are called at once
]


async def table_holds(store: SeatRegister) -> None:
    """Go through the table."""
    for give, free, expected in TABLE:
        assert await store.queue(give, free) == expected


def test_the_counters_in_redis(valkey: RedisServer, client: redis.Redis) -> None:
    """Numbers follow each other, and are called in order as seats come free."""

    async def story() -> None:
        async with opened(valkey) as store:
            await table_holds(store)

    asyncio.run(story())
    assert client.hgetall(KEY) == {b"given": b"14", b"called": b"14"}


def test_the_counters_in_memory() -> None:
    """The store of one process counts the same."""
    asyncio.run(table_holds(MemoryStore(SECRET)))


def test_redis_and_memory_count_the_same(valkey: RedisServer, client: redis.Redis) -> None:
    """On a random trace both stores agree."""
    assert client.dbsize() == 0
    dice = random.Random(5)

    async def story() -> None:
        memory = MemoryStore(SECRET)
        async with opened(valkey) as store:
            for _ in range(300):
                give, free = dice.choice([0, 0, 1, 8, 5000]), dice.choice([0, 0, 1, 3, 9999])
                assert await store.queue(give, free) == await memory.queue(give, free)

    asyncio.run(story())


# Each row: what the caller knows, numbers to give, seats that came free, and what the counters say then.
LOST = [
    (QueueCounters(41, 48, 20), 0, 0, QueueCounters(49, 48, 20)),  # nothing was kept: as the caller knows it
    (QueueCounters(41, 40, 22), 8, 1, QueueCounters(49, 56, 23)),  # one who knew less, or more of what was called
    (QueueCounters(1, 0, 0), 0, 2, QueueCounters(57, 56, 25)),  # one who knows nothing
    (QueueCounters(1, 9, 9), 1, 0, QueueCounters(57, 57, 25)),  # what is behind changes nothing
    (QueueCounters(1, 90, 80), 0, 100, QueueCounters(91, 90, 90)),
]


async def lost_holds(store: SeatRegister) -> None:
    """Go through the table."""
    for known, give, free, expected in LOST:
        assert await store.queue(give, free, known) == expected


def test_counters_that_were_lost_go_on_from_what_workers_know(valkey: RedisServer, client: redis.Redis) -> None:
    """After FLUSHALL the highest that any worker knows is in force again: no number is waited for twice."""

    async def story() -> None:
        async with opened(valkey) as store:
            await store.queue(48, 20)
            client.flushall()
            await lost_holds(store)

    asyncio.run(story())
    asyncio.run(lost_holds(MemoryStore(SECRET)))


def test_no_number_is_given_twice(valkey: RedisServer, client: redis.Redis) -> None:
    """Blocks that many workers take at once never overlap and leave nothing out."""

    async def story() -> list[QueueCounters]:
        async with opened(valkey) as store:
            return await asyncio.gather(*(store.queue(1 + number % 9, number % 2) for number in range(200)))

    blocks = asyncio.run(story())
    given = [number for block in blocks for number in range(block.first, block.given + 1)]
    assert sorted(given) == list(range(1, sum(1 + number % 9 for number in range(200)) + 1))
    assert int(client.hget(KEY, "given")) == len(given)  # type: ignore[arg-type]


def test_a_million_who_wait_cost_redis_nothing_more(valkey: RedisServer, client: redis.Redis) -> None:
    """A million numbers given out in blocks take not a byte more than one, in one key that has an end."""

    async def story() -> tuple[QueueCounters, int]:
        async with opened(valkey) as store:
            await store.queue(1, 1)
            before = int(client.memory_usage(KEY))  # type: ignore[arg-type]
            for _ in range(999):
                await store.queue(1000, 3)
            return await store.queue(999, 0), before - int(client.memory_usage(KEY))  # type: ignore[arg-type]

    queue, less = asyncio.run(story())
    assert queue == QueueCounters(999_002, 1_000_000, 1 + 3 * 999)
    assert less == 0
    assert client.keys("*") == [KEY.encode()]
    assert int(client.pttl(KEY)) > 0


def test_a_room_that_nobody_asks_of_begins_anew(valkey: RedisServer, client: redis.Redis) -> None:
    """The counters end six hours after the last call, which each call renews."""

    async def story() -> None:
        async with opened(valkey) as store:
            for give, free in ((1, 0), (0, 1), (0, 0)):
                client.pexpire(KEY, 1000)
                await store.queue(give, free)
                assert 5 * 3600 * 1000 < int(client.pttl(KEY)) <= 6 * 3600 * 1000
            client.delete(KEY)
            assert await store.queue(1, 0) == QueueCounters(1, 1, 0)

    asyncio.run(story())
