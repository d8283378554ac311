"""The store behind Sentinels: charges go to the current master, which is found again after a failover."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from servers import HOST, RedisSentinels, RedisServer, redis_sentinels, redis_server, wait_until
from shieldmw.core.bucket import Charge
from shieldmw.core.mode import Mode, ModeChange, ModeState
from shieldmw.errors import SettingsError, StoreError, StoreUnavailable
from shieldmw.settings import Settings
from shieldmw.store.documents import MODE
from shieldmw.store.opener import store_opener
from shieldmw.store.port import AuditEntry, Store
from store.fleets import ONCE, PATIENCE_S, fleet, key, listening, off, opened, patiently, remaining, take
from store.stores import run, slow_limit, someone

LIMIT = slow_limit(100)

# How long a request may take where the master is gone: budgets to find that out and to ask the sentinels, and slack.
TOLD_S = 5.0


def lies_on(server: RedisServer) -> bool:
    """Whether the bucket under test is there."""
    with server.client() as client:
        return bool(client.exists(key(someone(), LIMIT)))


def all_have_it(sentinels: RedisSentinels) -> bool:
    """Whether the replicas have it too."""
    return all(lies_on(server) for server in sentinels.running)


async def taken(store: Store) -> bool:
    """Whether a unit is taken; False where the store is away, which is told in time."""
    async with asyncio.timeout(TOLD_S):
        try:
            return (await take(store, Charge(someone(), LIMIT))).allowed
        except StoreUnavailable:
            return False


def test_the_master_is_charged(sentinels: RedisSentinels) -> None:
    """Found by asking the sentinels; its replicas are written to by nobody else."""

    async def work() -> None:
        async with fleet(sentinels.url, 2) as stores:
            for number in range(10):
                assert await taken(stores[number % 2])
            assert await remaining(stores[0], someone(), LIMIT) == 90

    run(work())
    assert lies_on(sentinels.master())


def test_a_polite_failover_is_followed(sentinels: RedisSentinels) -> None:
    """The old master lives on as a replica: what is charged afterwards is charged at the new one; nothing is lost."""

    async def work() -> None:
        async with fleet(sentinels.url, 2) as stores:
            assert await taken(stores[0])
            assert await taken(stores[1])
            await off(wait_until, lambda: all_have_it(sentinels), PATIENCE_S, "the replicas")
            new = await off(sentinels.fail_over)
            before = new.client().get(key(someone(), LIMIT))

            async def lands(store: Store) -> bool:
                return await taken(store) and new.client().get(key(someone(), LIMIT)) != before

            for store in stores:
                # The old master takes writes for some ten seconds yet: who does not ask the sentinels loses them.
                await patiently(lambda store=store: lands(store), "a charge at the new master")  # type: ignore[misc]
                before = new.client().get(key(someone(), LIMIT))
            assert await remaining(stores[1], someone(), LIMIT) <= 96

    run(work())


def test_a_dead_master_is_gone_for_seconds(sentinels: RedisSentinels) -> None:
    """Meanwhile a request is told in time; then the new master is charged, and stays so when the old one returns."""

    async def work() -> None:
        async with opened(sentinels.url, timeout_ms=200) as store:
            await patiently(lambda: taken(store), "the store")
            await off(wait_until, lambda: all_have_it(sentinels), PATIENCE_S, "the replicas")
            old = sentinels.master()
            if sentinels.kind == "valkey":  # either way with one of the kinds: it takes seconds
                old.kill()
            else:
                old.pause()
            assert not await taken(store)
            new = await off(sentinels.wait_for_failover, old)
            await patiently(lambda: taken(store), "the new master")
            assert await remaining(store, someone(), LIMIT) <= 98
            await off(sentinels.reset)
            await patiently(lambda: taken(store), "the store")
            assert await taken(store)
            assert lies_on(new)

    run(work())


@pytest.mark.parametrize("known", [1, 2], ids=["one of three", "the first is dead"])
def test_some_of_the_sentinels_are_enough(sentinels: RedisSentinels, known: int) -> None:
    """The URL may name one of them, and those that are dead are passed over."""
    first, second, _ = sentinels.sentinels
    url = sentinels.url_of([first, second][2 - known :])
    if known == 2:
        first.kill()

    async def work() -> None:
        async with opened(url) as store:
            assert await taken(store)

    run(work())
    assert lies_on(sentinels.master())


@ONCE
def test_scripts_that_the_new_master_never_saw_are_loaded(sentinels: RedisSentinels) -> None:
    """Forgotten, as after a failover, they are loaded again, and nobody notices."""

    async def work() -> None:
        async with opened(sentinels.url) as store:
            assert await taken(store)
            sentinels.master().client().script_flush()
            assert await taken(store)

    run(work())


@ONCE
def test_changes_are_heard_from_the_new_master(sentinels: RedisSentinels) -> None:
    """Subscribers of the old master listen at the new one within seconds, and the mode has survived."""

    async def work() -> None:
        async with fleet(sentinels.url, 2) as stores, listening(stores[0]) as heard:
            await stores[1].set_document(
                MODE, ModeChange(Mode.EMERGENCY, "ops"), was=ModeState(), expected_version=None
            )
            await off(wait_until, lambda: "mode" in heard, PATIENCE_S, "the change")
            replicas = [server for server in sentinels.servers if server is not sentinels.master()]

            def kept() -> bool:
                return all(server.client().exists("shield:{control}:mode") for server in replicas)

            await off(wait_until, kept, PATIENCE_S, "the replicas")
            await off(sentinels.fail_over)

            async def told() -> bool:
                try:
                    await stores[1].note(AuditEntry(0, "ops", "test", "", "", ""))
                except StoreUnavailable:
                    return False
                return "audit" in heard

            await patiently(told, "the word")
            assert (await stores[0].document(MODE)).state.mode is Mode.EMERGENCY

    run(work())


@ONCE
def test_a_closed_store_leaves_no_connection(sentinels: RedisSentinels) -> None:
    """A worker holds one connection to the master and one to a sentinel, one more to hear; none when it has closed."""

    def at_the_master() -> int:
        with sentinels.master().client() as client:
            return sum(entry["name"] == "shieldmw" for entry in client.client_list())

    def at_sentinels() -> int:
        lists = [bytes(sentinel.ask("CLIENT", "LIST", "TYPE", "normal")) for sentinel in sentinels.sentinels]
        return sum(each.count(b" name=shieldmw ") for each in lists)

    async def work() -> None:
        async with opened(sentinels.url) as store, listening(store):
            for _ in range(10):
                assert await taken(store)
            assert await off(at_the_master) == 2
            assert await off(at_sentinels) == 1

    run(work())
    wait_until(lambda: at_the_master() + at_sentinels() == 0, PATIENCE_S, "the connections to end")


# --- what cannot be -------------------------------------------------------------------------------


def failure(url: str, timeout_ms: int = 500) -> str:
    """What a request is told, in time, at a URL where there is no store."""
    text = ""

    async def work() -> None:
        nonlocal text
        async with opened(url, timeout_ms=timeout_ms) as store:
            for _ in range(2):
                async with asyncio.timeout(TOLD_S):
                    with pytest.raises(StoreUnavailable) as failed:
                        await take(store, Charge(someone(), LIMIT))
                text = str(failed.value)

    run(work())
    return text


@ONCE
def test_a_service_that_no_sentinel_knows_is_named(sentinels: RedisSentinels) -> None:
    """One clear error, not a hang: the master may be configured any moment."""
    assert "no-such-service" in failure(sentinels.url_of(sentinels.sentinels, "no-such-service"))


def test_no_sentinel_is_reachable() -> None:
    """One clear error says that it is the sentinels, and shows no password."""
    with redis_server("redis") as gone:
        port = gone.port
    text = failure(f"redis+sentinel://:sesame@{HOST}:{port},{HOST}:{port}/shield")
    assert "sentinel" in text.lower()
    assert "sesame" not in text


@ONCE
def test_a_hung_sentinel_is_passed_over(sentinels: RedisSentinels) -> None:
    """The next one is asked, within a budget or two."""
    with redis_server("redis") as hung:
        hung.pause()
        url = sentinels.url.replace("//", f"//{HOST}:{hung.port},")

        async def work() -> None:
            async with opened(url, timeout_ms=300) as store:
                await patiently(lambda: taken(store), "the store")

        run(work())


def test_sentinels_that_name_a_replica_are_not_believed(sentinels: RedisSentinels) -> None:
    """A master that has become a replica says READONLY: unavailable, then asked for anew, and never written to."""

    async def work() -> None:
        async with opened(sentinels.url, timeout_ms=1000) as store:
            assert await taken(store)
            old = sentinels.master()
            new = next(server for server in sentinels.servers if server is not old)
            old.client().replicaof(HOST, str(new.port))  # the sentinels do not know, and undo it after seconds
            with pytest.raises(StoreUnavailable):
                await take(store, Charge(someone(), LIMIT))
            old.client().replicaof("NO", "ONE")
            await patiently(lambda: taken(store), "the store")

    run(work())


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://host:26379",  # no service
        "redis+sentinel://host:26379/",
        "redis+sentinel:///shield",  # no host
        "redis+sentinel://host:no-port/shield",
        "redis+sentinel://host:26379/shield/one",  # a database is a number
    ],
)
def test_a_url_that_names_no_service_stops_the_start(url: str) -> None:
    """The error names the variable."""
    with pytest.raises(SettingsError, match="SHIELD_REDIS_URL"):
        store_opener(Settings.from_environ({"SHIELD_REDIS_URL": url}))


def test_a_database_and_a_password_are_the_masters() -> None:
    """The number after the service is the database, and the password opens the master; a wrong one is told."""
    with redis_sentinels("redis", replicas=1, password="p:/@ß,w") as sentinels:
        url = sentinels.url_of(sentinels.sentinels, database="/3")

        async def work(url: str) -> None:
            async with opened(url) as store:
                assert (await take(store, Charge(someone(), LIMIT))).allowed

        run(work(url))
        keyspace: Any = sentinels.master().client().info("keyspace")
        assert keyspace.keys() == {"db3"}
        with pytest.raises(StoreError, match=r"(?i)wrongpass|invalid .*password|authenticat"):
            run(work(url.replace("//:p", "//:q")))
