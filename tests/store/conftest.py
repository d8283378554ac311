"""Servers for the store tests: one of each kind per test process, empty at the start of every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servers import RedisKind, RedisServer, keys_without_ttl, redis_server


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
