"""portion.lua and core/portion.py are twins: on random traces over a real server, equal to the last digit."""

from __future__ import annotations

import asyncio
import random

import pytest
import redis

from servers import RedisServer
from shieldmw.core.bucket import EPOCH_S, FURTHEST_US, Charge, TakeRequest
from shieldmw.core.client import shared_client
from shieldmw.core.limits import US_PER_S, Limit
from shieldmw.core.portion import Portion, PortionRequest, grant
from shieldmw.store import scripts
from shieldmw.store.memory import MemoryStore
from store.test_twins import FLEETING_MS, KEPT_MS, LATEST_US, NO_NUMBERS, TAKEN_FROM_REDIS, number

TIME_OF_ARGUMENTS = "{ARGV[5], ARGV[6]}"


class LuaBucket:
    """The script on a server, under a clock of the test's own."""

    def __init__(self, client: redis.Redis) -> None:
        source = scripts.source("portion")
        assert source.count(TAKEN_FROM_REDIS) == 1
        self._script = client.register_script(source.replace(TAKEN_FROM_REDIS, TIME_OF_ARGUMENTS))

    def grant(self, limit: Limit, want: int, least: int, now_us: int) -> Portion:
        """One call."""
        time = (EPOCH_S + now_us // US_PER_S, now_us % US_PER_S)
        reply = self._script(keys=["bucket"], args=[limit.unit_us, limit.tau_us, want, least, *time])
        return Portion(*scripts.whole_numbers("portion", reply, 3))


def some_limit(dice: random.Random) -> Limit:
    """Any limit, the slowest and the fastest often."""
    period_s = dice.choice([1, 60, 3600, 86_400])
    amount = dice.choice([1, 2, 7, dice.randint(1, 1000), period_s * US_PER_S])
    return Limit("guests", amount, period_s, dice.choice([1, 2, 10, dice.randint(1, 100_000)]))


@pytest.mark.parametrize("seed", range(40))
def test_twins(server: RedisServer, seed: int) -> None:
    """On any trace, with the bucket overwritten now and then by another limit's TAT or garbage, both grant the same."""
    dice, client = random.Random(seed), server.client()
    lua, limit = LuaBucket(client), some_limit(dice)
    now_us = dice.choice([0, 10**14, LATEST_US - 10**12, dice.randint(0, LATEST_US)])
    for _ in range(80):
        now_us = min(LATEST_US, now_us + dice.choice([0, 1, limit.unit_us, dice.randint(0, 2 * limit.tau_us)]))
        if dice.random() < 0.1:
            edges = [0, limit.tau_us, limit.tau_us - limit.unit_us, 2 * limit.tau_us, 10 * limit.tau_us, -(10**9)]
            edges += [3_600_000_000, FURTHEST_US, 2 * FURTHEST_US]
            tat_us = now_us + dice.choice(edges) + dice.choice([-1, 0, 1])
            client.set("bucket", dice.choice([str(tat_us).encode(), *NO_NUMBERS]), px=KEPT_MS)
        want = dice.choice([1, 2, limit.burst, limit.burst + 1, dice.randint(1, 2 * limit.burst)])
        least = dice.choice([1, 1, want, dice.randint(1, want)])
        before = client.get("bucket")
        portion = lua.grant(limit, want, least, now_us)
        assert portion == grant(number(before), limit, want, least, now_us)
        after, left_ms = client.get("bucket"), client.pttl("bucket")
        if not portion.units:
            assert after == before, "where nothing is granted, nothing is written"
            continue
        full_ms = -(-(portion.tat_us - now_us) // 1000)
        if full_ms > FLEETING_MS:  # a bucket that is full sooner may be gone before it is looked at
            assert after == str(portion.tat_us).encode()
            assert full_ms - FLEETING_MS < left_ms <= full_ms
        client.set("bucket", portion.tat_us, px=KEPT_MS)


@pytest.mark.parametrize(
    ("stored", "left"),
    [
        *((text, 3) for text in NO_NUMBERS),
        *((text, 3) for text in (b"nan", b"-nan", b"-inf", b"-1", b"0", b"0x10", b" 12 ", b"5.5")),
        *((text, 0) for text in (b"inf", b"1e400", b"9" * 30)),
    ],
)
def test_strange_text_in_a_bucket_is_full_or_empty(server: RedisServer, stored: bytes, left: int) -> None:
    """Whatever was written there, a portion neither fails nor is more than the burst, and heals it."""
    client, limit = server.client(), Limit("guests", 1, 86_400, 3)
    client.set("bucket", stored, px=KEPT_MS)
    now_us = 10**15
    lua = LuaBucket(client)
    assert lua.grant(limit, 10, 1, now_us).units == left
    assert lua.grant(limit, 10, 1, now_us).units == 0


def test_a_list_where_a_bucket_should_be(server: RedisServer) -> None:
    """A key of another type counts as a full bucket, and is replaced."""
    client = server.client()
    client.rpush("bucket", "x")
    client.pexpire("bucket", KEPT_MS)
    assert LuaBucket(client).grant(Limit("guests", 1, 86_400, 3), 2, 1, 10**15).units == 2
    assert client.type("bucket") == b"string"


def test_a_store_in_this_process_grants_the_same() -> None:
    """The memory store's portions and charges come from one bucket."""

    async def story() -> None:
        store, limit = MemoryStore(b"fleet", now_us=lambda: 10**9), Limit("guests", 1, 60, 5)
        charge = Charge(shared_client("guests", "guests"), limit)
        assert (await store.portion(PortionRequest(charge, 3))).units == 3
        (outcome,) = await store.take([TakeRequest((charge,))])
        assert outcome.allowed
        assert await store.portion(PortionRequest(charge, 3, least=2)) == Portion(10**9, 0, 10**9 + 4 * limit.unit_us)

    asyncio.run(story())
