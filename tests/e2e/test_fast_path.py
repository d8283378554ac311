"""The fast path on real servers: workers that batch, lease and refuse by themselves hold one bucket's promise.

Each request's decision lies between the moments at which it was sent and answered, by the clock of Redis: that is
the machine's own, which the tests check. So a window from any sending to any answer holds all requests that lie
within it, and no more may have passed there than burst + rate * D.
"""

from __future__ import annotations

import asyncio
import functools
import json
import socket
import struct
import time
from bisect import bisect_left, insort
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

from e2e.clients import ask, fresh_address
from e2e.test_exactness import CONNECTIONS, PATIENT, WORKERS, Connection, redis_now_us
from servers import HOST, HttpServer, RedisServer, asgi_server, wait_until
from shieldmw.core.bucket import EPOCH_S
from shieldmw.core.limits import US_PER_S, Limit, parse_limits

SECRET = "a secret of at least 32 characters, for tests"
ADMIN_TOKEN = "the token of the operator"
FLOOD_S = 1.5
CANCELLED = 10_000

# By then whatever was leased is spent or given back.
SWEPT_S = 1.2
CANCELLING = 16
LONGEST_S = 30.0

# SO_LINGER with no time: closing resets the connection, so that nobody reads what was sent.
RESET = struct.pack("ii", 1, 0)


def now_us() -> int:
    """The clock of this machine, by which Redis goes."""
    return time.time_ns() // 1000


@dataclass(frozen=True)
class Passed:
    """A request that passed: when it was sent and answered, and how far it moved the TAT of its bucket."""

    sent_us: int
    answered_us: int
    step_us: int


@dataclass
class Crowd:
    """What a crowd got, and when operators made its bucket full again."""

    passed: list[Passed] = field(default_factory=list)
    refused: int = 0
    resets: list[tuple[int, int]] = field(default_factory=list)
    over: bool = False

    async def keep_asking(self, connection: Connection, unit_us: int) -> None:
        """Ask until it is over."""
        while not self.over:
            await self.ask(connection, unit_us)

    async def ask(self, connection: Connection, unit_us: int) -> None:
        """Ask once."""
        sent_us = now_us()
        status, body = await connection.ask()
        if status == 200:
            self.passed.append(Passed(sent_us, now_us(), unit_us))
        else:
            assert status == 429, body
            self.refused += 1

    def assert_promise(self, tau_us: int) -> None:
        """No window holds more than burst + rate * D; each reset within it makes the bucket full once more."""
        ends: list[tuple[int, int]] = []
        for one in sorted(self.passed, key=lambda one: -one.sent_us):
            insort(ends, (one.answered_us, one.step_us))
            first = bisect_left(ends, (one.answered_us, 0))
            moved_us = sum(step_us for _, step_us in ends[:first])
            for answered_us, step_us in ends[first:]:
                moved_us += step_us
                full = 1 + sum(began <= answered_us and ended >= one.sent_us for began, ended in self.resets)
                over_us = moved_us - full * tau_us - (answered_us - one.sent_us)
                assert over_us <= 0, f"{over_us} us too much in {answered_us - one.sent_us} us"

    @property
    def span_us(self) -> int:
        """From the first request that passed to the last."""
        return max(one.answered_us for one in self.passed) - min(one.sent_us for one in self.passed)


def env(store: RedisServer, limit: str, burst: int, **more: str) -> dict[str, str]:
    """A guest's limit in a shared store; the path that tells the worker is free."""
    return {
        "SHIELD_REDIS_URL": store.url,
        "SHIELD_SECRET": SECRET,
        "SHIELD_EXEMPT_PATHS": "/healthz,/pid",
        "SHIELD_IP_LIMIT": limit,
        "SHIELD_IP_BURST": str(burst),
        "SHIELD_ADMIN_TOKEN": ADMIN_TOKEN,
        **PATIENT,
        **more,
    }


@contextmanager
def served(cwd: Path, settings: dict[str, str], workers: int = WORKERS) -> Iterator[HttpServer]:
    """The app under test."""
    with asgi_server("shieldmw", "apps:app", env=settings, cwd=cwd, workers=workers) as server:
        yield server


async def until(condition: Callable[[], bool]) -> None:
    """Go on once it is so, within a limit."""
    async with asyncio.timeout(LONGEST_S):
        while not condition():  # noqa: ASYNC110  (what is waited for is counted, or the time)
            await asyncio.sleep(0.01)


async def connected(server: HttpServer, count: int) -> list[Connection]:
    """Connections that have been served."""
    connections = [Connection(*await asyncio.open_connection(HOST, server.port)) for _ in range(count)]
    for connection in connections:
        await connection.ask(b"/pid")
    return connections


async def flood(
    servers: Sequence[tuple[HttpServer, Limit]], meanwhile: Callable[[Crowd], Awaitable[None]] | None = None
) -> Crowd:
    """Fifty connections ask for a while, and as long as something goes on beside them."""
    crowd = Crowd()
    each = CONNECTIONS // len(servers)
    asking = [(one, limit) for server, limit in servers for one in await connected(server, each)]
    tasks = [asyncio.create_task(crowd.keep_asking(one, limit.unit_us)) for one, limit in asking]
    until_s = time.monotonic() + FLOOD_S
    try:
        if meanwhile is not None:
            await meanwhile(crowd)
        await until(lambda: time.monotonic() >= until_s)
        crowd.over = True
        await asyncio.gather(*tasks)
    finally:
        for one, _ in asking:
            await one.close()
    return crowd


def assert_same_clock(client: redis.Redis) -> None:
    """Redis goes by the clock of this machine."""
    before_us = now_us()
    told_us = redis_now_us(client)
    assert before_us - 1000 <= told_us <= now_us() + 1000


def most_lost(limit: Limit, workers: int = WORKERS) -> int:
    """What leases may hold, in units: an eighth of the bucket each."""
    return workers * (limit.burst // 8)


def test_a_hot_bucket_keeps_its_promise_in_every_window(store: RedisServer, tmp_path: Path) -> None:
    """Fifty connections to four workers: burst + rate * D in every window, and no less but for what leases hold."""
    [limit] = parse_limits("400/second", name="ip", burst=800)
    with served(tmp_path, env(store, "400/second", 800)) as server:
        assert_same_clock(store.client())
        crowd = asyncio.run(flood([(server, limit)]))
    crowd.assert_promise(limit.tau_us)
    assert crowd.refused > 100
    most = limit.burst + crowd.span_us // limit.unit_us
    assert len(crowd.passed) >= most - most_lost(limit) - 1


def test_requests_that_go_away_change_nothing_for_the_others(store: RedisServer, tmp_path: Path) -> None:
    """Ten thousand connections that ask and are reset before they are answered."""
    [limit] = parse_limits("400/second", name="ip", burst=800)
    gone = 0

    async def leave(server: HttpServer) -> None:
        nonlocal gone
        while gone < CANCELLED:
            gone += 1
            with socket.socket() as one:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                one.connect((HOST, server.port))
                one.sendall(b"GET /hello HTTP/1.1\r\nHost: test\r\n\r\n")
                await asyncio.sleep(0)

    with served(tmp_path, env(store, "400/second", 800)) as server:

        async def meanwhile(_: Crowd) -> None:
            await asyncio.gather(*(leave(server) for _ in range(CANCELLING)))

        crowd = asyncio.run(flood([(server, limit)], meanwhile))
        log = server.log()
    crowd.assert_promise(limit.tau_us)
    assert crowd.refused > 100
    assert len(crowd.passed) > 100
    assert "Traceback" not in log


def test_each_reset_makes_the_bucket_full_once(store: RedisServer, tmp_path: Path) -> None:
    """An operator resets a client that floods, again and again: a burst more for each, and none for the leases."""
    [limit] = parse_limits("50/second", name="ip", burst=300)
    body = json.dumps({"client": "ip:127.0.0.1", "reason": "a test"}).encode()
    head = (
        f"POST /-/shield/reset HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode()

    async def reset(server: HttpServer, crowd: Crowd) -> None:
        began_us = now_us()
        reader, writer = await asyncio.open_connection(HOST, server.port)
        writer.write(head + body)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert answer.startswith(b"HTTP/1.1 200"), answer
        crowd.resets.append((began_us, now_us()))

    with served(tmp_path, env(store, "50/second", 300)) as server:

        async def meanwhile(crowd: Crowd) -> None:
            for _ in range(5):
                refused = crowd.refused
                await until(functools.partial(lambda count: crowd.refused >= count, refused + 500))
                await reset(server, crowd)

        crowd = asyncio.run(flood([(server, limit)], meanwhile))
    crowd.assert_promise(limit.tau_us)
    most = 6 * limit.burst + crowd.span_us // limit.unit_us
    assert len(crowd.passed) >= most - 6 * most_lost(limit) - 6


def test_workers_with_another_limit_on_the_same_bucket_keep_the_wider_promise(
    store: RedisServer, tmp_path: Path
) -> None:
    """While a fleet is given new settings both are in force: what passes moves one TAT, that of the wider bucket."""
    wide, narrow = (
        parse_limits("400/second", name="ip", burst=800)[0],
        parse_limits("50/second", name="ip", burst=20)[0],
    )
    with (
        served(tmp_path, env(store, "400/second", 800), 2) as old,
        served(tmp_path, env(store, "50/second", 20), 2) as new,
    ):
        crowd = asyncio.run(flood([(old, wide), (new, narrow)]))
    crowd.assert_promise(max(wide.tau_us, narrow.tau_us))
    assert {one.step_us for one in crowd.passed} >= {wide.unit_us}
    assert crowd.refused > 100


def test_the_wait_is_true_after_a_deploy_with_a_shorter_limit(store: RedisServer, tmp_path: Path) -> None:
    """A client that has spent half an hour of the old limit is told of half an hour, by each worker of the new one."""
    address, old, new = fresh_address(), env(store, "100/hour", 100), env(store, "10/second", 10)
    with served(tmp_path, old, 1) as server:
        assert {ask(server, address, "/hello").status for _ in range(50)} == {200}
    with served(tmp_path, new, 2) as server:
        answers = [ask(server, address, "/hello") for _ in range(6)]
    assert {answer.status for answer in answers} == {429}
    for answer in answers:
        assert 1750 < json.loads(answer.body)["retry_after_ms"] / 1000 <= 1800
        assert int(answer.headers["retry-after"]) > 1750


# --- afterwards -------------------------------------------------------------------------------------


def tat_us(client: redis.Redis) -> int:
    """The TAT of the one bucket that there is, in the microseconds of this machine's clock."""
    [key] = [bytes(key) for key in client.scan_iter(count=1000) if bytes(key).endswith(b":ip")]
    value = client.get(key)
    assert isinstance(value, bytes)
    return int(value) + EPOCH_S * US_PER_S


async def spend(server: HttpServer, limit: Limit, times: int, connections: int) -> Crowd:
    """Requests, shared by some connections."""
    crowd = Crowd()
    asking = await connected(server, connections)

    async def some(connection: Connection) -> None:
        for _ in range(times // connections):
            await crowd.ask(connection, limit.unit_us)

    await asyncio.gather(*(some(connection) for connection in asking))
    for one in asking:
        await one.close()
    return crowd


@pytest.mark.parametrize("workers", [1, WORKERS])
def test_what_was_leased_and_not_spent_is_back_when_all_is_idle(
    store: RedisServer, tmp_path: Path, workers: int
) -> None:
    """Within two seconds the TAT is the true one with one worker; with several never before it, and not far behind."""
    [limit] = parse_limits("10000/day", name="ip")
    client = store.client()
    with served(tmp_path, env(store, "10000/day", 10_000), workers) as server:
        client.config_resetstat()
        # With one worker and one connection nobody charges the bucket behind a lease, so all of it can come back.
        crowd = asyncio.run(spend(server, limit, 1000, 1 if workers == 1 else 10))
        calls = client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]
        assert (len(crowd.passed), crowd.refused) == (1000, 0)
        earliest_us = min(one.sent_us for one in crowd.passed) + 1000 * limit.unit_us
        latest_us = min(one.answered_us for one in crowd.passed) + 1000 * limit.unit_us
        until_s = time.monotonic() + 2.0

        def is_back() -> bool:
            return tat_us(client) <= latest_us or time.monotonic() >= until_s

        wait_until(is_back, 5.0, "the leases to be given back", server.log)
        left_us = tat_us(client)
    assert earliest_us <= left_us, "more could pass than the bucket holds"
    if workers == 1:
        assert left_us <= latest_us
    assert left_us <= latest_us + 1000 * limit.unit_us
    assert calls < 250


def test_a_client_refused_again_costs_no_call(store: RedisServer, tmp_path: Path) -> None:
    """Once each worker has refused it, two thousand requests make Redis look at not a single bucket.

    Scripts that do so are the only ones to use MGET; what workers do in the background runs others.
    """
    [limit] = parse_limits("20/hour", name="ip")
    client = store.client()

    async def story(server: HttpServer) -> int:
        crowd = Crowd()
        connections = await connected(server, CONNECTIONS)
        until_s = time.monotonic() + SWEPT_S
        while time.monotonic() < until_s:
            for one in connections:
                await crowd.ask(one, limit.unit_us)
        client.config_resetstat()
        refused = crowd.refused
        for one in connections * 40:
            await crowd.ask(one, limit.unit_us)
        for one in connections:
            await one.close()
        return crowd.refused - refused

    with served(tmp_path, env(store, "20/hour", 20)) as server:
        assert asyncio.run(story(server)) == 2000
        stats = client.info("commandstats")
    assert stats.get("cmdstat_mget", {"calls": 0})["calls"] == 0
