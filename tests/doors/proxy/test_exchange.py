"""Exchanges between a scripted ASGI server and a scripted upstream: what no real server would send."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from queue import SimpleQueue

import pytest
from starlette.types import Message, Scope

from doors.asgi.harness import run
from servers.upstreams import End, Peer, scripted_upstream
from shieldmw import Settings
from shieldmw.doors.proxy.upstreams import parse_upstream
from shieldmw.wiring import upstream_app

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


SCOPE: Scope = {
    "type": "http",
    "http_version": "1.1",
    "method": "POST",
    "scheme": "http",
    "path": "/",
    "raw_path": b"/",
    "query_string": b"",
    "client": ("203.0.113.7", 50123),
}


def body(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": data, "more_body": more}


def call(url: str, messages: Sequence[Message], *headers: tuple[bytes, bytes], gone_after: int = 99) -> list[Message]:
    """What the proxy sends to a server that gives it these messages, and then nothing more."""
    scope = {**SCOPE, "headers": [(b"host", b"site.example"), *headers]}
    left, sent = list(messages), list[Message]()

    async def receive() -> Message:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    async def send(message: Message) -> None:
        if len(sent) >= gone_after:
            raise OSError("the client is gone")
        sent.append(message)

    async def once() -> None:
        app = upstream_app(Settings(), (parse_upstream(url),))
        await app(scope, receive, send)

    run(once())
    return sent


@pytest.mark.parametrize(
    "messages",
    [
        [body(b"abc", more=False)],
        [body(b"abc"), body(b"", more=False)],
        [body(b"abcdef", more=False)],
        [body(b"abc"), body(b"def", more=False)],
        [body(b"abc"), {"type": "http.disconnect"}],
    ],
    ids=["too short", "too short in two", "too long", "too long in two", "cut"],
)
def test_a_body_is_as_long_as_announced(messages: list[Message]) -> None:
    """Or the upstream's connection ends before the end of it, and the client gets 400."""
    ends: SimpleQueue[tuple[bytes, End]] = SimpleQueue()
    with scripted_upstream(lambda peer, head: ends.put(peer.rest())) as upstream:
        sent = call(upstream.url, messages, (b"content-length", b"5"))
        received, _ = ends.get(timeout=20)
    assert len(received) < 5
    assert (sent[0]["status"], (b"connection", b"close") in sent[0]["headers"]) == (400, True)


def test_chunks_that_are_cut_have_no_end() -> None:
    """The end of the connection takes its place."""
    ends: SimpleQueue[tuple[bytes, End]] = SimpleQueue()
    with scripted_upstream(lambda peer, head: ends.put(peer.rest())) as upstream:
        call(upstream.url, [body(b"abc"), {"type": "http.disconnect"}], (b"transfer-encoding", b"chunked"))
        assert b"0\r\n\r\n" not in ends.get(timeout=20)[0]


def test_a_server_that_raises_ends_the_exchange() -> None:
    """As one whose client has left: nobody waits until a time-out."""

    def script(peer: Peer, head: bytes) -> None:
        peer.rest()

    async def receive() -> Message:
        raise RuntimeError("the server has forgotten this request")

    async def send(message: Message) -> None:
        raise AssertionError("nobody is there")

    with scripted_upstream(script) as upstream:
        app = upstream_app(Settings(), (parse_upstream(upstream.url),))
        scope = {**SCOPE, "headers": [(b"host", b"site.example"), (b"content-length", b"5")]}

        async def once() -> None:
            await app(scope, receive, send)

        run(once())


@pytest.mark.parametrize("gone_after", [0, 1])
def test_a_server_may_say_that_the_client_has_left(gone_after: int) -> None:
    """By raising from send: the upstream's connection ends, and nothing is raised on."""
    ends: SimpleQueue[tuple[bytes, End]] = SimpleQueue()

    def script(peer: Peer, head: bytes) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
        ends.put(peer.rest())

    with scripted_upstream(script) as upstream:
        assert len(call(upstream.url, [], (b"content-length", b"0"), gone_after=gone_after)) == gone_after
        ends.get(timeout=20)


def test_cancelling_it_drops_the_upstream() -> None:
    """As the shield does with a listener that must leave."""
    ends: SimpleQueue[tuple[bytes, End]] = SimpleQueue()
    begun = asyncio.Event()

    async def cancelled(url: str) -> None:
        app = upstream_app(Settings(), (parse_upstream(url),))
        scope = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "headers": [(b"host", b"a")]}

        async def receive() -> Message:
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Message) -> None:
            begun.set()

        async def once() -> None:
            await app(scope, receive, send)

        task = asyncio.create_task(once())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    def script(peer: Peer, head: bytes) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
        ends.put(peer.rest())

    with scripted_upstream(script) as upstream:
        run(cancelled(upstream.url))
        ends.get(timeout=20)


def test_a_lifespan_is_answered_and_closes_idle_connections() -> None:
    """The proxy has nothing to start."""
    ends: SimpleQueue[tuple[bytes, End]] = SimpleQueue()

    def script(peer: Peer, head: bytes) -> None:
        peer.send(OK)
        ends.put(peer.rest())

    async def lived(url: str) -> list[str]:
        app = upstream_app(Settings(), (parse_upstream(url),))
        scope = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "headers": [(b"host", b"a")]}
        kinds = ["lifespan.startup", "lifespan.shutdown"]
        sent: list[str] = []

        async def receive() -> Message:
            return {"type": kinds.pop(0)}

        async def send(message: Message) -> None:
            sent.append(message["type"])

        await app(scope, receive, send)
        await app({"type": "lifespan"}, receive, send)
        return sent

    with scripted_upstream(script) as upstream:
        sent = run(lived(upstream.url))
        ends.get(timeout=3)
    assert sent == [
        *("http.response.start", "http.response.body", "lifespan.startup.complete", "lifespan.shutdown.complete")
    ]
