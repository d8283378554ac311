"""A managed Redis behind one name: at a failover the name moves, while the old server stays up and cannot serve."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from servers import RedisKind, RedisServer, redis_server
from shieldmw.errors import NotApplied, StoreUnavailable
from shieldmw.store.fleet import RedisStore
from shieldmw.store.redis import connection as store_redis
from store.fleets import listening, until
from store.names import becomes_a_replica, named
from store.stores import AMPLE_S, calls, one, opened, run, slow_limit, take

BUDGET_S = 0.5


@pytest.fixture(scope="module")
def module_pair(kind: RedisKind) -> Iterator[tuple[RedisServer, RedisServer]]:
    """Two servers of this file's tests."""
    with redis_server(kind) as first, redis_server(kind) as second:
        yield first, second


@pytest.fixture
def pair(module_pair: tuple[RedisServer, RedisServer]) -> tuple[RedisServer, RedisServer]:
    """The same, both masters."""
    for server in module_pair:
        client = server.client()
        client.replicaof("NO", "ONE")
        client.config_set("min-replicas-to-write", 0)
    return module_pair


def is_left_alone(old: RedisServer, new: RedisServer) -> None:
    """It has lost its replicas, and answers writes with NOREPLICAS."""
    old.client().config_set("min-replicas-to-write", 1)


async def answers(store: RedisStore) -> bool:
    """Whether a charge can be taken."""
    try:
        return (await take(store, one(slow_limit(1000)))).allowed
    except NotApplied:
        return False


@pytest.mark.parametrize("harm", [becomes_a_replica, is_left_alone])
def test_a_worker_goes_where_the_name_leads(
    pair: tuple[RedisServer, RedisServer], harm: Callable[[RedisServer, RedisServer], None]
) -> None:
    """The second call after the move is decided there, and what is told there is heard."""
    old, new = pair

    async def work() -> None:
        async with named(old) as name, opened(name.url, timeout_s=AMPLE_S) as store, listening(store) as heard:
            assert await answers(store)
            harm(old, new)
            name.target = new
            assert [await answers(store), await answers(store)] == [False, True]
            await until(lambda: heard.count("") == 2, "the subscription there")
            new.client().publish("shield:{control}:changes", "mode")
            await until(lambda: "mode" in heard, "what is told there")

    run(work())


def test_no_storm_of_connections(pair: tuple[RedisServer, RedisServer], monkeypatch: pytest.MonkeyPatch) -> None:
    """While the name still leads to the old server it is asked again over the same connection for a while."""
    old, new = pair
    monkeypatch.setattr(store_redis, "LEAVE_EVERY_S", 3600.0)

    async def work() -> None:
        async with named(old) as name, opened(name.url, timeout_s=AMPLE_S) as store:
            assert await answers(store)
            becomes_a_replica(old, new)
            assert [await answers(store) for _ in range(50)] == [False] * 50
            assert name.connections == 2

    run(work())


def test_a_connection_that_hangs_is_left(pair: tuple[RedisServer, RedisServer]) -> None:
    """The old server is gone without a word: one call waits for its budget, the next is decided by the new one."""
    old, new = pair

    async def work() -> None:
        async with named(old) as name, opened(name.url, timeout_s=BUDGET_S) as store:
            assert await answers(store)
            name.fall_silent()
            with pytest.raises(StoreUnavailable):
                await take(store, one(slow_limit(1000)))
            name.target = new
            assert await answers(store)

    run(work())


def test_a_listener_leaves_a_server_that_falls_silent(
    pair: tuple[RedisServer, RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is asked and says nothing; one that answers is listened to as long as nothing is told."""
    old, new = pair
    monkeypatch.setattr(store_redis, "QUIET_S", 0.3)

    async def work() -> None:
        async with named(old) as name, opened(name.url, timeout_s=AMPLE_S) as store, listening(store) as heard:
            client = old.client()
            pings = calls(client, "ping")
            await until(lambda: calls(client, "ping") >= pings + 3, "the listener's questions")
            assert heard == [""]
            name.fall_silent()
            name.target = new
            await until(lambda: heard.count("") == 2, "the subscription there")

    run(work())
