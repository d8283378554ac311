"""Servers for the store tests: one of each kind per test process, empty at the start of every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servers import (
    RedisCluster,
    RedisKind,
    RedisSentinels,
    RedisServer,
    keys_without_ttl,
    redis_cluster,
    redis_sentinels,
    redis_server,
)


@pytest.fixture(scope="session", params=["valkey", "redis"])
def kind(request: pytest.FixtureRequest) -> RedisKind:
    """Which server: Valkey 9 or Debian's Redis 7."""
    kind: RedisKind = request.param
    return kind


@pytest.fixture(scope="session")
def shared_server(kind: RedisKind) -> Iterator[RedisServer]:
    """The server that all tests of one process share; ask for `server` instead where no test mistreats it."""
    with redis_server(kind) as server:
        yield server


@pytest.fixture
def server(shared_server: RedisServer) -> RedisServer:
    """The shared server, empty, without scripts, its statistics at zero."""
    client = shared_server.client()
    client.flushall()
    client.script_flush()
    client.config_resetstat()
    return shared_server


@pytest.fixture
def own(kind: RedisKind) -> Iterator[RedisServer]:
    """A server of its own for a test that mistreats it."""
    with redis_server(kind, enable_debug_command="yes") as server:
        yield server


@pytest.fixture(autouse=True)
def every_key_has_a_ttl(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test after which a key would stay in the shared server for ever."""
    if "shared_server" not in request.fixturenames:
        yield
        return
    server: RedisServer = request.getfixturevalue("shared_server")
    yield
    keys = keys_without_ttl(server.client())
    if keys:
        pytest.fail(f"keys without a TTL: {', '.join(keys)}")


@pytest.fixture(scope="session")
def shared_cluster(kind: RedisKind) -> Iterator[RedisCluster]:
    """The cluster that all tests of one process share."""
    with redis_cluster(kind) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: RedisCluster) -> Iterator[RedisCluster]:
    """The shared cluster, whole and empty; fails a test after which a key would stay there for ever."""
    shared_cluster.reset()
    yield shared_cluster
    shared_cluster.wait_until_converged()
    assert shared_cluster.keys_without_ttl() == []


@pytest.fixture(scope="session")
def shared_sentinels(kind: RedisKind) -> Iterator[RedisSentinels]:
    """A master, its replicas and their sentinels, for all tests of one process."""
    with redis_sentinels(kind) as sentinels:
        yield sentinels


@pytest.fixture
def sentinels(shared_sentinels: RedisSentinels) -> Iterator[RedisSentinels]:
    """The same, whole and empty; fails a test after which a key would stay there for ever."""
    shared_sentinels.reset()
    yield shared_sentinels
    with shared_sentinels.master().client() as client:
        assert keys_without_ttl(client) == []
