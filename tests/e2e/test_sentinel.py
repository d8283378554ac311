"""A worker whose store is behind Sentinels: the master is replaced, and no client notices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.test_cluster import PATIENCE_S, Crowd, settled
from servers import RedisSentinels, asgi_server, redis_sentinels, wait_until


@pytest.fixture
def sentinels() -> Iterator[RedisSentinels]:
    """A master with replicas and sentinels."""
    with redis_sentinels("redis") as sentinels:
        yield sentinels


def test_a_failover_costs_nobody_an_answer(sentinels: RedisSentinels, tmp_path: Path) -> None:
    """The master is killed under traffic: every answer is 200, by the same process, and the new master is charged."""
    env = {"SHIELD_REDIS_URL": sentinels.url, "SHIELD_IP_LIMIT": "100000/second"}
    with (
        asgi_server("uvicorn", "shielded_app:shielded", env=env, cwd=tmp_path) as server,
        Crowd(server) as crowd,
    ):
        old = sentinels.master()
        old.kill()
        wait_until(lambda: "the store is away" in server.log(), PATIENCE_S, "the breaker", server.log)
        new = sentinels.wait_for_failover(old)
        wait_until(lambda: settled(server), PATIENCE_S, "the store", server.log)
        crowd.go_on()
        client = new.client()
        client.flushall()

        def charged() -> bool:
            return any(b"{" in bytes(key) and b"control" not in bytes(key) for key in client.scan_iter())

        wait_until(charged, PATIENCE_S, "charges at the new master", server.log)
