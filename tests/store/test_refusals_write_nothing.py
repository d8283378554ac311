"""Refusals and queries change nothing in the server: no byte, no expiry, no write command."""

from __future__ import annotations

import asyncio

import pytest

from servers import RedisServer
from shieldmw.core.bucket import Charge
from store.stores import calls, everything, one, opened, run, slow_limit, someone, take

A, B, C = slow_limit(3, "a"), slow_limit(3, "b"), slow_limit(100, "c")

WRITES = ["set", "del", "unlink", "expire", "pexpire", "hset", "incr", "incrby", "getset", "setex", "psetex"]


def charge(name: str, cost: int = 1) -> Charge:
    """A charge of one of the three limits; `a` is empty, `b` was charged, `c` never."""
    return Charge(someone(), {"a": A, "b": B, "c": C}[name], cost)


@pytest.mark.parametrize(
    ("charges", "allowed"),
    [
        ([charge("a")], False),  # one too many
        ([charge("a", 3)], False),
        ([charge("b", 3)], False),  # more than is left, though not more than the burst
        ([charge("b", 4)], False),  # never
        ([charge("c", 101)], False),  # never, from a bucket without a key
        ([charge("c"), charge("b"), charge("a")], False),  # the last one refuses
        ([charge("a"), charge("b"), charge("c")], False),  # the first one refuses
        ([charge("a", 0), charge("b", 4)], False),  # a look and a refusal
        ([charge("a", 0)], True),
        ([charge("b", 0)], True),
        ([charge("c", 0)], True),  # looking makes no key
        ([charge("a", 0), charge("b", 0), charge("c", 0)], True),
    ],
)
def test_nothing_is_written(server: RedisServer, charges: list[Charge], allowed: bool) -> None:
    """All keys are byte for byte what they were, with the same end, and no command that writes has run."""
    client = server.client()

    async def work() -> None:
        async with opened(server.url, secret=None) as store:
            assert (await take(store, [charge("a", 3), charge("b", 1)])).allowed
            before = everything(client)
            assert len(before) == 3
            client.config_resetstat()
            for _ in range(5):
                assert (await take(store, charges)).allowed is allowed
            assert calls(client, "evalsha") == 5
            assert calls(client, *WRITES) == 0
            assert everything(client) == before

    run(work())


def test_a_flood_of_refusals_writes_nothing(server: RedisServer) -> None:
    """A thousand of them at the same time, from several connections."""
    client = server.client()

    async def work() -> None:
        async with opened(server.url) as store:
            assert (await take(store, one(A, 3))).allowed
            before = everything(client)
            client.config_resetstat()
            outcomes = await asyncio.gather(*(take(store, [charge("c"), charge("a")]) for _ in range(1000)))
            assert not any(outcome.allowed for outcome in outcomes)
            assert calls(client, *WRITES) == 0
            assert everything(client) == before

    run(work())


def test_a_look_beside_a_charge_writes_the_charge_alone(server: RedisServer) -> None:
    """The bucket that is only looked at keeps its bytes and its end."""
    client = server.client()

    async def work() -> None:
        async with opened(server.url) as store:
            await take(store, one(A, 2))
            [(key, looked_at)] = everything(client).items()
            assert (await take(store, [charge("a", 0), charge("b")])).allowed
            after = everything(client)
            assert len(after) == 2
            assert after[key] == looked_at

    run(work())
