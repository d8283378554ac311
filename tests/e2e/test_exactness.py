"""Four workers, one store, one bucket: exactly the requests pass that the reference allows.

All times are by the clock of Redis, read on a connection of the test's own. TIME is answered in order with the
takes, so the bounds are exact:
- before the first request and after the last answer: no more than burst + rate * D passes in between,
- after the first answer and before a request that is refused: no less than burst + rate * D has passed by then,
  since a bucket that is not full again in between loses nothing. The first request takes a part of the burst
  at once, so that it is not full again before the others come.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

from servers import HOST, HttpServer, RedisServer, asgi_server
from shieldmw.core.limits import US_PER_S, Limit, parse_limits

CONNECTIONS = 50
WORKERS = 4

# How long the flood goes on after the first refusal, by the clock of Redis.
FLOOD_US = 2_500_000

REQUEST = b"GET %b HTTP/1.1\r\nHost: test\r\n\r\n"
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)

# On a busy machine the store gets time, so that no local bucket counts, and nobody is turned away for its load.
PATIENT = {"SHIELD_REDIS_TIMEOUT_MS": "10000", "SHIELD_OVERLOAD": "off"}


@dataclass
class Tally:
    """The answers of all connections, by status, and which limits refused."""

    statuses: dict[int, int] = field(default_factory=dict)
    violated: dict[bytes, int] = field(default_factory=dict)
    last: tuple[int, bytes] = (0, b"")

    def add(self, status: int, body: bytes) -> None:
        """One answer."""
        self.last = (status, body)
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status == 429:
            names = re.search(rb'"violated-policies": \[([^\]]*)\]', body)
            assert names is not None, body
            for name in names[1].replace(b'"', b"").split(b", "):
                self.violated[name] = self.violated.get(name, 0) + 1

    @property
    def allowed(self) -> int:
        """How many passed."""
        return self.statuses.get(200, 0)

    @property
    def refused(self) -> int:
        """How many did not."""
        return self.statuses.get(429, 0)


class Connection:
    """A keep-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, path: bytes = b"/hello") -> tuple[int, bytes]:
        """Send one request and read its answer: status and body."""
        self._writer.write(REQUEST % path)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = LENGTH.search(head)
        assert length is not None, head
        return int(head[9:12]), await self._reader.readexactly(int(length[1]))

    async def close(self) -> None:
        """End it."""
        self._writer.close()
        await self._writer.wait_closed()


def redis_now_us(client: redis.Redis) -> int:
    """The clock of Redis."""
    seconds, microseconds = client.time()
    return int(seconds) * US_PER_S + int(microseconds)


@dataclass(frozen=True)
class Flood:
    """What a flood got, and the spans it took: from outside, and while the bucket was certainly in use."""

    tally: Tally
    workers: int
    outer_us: int
    inner_us: int

    def most(self, limit: Limit, cost: int = 1) -> int:
        """The number of requests that may pass."""
        return (limit.burst + self.outer_us // limit.unit_us) // cost

    def least(self, limit: Limit, cost: int = 1) -> int:
        """The number that must have passed by a refusal of this limit, where it never had time to be full again."""
        return (limit.burst + self.inner_us // limit.unit_us) // cost


async def flood(server: HttpServer, client: redis.Redis, first: bytes = b"/hello") -> Flood:
    """Ask for one path first, then on all connections at once until the time is over, then until one is refused."""
    connections = [Connection(*await asyncio.open_connection(HOST, server.port)) for _ in range(CONNECTIONS)]
    workers = {(await connection.ask(b"/pid"))[1] for connection in connections}
    tally = Tally()
    over = False

    async def keep_asking(connection: Connection) -> None:
        while not over:
            tally.add(*await connection.ask())

    before_us = redis_now_us(client)
    tally.add(*await connections[0].ask(first))
    first_us = redis_now_us(client)
    tasks = [asyncio.create_task(keep_asking(connection)) for connection in connections[1:]]
    while redis_now_us(client) - first_us < FLOOD_US:
        tally.add(*await connections[0].ask())
    over = True
    await asyncio.gather(*tasks)
    last_us = redis_now_us(client)
    tally.add(*await connections[0].ask())
    while tally.last[0] != 429:
        last_us = redis_now_us(client)
        tally.add(*await connections[0].ask())
    after_us = redis_now_us(client)
    for connection in connections:
        await connection.close()
    return Flood(tally, len(workers), after_us - before_us, last_us - first_us)


LONGEST_PAUSE_US = 2_000_000


def settings(store: RedisServer, **more: str) -> dict[str, str]:
    """A guest's limits in a shared store; the path that tells the worker is free."""
    return {"SHIELD_REDIS_URL": store.url, "SHIELD_EXEMPT_PATHS": "/healthz,/pid", **PATIENT, **more}


@pytest.mark.parametrize(
    ("limit", "burst"),
    [
        ("100/second", 40),  # expiry in whole seconds gives 200 of 200 requests away here
        ("4/second", 2),  # any request that slips past the edge is one too many
        ("6000/minute", 500),  # a large burst, taken by all workers at once
        ("100/hour", 137),  # hardly anything comes back: the count is the burst itself
    ],
)
def test_four_workers_allow_what_one_bucket_holds(store: RedisServer, tmp_path: Path, limit: str, burst: int) -> None:
    """Fifty connections on one address's bucket get burst + rate * D, to the request."""
    [bucket] = parse_limits(limit, name="ip", burst=burst)
    rules = json.dumps([{"name": "half", "path": "/who", "cost": burst // 2}])
    env = settings(store, SHIELD_IP_LIMIT=limit, SHIELD_IP_BURST=str(burst), SHIELD_RULES=rules)
    with asgi_server("shieldmw", "apps:app", env=env, cwd=tmp_path, workers=WORKERS) as server:
        got = asyncio.run(flood(server, store.client(), b"/who"))
    units = burst // 2 + got.tally.allowed - 1
    assert got.workers > 1
    assert set(got.tally.statuses) == {200, 429}
    assert units <= got.most(bucket)
    # A bucket that fills faster than the busiest machine pauses may have been full for a while, and lost units.
    assert units >= (got.least(bucket) if bucket.tau_us > LONGEST_PAUSE_US else burst)
    assert got.tally.refused > 100, "the bucket was never under pressure"


def test_several_limits_hold_at_once(store: RedisServer, tmp_path: Path) -> None:
    """The fast limit paces the burst, the slow one ends it; what one refuses is not charged to the other."""
    fast, slow = parse_limits("200/second; 350/hour", name="ip")
    env = settings(store, SHIELD_IP_LIMIT="200/second; 350/hour")
    with asgi_server("shieldmw", "apps:app", env=env, cwd=tmp_path, workers=WORKERS) as server:
        got = asyncio.run(flood(server, store.client()))
    assert got.workers > 1
    assert set(got.tally.statuses) == {200, 429}
    assert got.tally.violated.keys() == {b"ip", b"ip-2"}
    assert b'"violated-policies": ["ip-2"]' in got.tally.last[1]
    assert got.least(slow) <= got.tally.allowed <= min(got.most(slow), got.most(fast))


def test_a_rule_with_a_cost_is_exact(store: RedisServer, tmp_path: Path) -> None:
    """Each request costs three of the address's units and three of the rule's: the rule, the narrower, decides."""
    [wide] = parse_limits("1000/second", name="ip")
    [narrow] = parse_limits("6/second", name="hello", burst=60)
    rules = json.dumps([{"name": "hello", "path": "/hello", "limits": "6/second", "burst": 60, "cost": 3}])
    env = settings(store, SHIELD_IP_LIMIT="1000/second", SHIELD_RULES=rules)
    with asgi_server("shieldmw", "apps:app", env=env, cwd=tmp_path, workers=WORKERS) as server:
        got = asyncio.run(flood(server, store.client()))
    assert got.workers > 1
    assert set(got.tally.statuses) == {200, 429}
    assert got.tally.violated.keys() == {b"hello"}
    assert got.least(narrow, 3) <= got.tally.allowed <= min(got.most(narrow, 3), got.most(wide, 3))
