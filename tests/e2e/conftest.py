"""Stores for end-to-end tests: one server of each kind per test process, empty at the start of every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servers import RedisKind, RedisServer, keys_without_ttl, redis_server


@pytest.fixture(scope="session", params=["valkey", "redis"])
def store_kind(request: pytest.FixtureRequest) -> RedisKind:
    """Which server plays the store: what uses it runs once on each."""
    kind: RedisKind = request.param
    return kind


@pytest.fixture(scope="session")
def store_server(store_kind: RedisKind) -> Iterator[RedisServer]:
    """The server that the tests of one process share; ask for `store` instead."""
    with redis_server(store_kind) as server:
        yield server


@pytest.fixture
def store(store_server: RedisServer) -> RedisServer:
    """A running, empty server, with the configuration it started with and its statistics at zero."""
    store_server.ensure_running()
    client = store_server.client()
    client.flushall()
    client.config_resetstat()
    return store_server


@pytest.fixture
def store_url(store: RedisServer) -> str:
    """The URL of `store` for SHIELD_REDIS_URL."""
    return store.url


@pytest.fixture(autouse=True)
def every_key_has_a_ttl(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a key without a TTL in the store: such a key would stay for ever."""
    if "store" not in request.fixturenames:
        yield
        return
    store: RedisServer = request.getfixturevalue("store")
    yield
    store.ensure_running()
    keys = keys_without_ttl(store.client())
    if keys:
        pytest.fail(f"keys without a TTL: {', '.join(keys)}")
