"""The gRPC server on real sockets: what it answers, whom it gives up, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import cast

import pytest

from doors.asgi.harness import run
from doors.envoy.wire import (
    DATA,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    PATH,
    PING,
    RST_STREAM,
    START,
    Client,
    Reply,
    block,
    call,
    frames_in,
    lines,
    message,
    number,
    raw,
    setting,
)
from shieldmw.doors.envoy import server as under_test
from shieldmw.doors.envoy.frames import ErrorCode
from shieldmw.doors.envoy.server import GrpcServer, MalformedMessage, Method, Peer

WAIT_S = 10.0


class Remote:
    """A client on a socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer, self.client = reader, writer, Client()

    def send(self, data: bytes | None = None) -> None:
        self.writer.write(self.client.take_out() if data is None else data)

    async def read(self) -> bytes:
        """What the server sends until it closes the connection."""
        async with asyncio.timeout(WAIT_S):
            with suppress(ConnectionResetError):
                return await self.reader.read()
            return b""

    async def answered(self, *streams: int) -> list[Reply]:
        """The replies to these calls."""
        async with asyncio.timeout(WAIT_S):
            while not all(stream in self.client.replies and self.client.replies[stream].ended for stream in streams):
                self.client.receive(await self.reader.read(65_536))
        return [self.client.replies[stream] for stream in streams]

    async def ask(self, content: bytes, path: str = PATH) -> Reply:
        """The reply to one call."""
        stream = self.client.ask(content, path)
        self.send()
        return (await self.answered(stream))[0]


@asynccontextmanager
async def serving(methods: Mapping[str, Method]) -> AsyncIterator[tuple[GrpcServer, int]]:
    server = GrpcServer(methods)
    listening = socket.create_server(("127.0.0.1", 0))
    await server.start(listening)
    try:
        yield server, listening.getsockname()[1]
    finally:
        await server.stop(0)


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Remote]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Remote(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def until(condition: Callable[[], object]) -> None:
    """Let the server work until something is the case."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110  (it is the server's own state)
            await asyncio.sleep(0)


async def peers(server: GrpcServer, count: int) -> list[Peer]:
    """The server's side of its connections, once there are so many."""
    await until(lambda: len(server.peers) == count)
    return list(server.peers)


def echo(message: bytes) -> bytes:
    return message[::-1]


async def echo_later(message: bytes) -> bytes:
    await asyncio.sleep(0)
    return message[::-1]


def fails(message: bytes) -> bytes:
    raise RuntimeError("a mistake of ours")


async def fails_later(message: bytes) -> bytes:
    await asyncio.sleep(0)
    raise RuntimeError("a mistake of ours")


def is_malformed(message: bytes) -> bytes:
    raise MalformedMessage


@pytest.mark.parametrize(
    ("method", "status", "answer"),
    [
        (echo, "0", message(b"cba")),
        (echo_later, "0", message(b"cba")),
        (fails, "13", b""),
        (fails_later, "13", b""),
        (is_malformed, "3", b""),
        (None, "12", b""),
    ],
)
def test_a_call_is_answered(method: Method | None, status: str, answer: bytes) -> None:
    """At once or later; with an error where the method fails, and then the connection goes on."""

    async def calling() -> list[Reply]:
        async with (
            serving({"/other/Echo": echo} | ({PATH: method} if method else {})) as (_, port),
            connected(port) as remote,
        ):
            return [await remote.ask(b"abc"), await remote.ask(b"abc", "/other/Echo")]

    assert run(calling()) == [Reply("200", answer, status, ended=True), Reply("200", message(b"cba"), "0", ended=True)]


def test_what_fails_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """However often: one line with the traceback, and then counts."""

    async def calling() -> None:
        async with serving({PATH: fails}) as (_, port), connected(port) as remote:
            for _ in range(5):
                await remote.ask(b"abc")

    with caplog.at_level(logging.WARNING, under_test.__name__):
        run(calling())
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == ["gRPC: a call that failed: 1"]
    assert caplog.records[0].exc_info is not None


def test_a_client_that_leaves_is_decided_no_longer() -> None:
    """What was under way for it is cancelled."""
    cancelled = asyncio.Event()

    async def never(message: bytes) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return b""

    async def calling() -> None:
        async with serving({PATH: never}) as (_, port):
            async with connected(port) as remote:
                remote.client.ask(b"abc")
                remote.send()
                await remote.reader.read(1)
            async with asyncio.timeout(WAIT_S):
                await cancelled.wait()

    run(calling())


def test_garbage_is_told_so_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    """A client that speaks HTTP/1 gets GOAWAY and the end of its connection, its neighbour its answer."""

    async def calling() -> tuple[bytes, Reply]:
        async with (
            serving({PATH: echo}) as (_, port),
            connected(port) as neighbour,
            connected(port) as remote,
        ):
            remote.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            return await remote.read(), await neighbour.ask(b"abc")

    sent, reply = run(calling())
    assert list(frames_in(sent))[-1] == (GOAWAY, 0, 0, number(0) + number(ErrorCode.PROTOCOL_ERROR))
    assert reply.status == "0"
    assert "not HTTP/2 without TLS: 1; the last from 127.0.0.1:" in caplog.text


@pytest.mark.parametrize("sent", [b"", START[:9], START + b"\0\0", START + raw(HEADERS, 0, 1, block())])
def test_a_connection_that_does_not_go_on_is_given_up(sent: bytes) -> None:
    """Silent, or in the middle of its preface, a frame or its headers: gone with the second check."""

    async def calling() -> bytes:
        async with serving({PATH: echo}) as (server, port), connected(port) as remote:
            remote.send(sent)
            (peer,) = await peers(server, 1)
            await _has_read(remote, peer, sent)
            peer.check()
            assert server.peers
            peer.check()
            return await remote.read()

    run(calling())


async def _has_read(remote: Remote, peer: Peer, sent: bytes) -> None:
    """Wait until the server has read what was sent."""
    await remote.writer.drain()
    connection = peer._connection
    await until(lambda: not sent or connection.is_greeted or not connection.is_idle)


def test_a_connection_that_may_be_silent_is_kept() -> None:
    """One between two calls, and one whose call is still being decided."""
    decide = asyncio.Event()

    async def slow(message: bytes) -> bytes:
        await decide.wait()
        return message

    async def calling() -> list[Reply]:
        async with serving({PATH: slow, "/other/Echo": echo}) as (server, port), connected(port) as remote:
            first = await remote.ask(b"abc", "/other/Echo")
            (peer,) = await peers(server, 1)
            for _ in range(3):
                peer.check()
            stream = remote.client.ask(b"abc")
            remote.send()
            await until(lambda: peer._deciding)
            for _ in range(3):
                peer.check()
            decide.set()
            return [first, *await remote.answered(stream)]

    assert [reply.status for reply in run(calling())] == ["0", "0"]


def test_a_message_that_does_not_arrive_is_cancelled_and_the_others_go_on() -> None:
    """Also while calls beside it are answered."""

    async def calling() -> tuple[int | None, Reply]:
        async with serving({PATH: echo}) as (server, port), connected(port) as remote:
            half = remote.client.h2.get_next_available_stream_id()
            remote.client.h2.send_headers(half, lines())
            for _ in range(2):
                await remote.ask(b"abc")
                (peer,) = await peers(server, 1)
                peer.check()
            reply = await remote.ask(b"abc")
            return remote.client.replies[half].reset, reply

    reset, reply = run(calling())
    assert reset == ErrorCode.CANCEL
    assert reply.status == "0"


def test_a_client_that_does_not_open_its_window_is_given_up() -> None:
    """Its replies would be kept for ever."""

    async def calling() -> bytes:
        async with serving({PATH: echo}) as (server, port), connected(port) as remote:
            remote.send(START + setting(4, 0) + call(1))
            (peer,) = await peers(server, 1)
            await until(lambda: not peer._connection.is_idle)
            peer.check()
            peer.check()
            return await remote.read()

    assert [stream for kind, _, stream, _ in frames_in(run(calling())) if kind == HEADERS] == []


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is dropped, and there is room again when one has gone."""
    monkeypatch.setattr(under_test, "MOST_CONNECTIONS", 2)

    async def calling() -> list[bytes | str]:
        async with serving({PATH: echo}) as (server, port), connected(port) as first:
            async with connected(port) as second:
                answers: list[bytes | str] = [(await each.ask(b"abc")).status for each in (first, second)]
                async with connected(port) as third:
                    answers.append(await third.read())
            await peers(server, 1)
            async with connected(port) as fourth:
                return [*answers, (await fourth.ask(b"abc")).status]

    assert run(calling()) == ["0", "0", b"", "0"]


def test_the_end() -> None:
    """Clients are told, no others come in, what is being decided is answered, and then the connections end."""
    decide = asyncio.Event()

    async def slow(message: bytes) -> bytes:
        await decide.wait()
        return message

    async def calling() -> tuple[bytes, bytes]:
        async with (
            serving({PATH: slow}) as (server, port),
            connected(port) as remote,
            connected(port) as idle,
            connected(port) as silent,
        ):
            remote.send(START + call(1))
            idle.send(START)
            await peers(server, 3)
            busy = next(iter([peer for peer in server.peers if await _deciding(server, peer)]))
            stopping = asyncio.ensure_future(server.stop(WAIT_S))
            before = await _until(remote, GOAWAY)
            await _until(idle, GOAWAY)
            idle.send(raw(PING, 1, 0, bytes(8)))
            assert busy in server.peers
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)
            remote.send(raw(PING, 1, 0, bytes(8)) + call(3))  # it was on its way
            decide.set()
            rest = await remote.read()
            await idle.read()
            await silent.read()
            await stopping
            return before, rest

    before, rest = run(calling())
    assert (GOAWAY, number(2**31 - 1) + number(0)) in [(kind, payload) for kind, _, _, payload in frames_in(before)]
    frames = list(frames_in(rest))
    assert [stream for kind, _, stream, _ in frames if kind == DATA] == [1, 3]
    assert frames[-1] == (GOAWAY, 0, 0, number(3) + number(0))


async def _deciding(server: GrpcServer, peer: Peer) -> bool:
    """Whether a peer's call is being decided, once one's is."""
    await until(lambda: any(other._deciding for other in server.peers))
    return bool(peer._deciding)


async def _until(remote: Remote, kind: int) -> bytes:
    """What the server sends up to a frame of this kind, and a little more."""
    data = b""
    async with asyncio.timeout(WAIT_S):
        while not any(found == kind for found, *_ in frames_in(data)):
            data += await remote.reader.read(65_536)
    return data


def test_the_end_does_not_wait_for_ever() -> None:
    """A client that does not go, with a call that is never decided: gone when the time is over."""

    async def never(message: bytes) -> bytes:
        return cast(bytes, await asyncio.get_running_loop().create_future())

    async def calling() -> bytes:
        async with serving({PATH: never}) as (server, port), connected(port) as remote:
            remote.send(START + call(1))
            (peer,) = await peers(server, 1)
            await _deciding(server, peer)
            await server.stop(0.01)
            assert not server.peers
            return await remote.read()

    assert [kind for kind, *_ in frames_in(run(calling()))][-1] == GOAWAY


def test_a_flood_of_resets_ends_its_connection_and_no_other() -> None:
    """Each call costs the client one frame more than us, until it has had enough of them."""

    async def calling() -> tuple[bytes, Reply]:
        async with serving({PATH: echo}) as (_, port), connected(port) as remote, connected(port) as neighbour:
            remote.send(START)
            sending = asyncio.ensure_future(_flood(remote))
            reply = await neighbour.ask(b"abc")
            sent = await remote.read()
            sending.cancel()
            return sent, reply

    sent, reply = run(calling())
    assert reply.status == "0"
    assert not sent or list(frames_in(sent))[-1][3][4:] == number(ErrorCode.ENHANCE_YOUR_CALM)


async def _flood(remote: Remote) -> None:
    with suppress(ConnectionError):
        for at in range(30_000):
            stream = 2 * at + 1
            remote.send(call(stream) + raw(RST_STREAM, 0, stream, number(8)))
            await remote.writer.drain()
        remote.send(raw(HEADERS, END_HEADERS, 1, b""))
