"""Real servers for the commands that need a store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servers import RedisServer, keys_without_ttl, redis_server


@pytest.fixture(scope="session")
def session_store() -> Iterator[RedisServer]:
    """The server that the tests of one process share; ask for `store` instead."""
    with redis_server("valkey") as server:
        yield server


@pytest.fixture
def store(session_store: RedisServer) -> Iterator[RedisServer]:
    """A running, empty server; every key that a test leaves there must end by itself."""
    session_store.ensure_running()
    session_store.client().flushall()
    yield session_store
    assert not keys_without_ttl(session_store.client())
