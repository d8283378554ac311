"""Connections to one upstream: kept, bounded, and noticed when they end. Before a real socket server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from doors.asgi.harness import run
from servers.upstreams import Peer, scripted_upstream
from shieldmw.answers.gateway import ALL_IN_USE, CLOSED, REFUSED
from shieldmw.doors.proxy.connection import Connection
from shieldmw.doors.proxy.failures import ProxyFailure
from shieldmw.doors.proxy.http1 import ResponseReader
from shieldmw.doors.proxy.pool import Pool
from shieldmw.doors.proxy.upstreams import parse_upstream

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def answer(peer: Peer, head: bytes) -> None:
    peer.send(OK)
    if b"/close" in head:
        peer.close()


class RecordingPool(Pool):
    """A pool that remembers the connections it gave, so that a test leaves none open."""

    given: list[Connection]

    async def connection(self) -> Connection:
        """The pool's own, remembered."""
        connection = await super().connection()
        self.given.append(connection)
        return connection


def with_pool(use: Callable[[Pool], Coroutine[object, object, None]], *, most: int = 2) -> int:
    """Run a coroutine with a pool. Returns how many connections the upstream got."""

    async def main(url: str) -> None:
        pool = RecordingPool(parse_upstream(url), asyncio.get_running_loop(), most=most, connect_s=0.2, tls=None)
        pool.given = []
        await use(pool)
        pool.close()
        for connection in pool.given:
            connection.abort()
        await until(lambda: all(connection.is_closed for connection in pool.given))

    with scripted_upstream(answer) as upstream:
        run(main(upstream.url))
        assert upstream.errors == []
        return upstream.connections


async def ask(connection: Connection, path: bytes = b"/") -> bool:
    """One request; whether the connection can carry another."""
    reader = ResponseReader()
    connection.begin(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path, reader)
    while not reader.is_complete:
        await connection.readable()
    assert reader.take() == b"ok"
    return connection.finish()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  (a connection tells nobody but its pool)
        await asyncio.sleep(0)


def test_a_connection_is_kept() -> None:
    """The one used last comes first."""

    async def use(pool: Pool) -> None:
        one, other = await pool.connection(), await pool.connection()
        for connection in one, other:
            assert await ask(connection)
            pool.give_back(connection)
        assert pool.idle(is_repeatable=False) is other
        assert pool.idle(is_repeatable=True) is one
        assert pool.idle(is_repeatable=True) is None

    assert with_pool(use) == 2


def test_a_connection_that_the_upstream_closes_is_noticed() -> None:
    """It is not handed out, and makes room for another."""

    async def use(pool: Pool) -> None:
        one = await pool.connection()
        await ask(one, b"/close")
        pool.give_back(one)
        await until(lambda: one.is_closed)
        assert pool.idle(is_repeatable=True) is None
        assert await ask(await pool.connection())

    assert with_pool(use, most=1) == 2


def test_a_connection_that_ended_in_the_meantime_says_so_at_once() -> None:
    """Between being given and being used: the request is not sent, and does not wait for its time-out."""

    async def use(pool: Pool) -> None:
        one = await pool.connection()
        one.abort()
        await until(lambda: one.is_closed)
        with pytest.raises(ProxyFailure) as raised:
            await ask(one)
        assert raised.value.failure is CLOSED

    with_pool(use)


def test_waiting_is_first_come_first_served_and_bounded() -> None:
    """A connection goes to the request that waits longest; one that waits too long is told why."""

    async def use(pool: Pool) -> None:
        one = await pool.connection()
        first = asyncio.create_task(pool.connection())
        await asyncio.sleep(0)
        second = asyncio.create_task(pool.connection())
        await asyncio.sleep(0)
        pool.give_back(one)
        assert await first is one
        with pytest.raises(ProxyFailure) as raised:
            await second
        assert raised.value.failure is ALL_IN_USE

    assert with_pool(use, most=1) == 1


def test_one_that_ends_lets_a_waiting_request_connect() -> None:
    """As does one that gives up."""

    async def use(pool: Pool) -> None:
        one = await pool.connection()
        given_up, waiting = (asyncio.create_task(pool.connection()) for _ in range(2))
        await asyncio.sleep(0)
        given_up.cancel()
        one.abort()
        assert await ask(await waiting)

    assert with_pool(use, most=1) == 2


def test_one_that_ends_before_its_next_request_has_woken_is_replaced() -> None:
    """The request has not been sent to anybody, so it goes over another connection."""

    async def use(pool: Pool) -> None:
        one = await pool.connection()
        assert await ask(one)
        waiting = asyncio.create_task(pool.connection())
        await asyncio.sleep(0)
        pool.give_back(one)
        one.eof_received()  # before the other task runs
        assert await ask(await waiting)
        assert one.requests == 1

    assert with_pool(use, most=1) == 2


def test_a_newcomer_that_is_quicker_leaves_no_connection_too_many() -> None:
    """The request that was about to open one waits again, before all others."""

    async def use(pool: Pool) -> None:
        one = await pool.connection()
        waiting = [asyncio.create_task(pool.connection()) for _ in range(2)]
        await asyncio.sleep(0)
        one.abort()
        newcomer = asyncio.create_task(pool.connection())  # runs between the end and those that wait
        other = await newcomer
        assert not any(task.done() for task in waiting)
        assert await ask(other)
        pool.give_back(other)
        assert await waiting[0] is other
        pool.give_back(other)
        assert await waiting[1] is other

    assert with_pool(use, most=1) == 2


def test_a_refused_connection_makes_room() -> None:
    """Its place is free again."""

    async def main(url: str) -> None:
        pool = Pool(parse_upstream(url), asyncio.get_running_loop(), most=1, connect_s=5, tls=None)
        for _ in range(3):
            with pytest.raises(ProxyFailure) as raised:
                await pool.connection()
            assert raised.value.failure is REFUSED

    with scripted_upstream(answer) as upstream:
        url = upstream.url
    run(main(url))
