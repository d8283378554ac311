"""claim.lua and core/claims.py are twins: random traces over a real server; and its bounds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from struct import pack

import pytest
import redis

from servers import RedisServer, redis_server
from shieldmw.core.claims import ASKS_IN, MOST_RENEWALS, Claim, ClaimTable, Ranked, claim_slot
from shieldmw.store.fleet import RedisStore
from shieldmw.store.memory import MemoryStore
from shieldmw.store.redis.connection import RedisConnection
from shieldmw.store.scripts import source

SECRET = b"a secret of at least 32 characters"
NOW_S = 1_800_000_000

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


def digest(number: int) -> bytes:
    """What stands for a ticket: any bytes."""
    return number.to_bytes(8, "big")


def any_claims(dice: random.Random, now_s: int) -> list[Claim]:
    """Renewals of a few tickets, and copies that ask, about now."""
    claims = []
    for _ in range(dice.choice([0, 1, 5, 40])):
        at_s, lease_s = now_s + dice.randint(-4, 2), dice.choice([6, 7, 30, 600])
        until_s = dice.choice([0, at_s + lease_s, at_s + dice.randint(1, lease_s)])
        claims.append(
            Claim(
                digest(dice.choice([0, 13, 10, 2**64 - 1, *range(5)])),
                at_s,
                lease_s,
                until_s,
                dice.choice([0, 1, 2**32 - 1]),
            )
        )
    return claims


@pytest.mark.parametrize("seed", range(10))
def test_twins(valkey: RedisServer, client: redis.Redis, seed: int) -> None:
    """On any trace of renewals both give the same ranks, in the slots of several longest leases."""
    client.ping()

    async def story() -> None:
        dice, memory, now_s = random.Random(seed), MemoryStore(SECRET), NOW_S
        longest_s = dice.choice([6, 30, 600])
        async with opened(valkey) as store:
            for _ in range(150):
                now_s += dice.choice([0, 1, 3, 15, 30])
                claims = any_claims(dice, now_s)
                ranked = await store.claim(claims, now_s, longest_s)
                assert ranked == await memory.claim(claims, now_s, longest_s)

    asyncio.run(story())


def test_a_slot_is_bounded(client: redis.Redis) -> None:
    """Tickets beyond the bound are not remembered, and go on as if they were alone."""
    script, table = client.register_script(source("claim")), ClaimTable(3)
    for round_ in range(3):
        claims = [Claim(digest(number), NOW_S + round_, 30, NOW_S + 30) for number in range(5)]
        packed = b"".join(one.digest + _doubles(one) for one in claims)
        keys = ["shield:{renewed}:7", "shield:{renewed}:6"]
        reply = script(keys=keys, args=[packed, 60_000, 3, MOST_RENEWALS, ASKS_IN])
        ranked = [Ranked(*reply[at : at + 2]) for at in range(0, 10, 2)]
        assert ranked == table.claim(7, claims)
        assert [one.rank for one in ranked] == [round_ + 1] * 3 + [1] * 2
    assert client.hlen("shield:{renewed}:7") == 3


def _doubles(claim: Claim) -> bytes:
    return pack("<dddd", *claim[1:])


def test_what_is_kept_ends_by_itself_and_says_nothing_of_clients(valkey: RedisServer, client: redis.Redis) -> None:
    """One hash for each slot of two leases, of digests and times."""

    async def story() -> None:
        async with opened(valkey) as store:
            await store.claim([Claim(digest(number), NOW_S, 30, NOW_S + 30) for number in range(100)], NOW_S, 30)

    asyncio.run(story())
    (key,) = client.keys("*renewed*")
    assert key == f"shield:{{renewed}}:{claim_slot(NOW_S, 30)}".encode()
    assert 60_000 < client.pttl(key) <= 120_000
    assert set(client.hgetall(key)) == {digest(number) for number in range(100)}


@pytest.mark.parametrize("value", [b"", b"x", b"\0" * 39, b"7" * 41])
def test_foreign_records_count_as_none(valkey: RedisServer, client: redis.Redis, value: bytes) -> None:
    """A value of another form is written anew, and a key of another type, too."""
    slot = claim_slot(NOW_S, 30)
    client.hset(f"shield:{{renewed}}:{slot}", digest(1), value)
    client.set(f"shield:{{renewed}}:{slot - 1}", value)

    async def story() -> list[Ranked]:
        async with opened(valkey) as store:
            claims = [Claim(digest(1), NOW_S, 30, NOW_S + 30)] * 2
            return list(await store.claim(claims, NOW_S, 30))

    assert asyncio.run(story()) == [Ranked(1, 0), Ranked(2, NOW_S + 30)]
    client.delete(f"shield:{{renewed}}:{slot - 1}")
