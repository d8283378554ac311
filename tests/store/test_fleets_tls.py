"""Clusters and Sentinels whose every connection is TLS, and Sentinels with a password of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from servers import (
    HOST,
    RedisCluster,
    RedisSentinels,
    keys_without_ttl,
    redis_cluster,
    redis_sentinels,
    redis_server,
    slot_of,
    trust,
    write_certificates,
)
from shieldmw.core.bucket import Charge
from shieldmw.errors import StoreUnavailable
from store.fleets import SLOW, clients_of, key, off, opened, patiently, remaining, take
from store.stores import all_keys, run, someone

# Debian's Redis alone: the Valkey in the wheel is built without TLS.

PASSWORD = "p:/@ß,w"
SENTINEL_PASSWORD = "s+&=?/@ß%"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and what all servers of a fleet show."""
    directory = tmp_path_factory.mktemp("certificates")
    write_certificates(directory)
    return directory


@pytest.fixture(scope="module")
def cluster(certificates: Path) -> Iterator[RedisCluster]:
    """A cluster that has no other port."""
    with redis_cluster("redis", password=PASSWORD, tls_only=certificates) as cluster:
        yield cluster
        assert cluster.keys_without_ttl() == []


@pytest.fixture(scope="module")
def sentinels(certificates: Path) -> Iterator[RedisSentinels]:
    """A master and sentinels that have no other port, each with a password of its own."""
    with redis_sentinels(
        "redis", replicas=1, password=PASSWORD, sentinel_password=SENTINEL_PASSWORD, tls_only=certificates
    ) as sentinels:
        yield sentinels
        with sentinels.master().client() as client:
            assert keys_without_ttl(client) == []


def failure(url: str) -> str:
    """What a request is told at a URL, in one line; no password is in it."""

    async def work() -> str:
        async with opened(url) as store:
            with pytest.raises(StoreUnavailable) as failed:
                await take(store, Charge(someone(), SLOW))
        return str(failed.value)

    text = run(work())
    assert len(text.splitlines()) == 1
    assert not any(secret in text for secret in (PASSWORD, SENTINEL_PASSWORD, "sesame"))
    return text


# --- a cluster ------------------------------------------------------------------------------------


def test_every_node_of_a_cluster_is_asked_by_tls(cluster: RedisCluster) -> None:
    """Found by one of them, and followed where a slot moves."""
    cluster.flush()

    async def work() -> None:
        clients = clients_of(cluster, 1)
        async with opened(cluster.url_of(cluster.nodes[:1])) as store:
            for left in (4, 3):
                for client in clients:
                    assert (await take(store, Charge(client, SLOW))).allowed
                    assert await remaining(store, client, SLOW) == left
                await off(cluster.move(slot_of(key(clients[0], SLOW))).run)

    run(work())
    assert len(cluster.keys()) == 3


@pytest.mark.parametrize("scheme", ["rediss+cluster", "redis+cluster"])
def test_a_cluster_that_is_not_trusted_is_sent_nothing(cluster: RedisCluster, scheme: str) -> None:
    """Without its authority the certificate is refused; plain text is no way in."""
    cluster.flush()
    text = failure(cluster.url.partition("?")[0].replace("rediss+cluster", scheme))
    assert f"{HOST}:" in text
    if scheme == "rediss+cluster":
        assert "certificate verify failed" in text
    assert cluster.keys() == []


def test_a_certificate_of_another_host_is_refused(tmp_path: Path) -> None:
    """Unless the URL says not to look: its options are those of every node."""
    write_certificates(tmp_path, host="192.0.2.1")
    with redis_server("redis", tls_only=tmp_path, cluster_enabled="yes") as node:
        url = f"rediss+cluster://{HOST}:{node.port}?{trust(tmp_path)}"
        assert "certificate is not valid for '127.0.0.1'" in failure(url)
        assert "no node of the cluster serves slot" in failure(f"{url}&ssl_check_hostname=false")


# --- sentinels ------------------------------------------------------------------------------------


def test_sentinels_and_their_master_are_asked_by_tls(sentinels: RedisSentinels) -> None:
    """Each with its own password, also after a failover."""

    async def work() -> None:
        async with opened(sentinels.url) as store:
            assert (await take(store, Charge(someone(), SLOW))).allowed
            new = await off(sentinels.fail_over)

            async def lands() -> bool:
                try:
                    await take(store, Charge(someone("bob"), SLOW))
                except StoreUnavailable:
                    return False
                return key(someone("bob"), SLOW) in all_keys(new.client())

            await patiently(lands, "a charge at the new master")

    run(work())


def test_sentinels_that_are_not_trusted_are_sent_nothing(sentinels: RedisSentinels) -> None:
    """Without their authority the certificate is refused, and it is said whose."""
    trusting = sentinels.url
    text = failure(trusting.replace(f"{trust(sentinels.certificates or Path())}&", ""))
    assert text.count("certificate verify failed") == 3
    assert text.startswith(f"sentinel {HOST}:")


@pytest.mark.parametrize("given", ["", "sentinel_password=sesame", "sentinel_username=me&sentinel_password=sesame"])
def test_a_wrong_password_of_the_sentinels_is_told(sentinels: RedisSentinels, given: str) -> None:
    """In one line, of each sentinel; a missing one too. The master's password is not tried."""
    base = sentinels.url.partition("&sentinel_password")[0]
    text = failure(f"{base}&{given}")
    assert text.startswith(f"sentinel {HOST}:")
    assert text.count("AuthenticationError") == 3


def test_a_user_of_the_sentinels() -> None:
    """Named in the URL, with that user's password; beside a master that asks for none."""
    with redis_sentinels("valkey", replicas=1) as sentinels:
        for sentinel in sentinels.sentinels:
            sentinel.ask("ACL", "SETUSER", "shield", "on", ">sesame", "+@all")
            sentinel.ask("ACL", "SETUSER", "default", "-sentinel|get-master-addr-by-name")
        assert "no permissions" in failure(sentinels.url)

        async def work() -> None:
            async with opened(f"{sentinels.url}?sentinel_username=shield&sentinel_password=s%65same") as store:
                assert (await take(store, Charge(someone(), SLOW))).allowed

        run(work())
