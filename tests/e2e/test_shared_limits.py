"""A limit that all guests share, on four real workers with uneven demand: never exceeded, and fully used."""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from e2e.clients import ask, fresh_address
from e2e.test_exactness import PATIENT, WORKERS, Connection
from e2e.test_fast_path import now_us
from servers import HOST, HttpServer, RedisServer, asgi_server
from shieldmw.core.limits import US_PER_S, parse_limits
from shieldmw.core.portion import LONGEST_SPREAD_US

RATE_PER_S = 500
DEMAND_PER_S = 3 * RATE_PER_S

# The part of the demand that each worker has.
PARTS = (0.75, 0.20, 0.04, 0.01)

SPAN_S = 3.5
CONNECTIONS = 48


@dataclass
class Crowd:
    """When each request that passed was sent and answered, and how many were refused."""

    passed: list[tuple[int, int]] = field(default_factory=list)
    refused: int = 0
    violated: set[str] = field(default_factory=set)

    async def keep_asking(self, connection: Connection, every_s: float) -> None:
        """Ask at a steady rate; what was late is made up for."""
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        until_s = due_s + SPAN_S
        while due_s < until_s:
            await asyncio.sleep(due_s - loop.time())
            due_s += every_s
            sent_us = now_us()
            status, body = await connection.ask()
            if status == 200:
                self.passed.append((sent_us, now_us()))
            else:
                assert status == 429, body
                self.refused += 1
                self.violated.update(json.loads(body)["violated-policies"])


async def by_worker(server: HttpServer) -> Sequence[list[Connection]]:
    """Connections to each worker, the most first."""
    workers: dict[bytes, list[Connection]] = {}
    for _ in range(CONNECTIONS):
        connection = Connection(*await asyncio.open_connection(HOST, server.port))
        workers.setdefault((await connection.ask(b"/pid"))[1], []).append(connection)
    return sorted(workers.values(), key=len, reverse=True)


async def flood(server: HttpServer) -> Crowd:
    """Thrice the limit, most of it on one worker."""
    crowd, workers = Crowd(), await by_worker(server)
    assert len(workers) == WORKERS
    async with asyncio.TaskGroup() as tasks:
        for connections, part in zip(workers, PARTS, strict=True):
            for connection in connections:
                every_s = len(connections) / (part * DEMAND_PER_S)
                tasks.create_task(crowd.keep_asking(connection, every_s))
    for connections in workers:
        for connection in connections:
            await connection.close()
    return crowd


def assert_promise(passed: list[tuple[int, int]], unit_us: int, tau_us: int) -> None:
    """From any sending to any answer, D apart, at most burst + rate * D passed among the requests in between."""
    answers: list[int] = []
    for sent_us, answered_us in sorted(passed, reverse=True):
        insort(answers, answered_us)
        for last_us in answers[::25]:
            assert (bisect_left(answers, last_us) + 1) * unit_us <= last_us - sent_us + tau_us


def test_four_workers_share_a_limit(store: RedisServer, tmp_path: Path) -> None:
    """Demand of three times the limit, three quarters of it on one worker: never above, 95 % used, few calls."""
    [limit] = parse_limits(f"{RATE_PER_S}/second", name="guests")
    env = {
        "SHIELD_REDIS_URL": store.url,
        "SHIELD_EXEMPT_PATHS": "/healthz,/pid",
        "SHIELD_IP_LIMIT": "off",
        "SHIELD_GUESTS_LIMIT": f"{RATE_PER_S}/second",
        "SHIELD_OVERLOAD": "off",  # whoever is shed is not charged
        **PATIENT,
    }
    with asgi_server("shieldmw", "apps:app", env=env, cwd=tmp_path, workers=WORKERS) as server:
        store.client().config_resetstat()
        crowd = asyncio.run(flood(server))
        calls = store.client().info("commandstats")["cmdstat_evalsha"]["calls"]
    assert crowd.violated == {"guests"}
    assert_promise(crowd.passed, limit.unit_us, limit.tau_us)
    span_us = max(answered for _, answered in crowd.passed) - min(sent for sent, _ in crowd.passed)
    most = limit.burst + span_us // limit.unit_us
    assert 0.95 * most <= len(crowd.passed) <= most
    assert crowd.refused > len(crowd.passed)
    assert calls <= 0.2 * (crowd.refused + len(crowd.passed)), "the bucket was asked for nearly each request"
    assert calls < 2 * WORKERS * SPAN_S * US_PER_S / 20_000


def test_refused_guests_are_told_to_come_one_after_the_other(store: RedisServer, tmp_path: Path) -> None:
    """Of two hundred at once, a hundred times the limit, the last is told to come much later than the first."""
    env = {"SHIELD_REDIS_URL": store.url, "SHIELD_GUESTS_LIMIT": "2/second", **PATIENT}
    with asgi_server("shieldmw", "apps:app", env=env, cwd=tmp_path) as server:
        answers = [ask(server, fresh_address(), "/hello") for _ in range(200)]
    refused = [answer for answer in answers if answer.status == 429]
    waits_s = [json.loads(answer.body)["retry_after_ms"] / 1000 for answer in refused]
    assert waits_s[0] <= 1
    longest_s = LONGEST_SPREAD_US / US_PER_S
    assert waits_s[-1] > 0.8 * longest_s
    assert max(waits_s) <= longest_s + 2
    assert len(set(waits_s)) > 0.6 * longest_s
    assert all(int(answer.headers["retry-after"]) >= wait_s for answer, wait_s in zip(refused, waits_s, strict=True))


def test_what_a_client_is_told(store: RedisServer, tmp_path: Path) -> None:
    """A rule's shared limit is in both RateLimit fields beside the client's own, and its refusal names it; each
    request here is another address's."""
    rules = [{"name": "votes", "path": "/hello", "limits": "3/hour", "per": "everyone"}]
    env = {"SHIELD_REDIS_URL": store.url, "SHIELD_RULES": json.dumps(rules), **PATIENT}
    with asgi_server("shieldmw", "apps:app", env=env, cwd=tmp_path, workers=WORKERS) as server:
        answers = [ask(server, fresh_address(), "/hello") for _ in range(5)]
    assert [answer.status for answer in answers] == [200] * 3 + [429] * 2
    assert answers[0].headers["ratelimit-policy"] == '"ip";q=300;w=60, "votes";q=3;w=3600'
    assert answers[0].headers["ratelimit"].startswith('"votes";r=2;t=')
    headers, problem = answers[-1].headers, json.loads(answers[-1].body)
    assert problem["violated-policies"] == ["votes"]
    assert headers["ratelimit-policy"] == '"ip";q=300;w=60, "votes";q=3;w=3600'
    assert headers["ratelimit"].startswith('"votes";r=0;t=')
    assert 1_000_000 < problem["retry_after_ms"] <= 1_200_000 + (LONGEST_SPREAD_US + US_PER_S) / 1000
    assert int(headers["retry-after"]) * 1000 >= problem["retry_after_ms"]
