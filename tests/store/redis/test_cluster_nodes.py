"""The nodes of a Redis Cluster: how they are found, and what happens to requests while one is down."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from servers import HOST, RedisCluster, redis_cluster, redis_server, slot_of, wait_until
from shieldmw.core.bucket import Charge, Outcome, TakeRequest
from shieldmw.core.client import Client
from shieldmw.errors import NotApplied, SettingsError, StoreError, StoreUnavailable
from shieldmw.settings import Settings
from shieldmw.store.opener import store_opener
from shieldmw.store.port import PartialFailure
from store.fleets import (
    ONCE,
    PATIENCE_S,
    SLOW,
    clients_of,
    key,
    off,
    opened,
    owner,
    patiently,
    remaining,
    take,
)
from store.stores import run, slow_limit, someone


async def told_not(told: Any) -> bool:
    """The contrary."""
    return not await told


# --- nodes that go --------------------------------------------------------------------------------


def test_a_dead_master_is_gone_for_seconds(cluster: RedisCluster) -> None:
    """Meanwhile a request is told in time; then all is decided again, and on nodes that lived no bucket has changed."""

    async def work() -> None:
        clients = clients_of(cluster, 2)
        limit = slow_limit(1000)
        async with opened(cluster.url, timeout_ms=200) as store:

            async def told(client: Client) -> bool:
                async with asyncio.timeout(5):
                    try:
                        taken[client] += (await take(store, Charge(client, limit))).allowed
                    except StoreUnavailable:
                        return False
                return True

            async def all_are() -> bool:
                return all([await told(client) for client in clients])

            taken = dict.fromkeys(clients, 0)
            await patiently(all_are, "the first outcomes")
            dead = owner(cluster, clients[0])
            cluster.hurry()
            if cluster.kind == "valkey":  # either way with one of the kinds: it takes seconds
                dead.kill()
            else:
                cluster.hang(dead)
            await patiently(lambda: told_not(told(clients[0])), "the failure")
            await off(cluster.wait_until_converged)
            await patiently(all_are, "the store")
            assert owner(cluster, clients[0]) is not dead
            for client in clients[2:]:
                # A take that was told to have failed may have been charged.
                assert await remaining(store, client, limit) <= 1000 - taken[client]
            assert await all_are()

    run(work())
    cluster.wait_until_converged()


@ONCE
def test_a_hung_node_holds_up_no_other(cluster: RedisCluster) -> None:
    """While one master hangs, requests for the others' buckets are answered, until the cluster gives up."""

    async def work() -> None:
        clients = clients_of(cluster, 1)
        async with opened(cluster.url, timeout_ms=1000) as store:
            for client in clients:
                assert (await take(store, Charge(client, SLOW))).allowed
            cluster.hang(owner(cluster, clients[0]))
            lost = asyncio.create_task(take(store, Charge(clients[0], SLOW)))
            for client in clients[1:] * 2:
                async with asyncio.timeout(0.9):
                    assert (await take(store, Charge(client, SLOW))).allowed
            with pytest.raises(StoreUnavailable):
                await lost
            for _ in range(3):  # also in one call with them
                with pytest.raises(PartialFailure) as part:
                    await store.take([TakeRequest((Charge(client, SLOW, 0),)) for client in clients])
                assert [type(result) for result in part.value.results] == [NotApplied, Outcome, Outcome]

    run(work())
    cluster.reset()


@ONCE
def test_a_node_that_is_away_is_told_once(
    cluster: RedisCluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line when it goes, however many ask, and one when it is back; no more of them where it comes and goes."""

    async def work() -> None:
        clients = clients_of(cluster, 2)
        node = owner(cluster, clients[0])
        told = [f"node {HOST}:{node.port} of the cluster {what}" for what in ("is away", "answers again")]

        async def answers() -> bool:
            asked = [take(store, Charge(client, SLOW, 0)) for client in clients[:2] * 5]
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert all(isinstance(result, Outcome | StoreUnavailable) for result in results)
            return all(isinstance(result, Outcome) for result in results)

        async def comes_and_goes() -> list[str]:
            caplog.clear()
            node.kill()
            for _ in range(3):
                assert not await answers()
            await off(node.start)
            await patiently(answers, "the node")
            texts = [record.getMessage() for record in caplog.records if record.name == "shieldmw.store.redis.cluster"]
            assert all("closed the connection" in text or "refused" in text for text in texts[:1])  # it says why
            return [text.partition(" (")[0] for text in texts]

        async with opened(cluster.url) as store:
            assert await answers()
            monkeypatch.setattr("shieldmw.store.redis.cluster.LOG_EVERY_S", 3600.0)
            assert await comes_and_goes() == told
            assert await comes_and_goes() == []
            monkeypatch.setattr("shieldmw.store.redis.cluster.LOG_EVERY_S", 0.0)
            assert await comes_and_goes() == told

    run(work())


@ONCE
def test_a_node_that_was_away_and_is_replaced_is_told(cluster: RedisCluster, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody will ask it again: it ends with another line. A store that is closed meanwhile tells nothing."""

    async def work() -> None:
        client = clients_of(cluster, 1)[0]
        async with opened(cluster.url, timeout_ms=1000) as store:
            assert (await take(store, Charge(client, SLOW))).allowed
            node = owner(cluster, client)
            cluster.hurry()
            cluster.hang(node)
            with pytest.raises(StoreUnavailable):
                await take(store, Charge(client, SLOW))
            await off(cluster.wait_until_converged)

            def told() -> list[str]:
                return [record.getMessage() for record in caplog.records if f":{node.port} " in record.getMessage()]

            async def replaced() -> bool:
                await asyncio.gather(take(store, Charge(client, SLOW)), return_exceptions=True)
                return len(told()) == 2

            await patiently(replaced, "the replica")
            assert [text.partition(" (")[0] for text in told()] == [
                f"node {HOST}:{node.port} of the cluster {what}" for what in ("is away", "has been replaced")
            ]

    run(work())
    cluster.reset()


@ONCE
def test_closing_tells_of_no_node(cluster: RedisCluster, caplog: pytest.LogCaptureFixture) -> None:
    """Calls that are cut off by it say nothing of the nodes."""

    async def work() -> None:
        hung, other, _ = clients_of(cluster, 1)
        async with opened(cluster.url) as store:
            for client in (hung, other):
                assert (await take(store, Charge(client, SLOW))).allowed
            cluster.hang(owner(cluster, hung))
            cut_off = asyncio.create_task(take(store, Charge(hung, SLOW)))
            assert (await take(store, Charge(other, SLOW))).allowed  # so the one before has been sent
        with pytest.raises(StoreUnavailable, match="closed"):
            await cut_off
        assert caplog.records == []

    run(work())
    cluster.reset()


# --- finding it -----------------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["one master", "one replica", "a dead one first"])
def test_one_node_is_enough_to_find_the_others(cluster: RedisCluster, named: str) -> None:
    """Whatever part of the cluster the URL names, all of it is used."""
    replica = cluster.replicas(cluster.masters()[0])[0]
    with redis_server("redis") as gone:
        dead = f"{HOST}:{gone.port}"
    url = {
        "one master": cluster.url_of([cluster.masters()[1]]),
        "one replica": cluster.url_of([replica]),
        "a dead one first": cluster.url.replace("//", f"//{dead},"),
    }[named]

    async def work() -> None:
        async with opened(url) as store:
            for client in clients_of(cluster, 2):
                assert (await take(store, Charge(client, SLOW))).allowed
        assert cluster.dbsizes() == [2, 2, 2]

    run(work())


@ONCE
@pytest.mark.parametrize(("endpoint", "host"), [("hostname", b"localhost"), ("unknown-endpoint", None)])
def test_nodes_may_have_names_or_none(cluster: RedisCluster, endpoint: str, host: bytes | None) -> None:
    """A cluster that calls its nodes by name, or only by port, is found and followed through a move."""

    def named(name: str, endpoint: str) -> None:
        for node in cluster.nodes:
            cluster.command(node, "CONFIG SET", "cluster-announce-hostname", name)
            cluster.command(node, "CONFIG SET", "cluster-preferred-endpoint-type", endpoint)

    def known() -> bool:
        ranges = [cluster.command(node, "CLUSTER SLOTS") for node in cluster.nodes]
        return all(name == host for each in ranges for _, _, *owners in each for name, *_ in owners)

    async def work() -> None:
        clients = clients_of(cluster, 2)
        async with opened(cluster.url_of(cluster.nodes[:1])) as store:
            for _ in range(2):
                for client in clients:
                    assert (await take(store, Charge(client, SLOW))).allowed
                cluster.move(slot_of(key(clients[0], SLOW))).run()

    try:
        cluster.hurry()  # names are gossip
        named("localhost", endpoint)
        wait_until(known, PATIENCE_S, endpoint)
        run(work())
    finally:
        named("", "ip")


def test_a_password_opens_every_node() -> None:
    """Each of them requires it; a wrong one is reported, whichever node is asked."""
    with redis_cluster("redis", password="p:/@ß,w") as cluster:

        async def work() -> None:
            async with opened(cluster.url) as store:
                for client in clients_of(cluster, 1):
                    assert (await take(store, Charge(client, SLOW))).allowed
            async with opened(cluster.url.replace("//:p", "//:q")) as store:
                with pytest.raises(StoreError, match=r"(?i)wrongpass|invalid .*password|authenticat"):
                    await take(store, Charge(someone(), SLOW))

        run(work())
        assert cluster.dbsizes() == [1, 1, 1]


def test_a_cluster_that_is_away_is_unavailable(cluster: RedisCluster) -> None:
    """No node at the URL: one clear error for each call, and soon; no node's password in it."""
    with redis_server("redis") as gone:
        url = f"redis+cluster://:sesame@{HOST}:{gone.port}"

    async def work() -> None:
        async with opened(url) as store:
            for _ in range(3):
                async with asyncio.timeout(5):
                    with pytest.raises(StoreUnavailable) as failed:
                        await take(store, Charge(someone(), SLOW))
                assert "sesame" not in str(failed.value)

    run(work())


def test_a_server_that_is_no_cluster_is_told_to_be_none() -> None:
    """Its own words are in the error."""
    with redis_server("valkey") as server:

        async def work() -> None:
            async with opened(server.tcp_url.replace("redis://", "redis+cluster://")) as store:
                with pytest.raises(StoreError, match="cluster support disabled"):
                    await take(store, Charge(someone(), SLOW))

        run(work())


@pytest.mark.parametrize(
    "url",
    [
        "redis+cluster://",  # no host
        "redis+cluster://:6379",
        "redis+cluster://host:no-port",
        "redis+cluster://host:70000,other:6379",
        "redis+cluster://host:6379,,other:6379",
        "redis+cluster://host:6379/1",  # a cluster has one database
    ],
)
def test_a_url_that_names_no_cluster_stops_the_start(url: str) -> None:
    """The error names the variable."""
    with pytest.raises(SettingsError, match="SHIELD_REDIS_URL"):
        store_opener(Settings.from_environ({"SHIELD_REDIS_URL": url}))


def test_a_closed_store_leaves_no_connection(cluster: RedisCluster) -> None:
    """A worker holds one connection to each master, one more to hear; none when it has closed."""

    def connections() -> list[int]:
        lists: list[Any] = [cluster.client(node).client_list() for node in cluster.nodes]
        return [sum(client["name"] == "shieldmw" for client in each) for each in lists]

    async def work() -> None:
        clients = clients_of(cluster, 10)
        async with opened(cluster.url) as store:
            await asyncio.gather(*(take(store, Charge(client, SLOW)) for client in clients * 3))
            assert max(connections()) == 1
            assert 3 <= sum(connections()) <= 4

    run(work())
    wait_until(lambda: sum(connections()) == 0, PATIENCE_S, "the connections to end")
