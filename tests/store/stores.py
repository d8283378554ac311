"""Shared by the store tests: limits and clients to charge, stores to open, and the contents of a server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from struct import pack
from typing import Any, TypeVar

import redis

from shieldmw.core.api_keys import ApiKeyTable, digest
from shieldmw.core.bucket import EPOCH_S, Charge, Charges, Outcome, TakeRequest
from shieldmw.core.client import Client, Identity, token_client
from shieldmw.core.limits import US_PER_S, Limit
from shieldmw.store.fleet import RedisStore
from shieldmw.store.port import Buckets
from shieldmw.store.redis.connection import RedisConnection

T = TypeVar("T")

SECRET = b"a secret of at least 32 characters"
PREFIX = "shield"
SECRET_KEY = f"{PREFIX}:secret"
API_KEYS_KEY = f"{PREFIX}:api-keys"

# {the digest of the slot}, the client's own digest where it differs, the limit.
BUCKET_KEY = re.compile(r"shield:\{[0-9a-f]{32}\}:(?:[0-9a-f]{32}:)?[a-z0-9-]+")

# A budget that only a server that hangs exceeds, however busy the machine is.
AMPLE_S = 20.0


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run one test's coroutine on a loop of its own."""
    return asyncio.run(work)


def slow_limit(burst: int, name: str = "ip") -> Limit:
    """A bucket that does not refill while a test runs: one unit a day."""
    return Limit(name, 1, 86_400, burst)


def someone(name: str = "alice") -> Client:
    """A client with a slot of its own."""
    return token_client(Identity(name))


def one(limit: Limit, cost: int = 1, client: Client | None = None) -> Charges:
    """A single charge."""
    return (Charge(client or someone(), limit, cost),)


async def take(store: Buckets, charges: Iterable[Charge]) -> Outcome:
    """What becomes of one request, alone in its call."""
    (outcome,) = await store.take([TakeRequest(tuple(charges))])
    return outcome


def proven(table: ApiKeyTable, key: str) -> Identity | None:
    """Whom a key proves by a table."""
    entry = table.entries.get(digest(key, table.digest_key))
    return None if entry is None else entry.identity


def asked(requests: Sequence[TakeRequest]) -> tuple[list[str], list[bytes]]:
    """KEYS and ARGV of take.lua, each bucket under the name of its limit."""
    keys = list(dict.fromkeys(charge.limit.name for ask in requests for charge in ask.charges))
    arguments = []
    for ask in requests:
        arguments += [len(ask.charges), ask.prefetch]
        for _, limit, cost in ask.charges:
            arguments += [keys.index(limit.name) + 1, limit.unit_us, limit.tau_us, cost]
    return keys, [pack(f"<{len(arguments)}d", *arguments)]


def answered(requests: Sequence[TakeRequest], reply: Sequence[int]) -> list[Outcome]:
    """The reply of take.lua in the reference's words, each of its numbers used once."""
    assert all(type(number) is int for number in reply)
    now, *rest = reply
    outcomes = []
    for ask in requests:
        leased, tats_us, rest = rest[0], rest[1 : 1 + len(ask.charges)], rest[1 + len(ask.charges) :]
        outcomes.append(Outcome(leased >= 0, now, tuple(tats_us), max(0, leased)))
    assert not rest
    return outcomes


def redis_store(
    url: str, *, secret: bytes | None = SECRET, candidate: bytes = b"c" * 32, timeout_s: float = AMPLE_S
) -> RedisStore:
    """A store of the fleet under test; what is not given does not matter to the test."""
    return RedisStore(RedisConnection(url, timeout_s), prefix=PREFIX, secret=secret, candidate=candidate)


@asynccontextmanager
async def opened(
    url: str, *, secret: bytes | None = SECRET, candidate: bytes = b"c" * 32, timeout_s: float = AMPLE_S
) -> AsyncIterator[RedisStore]:
    """A store that is closed at the end."""
    store = redis_store(url, secret=secret, candidate=candidate, timeout_s=timeout_s)
    try:
        yield store
    finally:
        await store.aclose()


def now_us(client: redis.Redis) -> int:
    """The clock of Redis in microseconds since 2025."""
    seconds, microseconds = client.time()
    return (int(seconds) - EPOCH_S) * US_PER_S + int(microseconds)


def all_keys(client: redis.Redis) -> list[str]:
    """The names of all keys, sorted."""
    return sorted(bytes(key).decode() for key in client.scan_iter(count=1000))


def everything(client: redis.Redis) -> dict[str, tuple[bytes, int]]:
    """All that lies in the server: each key's serialised value and when it ends."""
    return {key: (client.dump(key), client.pexpiretime(key)) for key in all_keys(client)}  # type: ignore[misc]


def calls(client: redis.Redis, *commands: str) -> int:
    """How often the server has run these commands, scripts included."""
    stats = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"] for command in commands)


def costs(charges: Sequence[Charge]) -> list[int]:
    """The costs of the charges."""
    return [charge.cost for charge in charges]
