"""API keys from the file and the store: at most a second out of date, and kept while the store is away."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from hashlib import sha256

import pytest

from gate.doubles import (
    CountingVerifier,
    FakeClock,
    FlakyStore,
    WorkerParts,
    facts,
    memory_store,
    pass_time,
    run,
    worker,
)
from servers import RedisServer, keys_without_ttl, redis_server
from shieldmw import Identity, ListenerClass
from shieldmw.core.api_keys import ApiKey, digest
from shieldmw.errors import StoreError, StoreUnavailable
from shieldmw.gate.auth.api_keys import POLL_S, ApiKeys
from shieldmw.store.fleet import RedisStore
from shieldmw.store.port import Store
from shieldmw.store.redis.connection import RedisConnection

KEY = "shk_the-key"
ALICE = Identity("alice", ListenerClass.HOST)
REFRESHER = "shieldmw.gate.refresher"


async def issue(store: Store, key: str = KEY, identity: Identity = ALICE) -> str:
    """Issue a key; its digest."""
    table = await store.api_keys(None)
    assert table is not None
    issued = digest(key, table.digest_key)
    await store.add_api_key(ApiKey(issued, identity, 1_700_000_000))
    return issued


async def who(one: WorkerParts, credential: str) -> Identity | None:
    """The identity of one request."""
    return (await one.gate.decide(facts(credential))).identity


def proven(keys: ApiKeys) -> Identity | None:
    """Whom the key proves."""
    found = keys.find(KEY)
    return None if found is None else found[1]


def test_an_issued_key_works_within_a_second_and_stops_within_a_second() -> None:
    """Issued and revoked elsewhere, on a running worker that has seen the key."""
    clock = FakeClock()
    store = memory_store(clock)
    one = worker(store, clock, tokens=CountingVerifier())

    async def story() -> None:
        await one.start()
        issued = await issue(store)
        await pass_time(1.0)
        assert await who(one, KEY) == ALICE
        await store.revoke_api_keys([issued])
        await pass_time(1.0)
        assert await who(one, KEY) is None
        await one.stop()

    run(story())


def test_a_key_that_failed_before_it_was_issued_works_as_soon_as_it_is() -> None:
    """What a credential was worth is forgotten when the table changes, failures too."""
    clock = FakeClock()
    store = memory_store(clock)
    one = worker(store, clock, tokens=CountingVerifier())

    async def story() -> None:
        await one.api_keys.refresh()
        assert await who(one, KEY) is None
        await issue(store)
        await one.api_keys.refresh()
        assert await who(one, KEY) == ALICE

    run(story())


def test_revoking_stops_at_the_next_refresh_and_spares_the_others() -> None:
    """Only the revoked key is gone."""
    clock = FakeClock()
    store = memory_store(clock)
    one = worker(store, clock)

    async def story() -> None:
        revoked, other = await issue(store), "shk_other"
        await issue(store, other, Identity("bob"))
        await one.api_keys.refresh()
        assert await who(one, KEY) == ALICE
        assert await who(one, other) == Identity("bob")
        await store.revoke_api_keys([revoked])
        await one.api_keys.refresh()
        assert await who(one, KEY) is None
        assert await who(one, other) == Identity("bob")

    run(story())


def test_whether_a_key_is_in_force_is_told_without_reading_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Issued keys and those of the file are in force; a revoked one is not."""
    filed = sha256(b"filed").hexdigest()
    store = memory_store(FakeClock())
    keys = ApiKeys(store, {filed: ALICE})

    async def story() -> list[bool]:
        assert not keys.is_in_force("0" * 64)
        issued = await issue(store)
        await keys.refresh()
        told = [keys.is_in_force(issued), keys.is_in_force(filed), keys.is_in_force("0" * 64)]
        await store.revoke_api_keys([issued])
        await keys.refresh()
        return [*told, keys.is_in_force(issued)]

    monkeypatch.setattr(keys, "identity_of", lambda digest: pytest.fail("it was read"))
    assert run(story()) == [True, True, False, False]


def test_keys_of_the_file_work_without_any_store() -> None:
    """The file holds SHA-256 digests; the key itself proves, its digest does not."""
    clock = FakeClock()
    store = FlakyStore(memory_store(clock), failing=StoreUnavailable("away"))
    kept = sha256(KEY.encode()).hexdigest()
    one = worker(store, clock, file_keys={kept: ALICE})
    assert run(who(one, KEY)) == ALICE
    assert run(who(one, kept)) is None
    assert run(who(one, KEY.upper())) is None


def test_what_is_kept_of_a_key_proves_nothing() -> None:
    """The store's digests cannot be used as keys."""
    clock = FakeClock()
    store = memory_store(clock)
    one = worker(store, clock)

    async def story() -> None:
        issued = await issue(store)
        await one.api_keys.refresh()
        assert one.api_keys.find(KEY) == (issued, ALICE)
        for wrong in (issued, issued[:12], KEY[:-1], KEY + " ", KEY.upper(), "version", "", "\ud800", "\x00"):
            assert one.api_keys.find(wrong) is None
            assert await who(one, wrong) is None
        assert one.api_keys.find(sha256(KEY.encode()).hexdigest()) is None

    run(story())


@pytest.mark.parametrize("error", [StoreUnavailable("away"), StoreError("nonsense")])
def test_while_the_store_is_away_the_last_table_stays(error: StoreError, caplog: pytest.LogCaptureFixture) -> None:
    """An outage makes no member a guest; it is said once in the log, and polling goes on."""
    clock = FakeClock()
    store = FlakyStore(memory_store(clock))
    one = worker(store, clock, tokens=CountingVerifier())

    async def story() -> None:
        issued = await issue(store)
        await one.start()
        store.failing = error
        await pass_time(60.0)
        one.identifier.invalidate()
        assert proven(one.api_keys) == ALICE
        assert await who(one, KEY) == ALICE
        store.failing = None
        await store.revoke_api_keys([issued])
        await pass_time(1.0)
        assert await who(one, KEY) is None
        await one.stop()

    with caplog.at_level(logging.WARNING, logger=REFRESHER):
        run(story())
    assert [record.message for record in caplog.records if record.name == REFRESHER] == [
        f"API keys: cannot be refreshed, keeping what is known and retrying: {error}",
        "API keys: refreshed again",
    ]


def test_an_unchanged_table_is_not_read_again() -> None:
    """Polling costs a version, and nothing is forgotten by it."""
    changes: list[None] = []
    clock = FakeClock()
    store = memory_store(clock)
    keys = ApiKeys(store, {})
    keys.on_change = lambda: changes.append(None)

    async def story() -> None:
        await keys.refresher.start()
        await pass_time(20 * POLL_S)
        await keys.refresher.stop()

    run(story())
    assert len(changes) == 1


# --- in a real store --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A real store."""
    with redis_server("valkey") as running:
        yield running


NONSENSE: list[tuple[str | bytes, str | bytes, str]] = [
    ("a" * 64, "", "empty"),
    ("a" * 64, "nonsense", "no JSON"),
    ("a" * 64, "[]", "a list"),
    ("a" * 64, "null", "null"),
    ("a" * 64, "1", "a number"),
    ("a" * 64, b"\xff\xfe", "no UTF-8"),
    ("a" * 64, "{}", "nothing in it"),
    ("a" * 64, json.dumps({"subject": "", "class": "host", "created": 1}), "nobody"),
    ("a" * 64, json.dumps({"subject": "x" * 1025, "class": "host", "created": 1}), "too long a subject"),
    ("a" * 64, json.dumps({"subject": "x", "class": "king", "created": 1}), "no class"),
    ("a" * 64, json.dumps({"subject": "x", "class": ["host"], "created": 1}), "a class of another type"),
    ("a" * 64, json.dumps({"subject": "x", "class": "host", "created": "now"}), "no time"),
    ("a" * 64, json.dumps({"subject": "x", "class": "host", "created": float("nan")}), "not a number"),
    ("a" * 64, json.dumps({"subject": "x", "class": "host", "created": float("inf")}), "for ever"),
    ("a" * 64, '{"subject": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested deeply"),
    (b"\xff\xfe", json.dumps({"subject": "x", "class": "host", "created": 1}), "a digest that is none"),
]


@pytest.mark.parametrize(("name", "value", "reason"), NONSENSE, ids=[row[2] for row in NONSENSE])
def test_nonsense_in_the_store_is_ignored_and_spoils_nothing(
    server: RedisServer, name: str | bytes, value: str | bytes, reason: str
) -> None:
    """An entry that somebody else wrote proves nobody, and keys beside it go on working and stop when revoked."""
    client = server.client()
    client.flushall()

    async def story() -> None:
        store = RedisStore(RedisConnection(server.url, 2.0), prefix="shield", secret=b"x" * 32, candidate=b"y" * 32)
        keys = ApiKeys(store, {})
        try:
            issued = await issue(store)
            client.hset("shield:api-keys", name, value)
            client.hincrby("shield:api-keys", "version", 1)
            await keys.refresh()
            assert proven(keys) == ALICE, reason
            await store.revoke_api_keys([issued])
            await keys.refresh()
            assert proven(keys) is None, reason
        finally:
            await store.aclose()

    asyncio.run(story())
    assert not keys_without_ttl(client)


def test_a_table_that_cannot_be_read_leaves_the_last_one(server: RedisServer) -> None:
    """A key of another type is a failure of the store, not an empty table."""
    client = server.client()
    client.flushall()

    async def story() -> None:
        store = RedisStore(RedisConnection(server.url, 2.0), prefix="shield", secret=b"x" * 32, candidate=b"y" * 32)
        keys = ApiKeys(store, {})
        try:
            await issue(store)
            await keys.refresh()
            client.set("shield:api-keys", "nonsense", ex=60)
            with pytest.raises(StoreError):
                await keys.refresh()
            assert proven(keys) == ALICE
        finally:
            await store.aclose()

    asyncio.run(story())
