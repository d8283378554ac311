"""Versioned tables are copied in pages, then only their changes; the copy equals the store's table."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from ipaddress import ip_network
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servers import RedisServer
from shieldmw.core.api_keys import ApiKey
from shieldmw.core.client import Identity
from shieldmw.core.deny import MOST_ENTRIES, DenyEntry
from shieldmw.errors import StoreError, StoreUnavailable
from shieldmw.store import mirror, records
from shieldmw.store.fleet import RedisStore
from shieldmw.store.keys import Names
from shieldmw.store.mirror import LOGGED, MOST_FIELDS, PAGE, Mirror
from shieldmw.store.redis.cluster import slot_of
from shieldmw.store.redis.connection import RedisConnection
from store.stores import AMPLE_S, API_KEYS_KEY, calls, opened, run

T = TypeVar("T")

MANY = 20_000
KEYS = {
    f"{number:064x}": json.dumps({"subject": f"m{number}", "class": "member", "created": 1}) for number in range(MANY)
}
CREATED = ApiKey("f" * 64, Identity("alice"), 1)
UNTIL_S = 4_102_444_800


def fill(server: RedisServer) -> None:
    """Many keys, as if issued long ago: the log tells nothing of them."""
    client = server.client()
    client.hset(API_KEYS_KEY, mapping=dict[Any, Any](KEYS) | {"version": "1"})
    client.expire(API_KEYS_KEY, 600)
    client.config_resetstat()


async def beside(others: Callable[[], Coroutine[Any, Any, None]], work: Awaitable[T]) -> T:
    """Do the work while others go on."""
    task = asyncio.create_task(others())
    try:
        return await work
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def digests(store: RedisStore) -> set[str]:
    """The digests of the keys that are in force."""
    table = await store.api_keys(None)
    assert table is not None
    return set(table.entries)


def test_many_keys_are_read_by_pages_between_which_the_loop_goes_on(server: RedisServer) -> None:
    """No call brings all of them, and nothing waits until all are there."""
    fill(server)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def story() -> None:
        async with opened(server.url) as store:
            table = await beside(others, store.api_keys(None))
            assert table is not None
            assert len(table.entries) == MANY

    run(story())
    assert calls(server.client(), "hgetall") == 0
    assert turns >= calls(server.client(), "hscan") >= MANY / PAGE / 2


def test_one_change_among_many_costs_one_field(server: RedisServer) -> None:
    """A key that is issued or revoked is read alone, however many others there are."""
    fill(server)
    client = server.client()

    async def story() -> None:
        async with opened(server.url) as store, opened(server.url) as operator:
            table = await store.api_keys(None)
            assert table is not None
            pages = calls(client, "hscan")
            await operator.add_api_key(CREATED)
            table = await store.api_keys(table.version)
            assert table is not None
            assert table.entries[CREATED.digest] == CREATED
            assert await operator.revoke_api_keys([CREATED.digest, next(iter(KEYS))]) == 2
            table = await store.api_keys(table.version)
            assert table is not None
            assert CREATED.digest not in table.entries
            assert len(table.entries) == MANY - 1
            assert calls(client, "hscan") == pages

    run(story())


@pytest.mark.parametrize("many", [LOGGED, MOST_FIELDS + 1], ids=["versions", "fields"])
def test_who_has_missed_too_much_reads_all_again(server: RedisServer, many: int) -> None:
    """A log that does not reach back far enough is no answer."""

    async def story() -> None:
        async with opened(server.url) as store, opened(server.url) as operator:
            await operator.add_api_key(CREATED)
            assert await digests(store) == {CREATED.digest}
            issued = [ApiKey(digest, Identity("bob"), 1) for digest in list(KEYS)[:many]]
            if many == LOGGED:
                for one in issued:
                    await operator.add_api_key(one)
            else:
                await asyncio.gather(*(operator.add_api_key(one) for one in issued))
                await operator.revoke_api_keys([one.digest for one in issued])
                issued = []
            assert await digests(store) == {CREATED.digest, *(one.digest for one in issued)}

    run(story())


def test_a_change_that_nobody_logged_is_seen(server: RedisServer) -> None:
    """A key is removed by hand, or by a release that keeps no log."""
    client = server.client()

    async def story() -> None:
        async with opened(server.url) as store:
            await store.add_api_key(CREATED)
            assert await digests(store) == {CREATED.digest}
            client.hdel(API_KEYS_KEY, CREATED.digest)
            client.hincrby(API_KEYS_KEY, "version", 1)
            assert await digests(store) == set()

    run(story())


def test_a_store_that_lost_the_table_has_none(server: RedisServer) -> None:
    """Nothing of what the copy held stays."""

    async def story() -> None:
        async with opened(server.url) as store:
            await store.add_api_key(CREATED)
            assert await digests(store) == {CREATED.digest}
            server.client().flushall()
            assert await digests(store) == set()

    run(story())


class _FailingPages:
    """A connection that fails at one of the pages."""

    slotted = False

    def __init__(self, inner: RedisConnection) -> None:
        self.inner = inner
        self.failing_at = -1
        self.pages = 0

    async def command(self, *command: str | int | bytes) -> Any:
        """One command; a page only if it may."""
        if command[0] == "HSCAN":
            self.pages += 1
            if self.pages == self.failing_at:
                raise StoreUnavailable("away")
        return await self.inner.command(*command)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_a_page_that_fails_leaves_the_copy_as_it_was(server: RedisServer) -> None:
    """No half a table is ever in force."""
    fill(server)
    client = server.client()

    async def story() -> None:
        connection = RedisConnection(server.url, AMPLE_S)
        redis = _FailingPages(connection)
        names = Names("shield")
        copy = Mirror(redis, names.api_keys, names.api_keys_log)
        redis.failing_at = 3
        with pytest.raises(StoreError, match="away"):
            await copy.refresh()
        assert (copy.version, copy.fields) == (0, {})
        await copy.refresh()
        before = dict(copy.fields)
        assert len(before) == MANY
        client.hset(API_KEYS_KEY, mapping={next(iter(KEYS)): "other", "version": "2"})
        redis.failing_at = redis.pages + 3
        with pytest.raises(StoreError, match="away"):
            await copy.refresh()
        assert (copy.version, copy.fields) == (1, before)
        await connection.aclose()

    run(story())


async def changed(
    redis: RedisConnection, table: Mirror, *, drop: Sequence[str] = (), put: Sequence[str | int] = ()
) -> None:
    """Change fields the way that the store does."""
    arguments = (600_000, str(mirror.new_version()), LOGGED, MOST_FIELDS, "", 0, "channel", "", "always")
    await redis.run("change", table.keys, (*arguments, len(drop), *drop, *put))


CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 9), st.integers(0, 3)),
        st.tuples(st.just("drop"), st.lists(st.integers(0, 9), max_size=4).map(tuple), st.just(0)),
        st.tuples(st.just("by hand"), st.integers(0, 9), st.integers(0, 3)),
        st.tuples(st.just("lost"), st.just(0), st.just(0)),
        st.tuples(st.just("look"), st.integers(0, 1), st.just(0)),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CHANGES)
def test_copies_are_what_the_store_has(shared_server: RedisServer, changes: Sequence[tuple[str, Any, int]]) -> None:
    """Whatever is changed, logged or not, and however seldom a copy looks."""
    client = shared_server.client()
    client.flushall()

    async def story() -> None:
        redis = RedisConnection(shared_server.url, AMPLE_S)
        copies = [Mirror(redis, "shield:table", "shield:{shield:table}:log") for _ in range(2)]
        operator = copies[0]
        for what, name, value in changes:
            if what == "set":
                await changed(redis, operator, put=(f"f{name}", value))
            elif what == "drop":
                await changed(redis, operator, drop=[f"f{number}" for number in name] or ["none"])
            elif what == "by hand":
                client.hset("shield:table", mapping={f"f{name}": value, "version": mirror.new_version()})
                client.expire("shield:table", 60)
            elif what == "lost":
                client.flushall()
            else:
                await copies[name].refresh()
        expected = client.hgetall("shield:table")
        expected.pop(b"version", None)
        for copy in copies:
            await copy.refresh()
            assert copy.fields == expected
        await redis.aclose()

    run(story())


def test_the_log_lies_where_its_table_does() -> None:
    """One transaction changes both, in a cluster too, and both begin with the prefix."""
    names = Names("shield")
    for table, log in ((names.api_keys, names.api_keys_log), (names.deny, names.deny_log)):
        assert slot_of(table) == slot_of(log)
        assert log.startswith("shield:")


def test_of_the_longest_deny_list_only_what_changed_is_read(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One network more or less of ten thousand is one text to read, and between them the loop goes on."""
    networks = [DenyEntry(ip_network(f"10.{n >> 8}.{n & 255}.0/24"), UNTIL_S, "kim", "") for n in range(MOST_ENTRIES)]
    read = 0
    turns = 0
    parse = records.parse_deny

    def counting(name: bytes, value: bytes) -> DenyEntry | None:
        nonlocal read
        read += 1
        return parse(name, value)

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def story() -> None:
        nonlocal read
        async with opened(server.url) as store:
            await store.restore_deny(networks)
            known = await beside(others, store.deny_list(None))
            assert known is not None
            assert (read, len(known.entries)) == (MOST_ENTRIES, MOST_ENTRIES)
            read = 0
            await store.deny(DenyEntry(ip_network("192.0.2.0/24"), UNTIL_S, "kim", ""))
            known = await store.deny_list(known.version)
            assert known is not None
            assert (read, len(known.entries)) == (1, MOST_ENTRIES + 1)
            assert known.until_s(ip_network("192.0.2.0/24")[7].packed, 0.0) == UNTIL_S
            assert known.until_s(ip_network("10.1.1.0/24")[7].packed, 0.0) == UNTIL_S
            await store.undeny("10.1.1.0/24", "kim")
            known = await store.deny_list(known.version)
            assert known is not None
            assert known.until_s(ip_network("10.1.1.0/24")[7].packed, 0.0) is None
            assert read == 1

    monkeypatch.setattr(records, "parse_deny", counting)
    run(story())
    assert turns > MOST_ENTRIES / 100
