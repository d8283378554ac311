"""Connections to a server, as SHIELD_REDIS_URL describes them."""

from __future__ import annotations

import asyncio
import gc

import pytest

from servers import RedisKind, RedisServer, redis_server, require, wait_until
from shieldmw.errors import StoreUnavailable
from store.fleets import listening
from store.stores import AMPLE_S, all_keys, one, opened, run, slow_limit, take

PASSWORD = "p:/@ß %?#"


def takes_two(url: str) -> None:
    """Take from a bucket of two through a URL, until it is empty."""

    async def work() -> None:
        async with opened(url, secret=None) as store:
            taken = [(await take(store, one(slow_limit(2)))).allowed for _ in range(3)]
            assert taken == [True, True, False]

    run(work())


def test_a_unix_socket(server: RedisServer) -> None:
    """unix:// with a path."""
    assert server.url.startswith("unix:///")
    takes_two(server.url)


def test_a_tcp_port(server: RedisServer) -> None:
    """redis:// with host and port."""
    assert server.tcp_url.startswith("redis://")
    takes_two(server.tcp_url)


@pytest.mark.parametrize("way", ["unix", "tcp"])
def test_a_database_of_its_own(server: RedisServer, way: str) -> None:
    """The number in the URL is the one that is used, and no other."""
    url = f"{server.url}?db=3" if way == "unix" else f"{server.tcp_url}/3"
    takes_two(url)
    assert all_keys(server.client()) == []
    client = server.client(url)
    assert len(all_keys(client)) == 2
    client.flushdb()


@pytest.mark.parametrize("way", ["unix", "tcp"])
def test_a_password_with_any_characters(kind: RedisKind, way: str) -> None:
    """Percent-encoded in the URL, on either way."""
    with redis_server(kind, requirepass=PASSWORD) as own:
        takes_two(own.url if way == "unix" else f"{own.tcp_url}/2")


def test_tls() -> None:
    """rediss:// with the authority that signed the server's certificate."""
    require("redis-server")
    with redis_server("redis", tls=True) as own:
        takes_two(own.tls_url)


def test_tls_with_an_unknown_authority_is_refused() -> None:
    """Without that authority nothing is sent: the certificate is verified by default."""
    with redis_server("redis", tls=True) as own:

        async def work() -> None:
            async with opened(own.tls_url.partition("?")[0]) as store:
                with pytest.raises(StoreUnavailable, match="certificate verify failed"):
                    await take(store, one(slow_limit(2)))

        run(work())
        assert all_keys(own.client()) == []


def test_tls_to_a_server_that_hangs_ends_at_once() -> None:
    """Nobody waits for its goodbye, listening or not, and no socket is left open."""
    with redis_server("redis", tls=True) as own:

        async def work() -> None:
            async with asyncio.timeout(AMPLE_S), opened(own.tls_url) as store, listening(store):
                assert (await take(store, one(slow_limit(2)))).allowed
                own.pause()

        run(work())
        gc.collect()  # a socket that is left is a warning, and that an error


def test_plain_text_to_a_tls_port_is_unavailable() -> None:
    """redis:// where rediss:// was meant."""
    with redis_server("redis", tls=True) as own:

        async def work() -> None:
            async with opened(f"redis://127.0.0.1:{own.tls_port}") as store, asyncio.timeout(AMPLE_S):
                with pytest.raises(StoreUnavailable):
                    await take(store, one(slow_limit(2)))

        run(work())


def test_connections_are_bounded_and_given_back(server: RedisServer) -> None:
    """A thousand takes at once share at most so many connections, and closing leaves none."""
    client = server.client()

    def ours() -> int:
        return sum(entry["name"] == "shieldmw" for entry in client.client_list())

    async def work() -> None:
        async with opened(server.url) as store:
            outcomes = await asyncio.gather(*(take(store, one(slow_limit(400))) for _ in range(1000)))
            assert sum(outcome.allowed for outcome in outcomes) == 400
            assert ours() == 1

    before = ours()
    run(work())
    assert before == 0
    wait_until(lambda: ours() == 0, 5, "the connection to be gone")


def test_takes_one_after_the_other_need_one_connection(server: RedisServer) -> None:
    """Connections are used again."""
    client = server.client()

    async def work() -> None:
        async with opened(server.url) as store:
            await take(store, one(slow_limit(400)))
            before = client.info("stats")["total_connections_received"]
            for _ in range(100):
                await take(store, one(slow_limit(400)))
            assert client.info("stats")["total_connections_received"] == before

    run(work())
