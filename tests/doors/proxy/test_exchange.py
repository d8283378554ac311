"""Exchanges between a scripted ASGI server and a scripted upstream: what no real server would send."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from queue import SimpleQueue

import pytest
from starlette.types import Message, Scope

from doors.asgi.harness import run
from servers import free_port
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


def ok(peer: Peer, head: bytes) -> None:
    peer.send(OK)


def call(
    urls: str | Sequence[str],
    messages: Sequence[Message],
    *headers: tuple[bytes, bytes],
    gone_after: int = 99,
    settings: Settings | None = None,
    each_s: float = 0,
    times: int = 1,
    then: Exception | None = None,
    **scope: str,
) -> list[Message]:
    """What the proxy sends to a server that gives it these messages, one ``each_s`` seconds, and then nothing more, or
    raises ``then``."""
    addresses = [parse_upstream(url) for url in ([urls] if isinstance(urls, str) else urls)]
    request = {**SCOPE, "headers": [(b"host", b"site.example"), *headers], **scope}
    sent: list[Message] = []

    async def send(message: Message) -> None:
        if len(sent) >= gone_after:
            raise OSError("the client is gone")
        sent.append(message)

    async def main() -> None:
        app = upstream_app(settings or Settings(), addresses)
        for _ in range(times):
            left = list(messages)

            async def receive(left: list[Message] = left) -> Message:
                if not left and then is not None:
                    raise then
                if not left:
                    await asyncio.Event().wait()
                await asyncio.sleep(each_s)
                return left.pop(0)

            await app(request, receive, send)
        await app({"type": "lifespan"}, shutdown, ignore)

    run(main())
    return sent


async def shutdown() -> Message:
    return {"type": "lifespan.shutdown"}


async def ignore(message: Message) -> None:
    pass


@pytest.mark.parametrize(
    "messages",
    [
        [body(b"abc"), body(b"", more=False)],
        [body(b"abc"), body(b"def", more=False)],
        [body(b"abc"), {"type": "http.disconnect"}],
    ],
    ids=["too short", "too long", "cut"],
)
def test_a_body_is_as_long_as_announced(messages: list[Message]) -> None:
    """Or the upstream's connection ends before the end of it, and the client gets 400."""
    ends: SimpleQueue[tuple[bytes, End]] = SimpleQueue()
    with scripted_upstream(lambda peer, head: ends.put(peer.rest())) as upstream:
        sent = call(upstream.url, messages, (b"content-length", b"5"))
        received, _ = ends.get(timeout=20)
    assert len(received) < 5
    assert (sent[0]["status"], (b"connection", b"close") in sent[0]["headers"]) == (400, True)


@pytest.mark.parametrize(
    "message",
    [body(b"abc", more=False), body(b"abcdef", more=False), body(b"abcdef"), {"type": "http.disconnect"}],
    ids=["too short", "too long", "too long so far", "cut"],
)
def test_a_body_that_is_wrong_from_the_start_reaches_no_upstream(message: Message) -> None:
    """400, and no connection was made for it."""
    with scripted_upstream(ok) as upstream:
        sent = call(upstream.url, [message], (b"content-length", b"5"))
        assert (sent[0]["status"], upstream.connections) == (400, 0)


@pytest.mark.parametrize("framing", [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")])
def test_a_body_that_never_begins_reaches_no_upstream(framing: tuple[bytes, bytes]) -> None:
    """The client is told so once it has been waited for long enough."""
    with scripted_upstream(ok) as upstream:
        sent = call(upstream.url, [], framing, settings=Settings(upstream_idle_timeout_ms=50))
        assert (sent[0]["status"], upstream.connections) == (408, 0)
    assert (b"content-type", b"application/problem+json") in sent[0]["headers"]


def test_bytes_now_and_then_are_too_slow() -> None:
    """Each one comes soon enough for the idle time-out, but all together take too long: 408, without an end of the
    body for the upstream."""
    ends: SimpleQueue[tuple[bytes, End]] = SimpleQueue()
    with scripted_upstream(lambda peer, head: ends.put(peer.rest())) as upstream:
        drip, settings = [body(b"a")] * 10_000, Settings(upstream_idle_timeout_ms=200)
        sent = call(upstream.url, drip, (b"content-length", b"10000"), settings=settings, each_s=0.02)
        received, _ = ends.get(timeout=20)
    assert sent[0]["status"] == 408
    assert 0 < len(received) < 100


def test_bytes_now_and_then_may_be_allowed() -> None:
    """With a lowest rate of 0 only pauses count."""
    with scripted_upstream(lambda peer, head: peer.send(OK) if len(peer.read(20)) == 20 else None) as upstream:
        drip, settings = [body(b"a")] * 20, Settings(upstream_idle_timeout_ms=200, upstream_min_upload_rate=0)
        sent = call(upstream.url, drip, (b"content-length", b"20"), settings=settings, each_s=0.02)
    assert sent[0]["status"] == 200


@pytest.mark.parametrize(
    ("messages", "method", "framing", "received"),
    [
        ([body(b"", more=False)], "GET", [], b""),
        ([body(b"", more=False)], "POST", [b"content-length: 0"], b""),
        ([body(b"abc", more=False)], "POST", [b"content-length: 3"], b"abc"),
        ([body(b""), body(b"abc", more=False)], "POST", [b"content-length: 3"], b"abc"),
        (
            [body(b"ab"), body(b"c", more=False)],
            "POST",
            [b"transfer-encoding: chunked"],
            b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
        ),
        ([body(b"ab"), body(b"", more=False)], "POST", [b"transfer-encoding: chunked"], b"2\r\nab\r\n0\r\n\r\n"),
    ],
    ids=["none", "none for POST", "whole", "whole after nothing", "in pieces", "with an end of its own"],
)
def test_a_body_over_http_2(messages: list[Message], method: str, framing: list[bytes], received: bytes) -> None:
    """It has no length: one that is whole at once gets it, none has no framing, and others go in chunks."""
    bodies: SimpleQueue[bytes] = SimpleQueue()

    def script(peer: Peer, head: bytes) -> None:
        bodies.put(peer.read(len(received)))
        peer.send(OK)

    with scripted_upstream(script) as upstream:
        sent = call(upstream.url, messages, method=method, http_version="2")
    assert (sent[0]["status"], bodies.get(timeout=20)) == (200, received)
    lines = upstream.heads[0].split(b"\r\n")
    assert [line for line in lines if line.startswith((b"content-length", b"transfer-encoding"))] == framing


def test_a_request_over_http_2_without_a_body_is_repeated() -> None:
    """If a kept connection turns out to be closed, as over HTTP/1."""

    def script(peer: Peer, head: bytes) -> None:
        if len(upstream.heads) == 2:
            peer.close()
        else:
            peer.send(OK)

    nothing = [body(b"", more=False)]
    with scripted_upstream(script) as upstream:
        sent = call(upstream.url, nothing, method="GET", http_version="2", times=2)
        assert ([message["status"] for message in sent if "status" in message], len(upstream.heads)) == ([200, 200], 3)


def test_the_beginning_of_a_body_is_kept_for_the_next_upstream() -> None:
    """Which is tried since nobody listens at the first one."""
    bodies: SimpleQueue[bytes] = SimpleQueue()

    def script(peer: Peer, head: bytes) -> None:
        bodies.put(peer.read(6))
        peer.send(OK)

    messages = [body(b"abc"), body(b"def", more=False)]
    with scripted_upstream(script) as upstream:
        sent = call([f"http://127.0.0.1:{free_port()}", upstream.url], messages, (b"content-length", b"6"))
    assert (sent[0]["status"], bodies.get(timeout=20)) == (200, b"abcdef")


def test_a_large_body_that_comes_at_once_waits_for_its_reader() -> None:
    """It does not count as sent while it is not, so the answer has not to come in time yet."""
    release = threading.Event()

    def script(peer: Peer, head: bytes) -> None:
        release.wait(20)
        left = 20_000_000 - len(peer.read(1))
        while left:
            left -= len(peer.read(left if left < 65_536 else 65_536))
        peer.send(OK)

    with scripted_upstream(script) as upstream:
        threading.Timer(0.3, release.set).start()
        settings = Settings(upstream_head_timeout_ms=100)
        large = [body(bytes(20_000_000), more=False)]
        sent = call(upstream.url, large, (b"content-length", b"20000000"), settings=settings)
        assert upstream.errors == []
    assert sent[0]["status"] == 200


def test_chunks_that_are_cut_have_no_end() -> None:
    """The end of the connection takes its place."""
    ends: SimpleQueue[tuple[bytes, End]] = SimpleQueue()
    with scripted_upstream(lambda peer, head: ends.put(peer.rest())) as upstream:
        call(upstream.url, [body(b"abc"), {"type": "http.disconnect"}], (b"transfer-encoding", b"chunked"))
        assert b"0\r\n\r\n" not in ends.get(timeout=20)[0]


@pytest.mark.parametrize(
    "messages",
    [[], [body(b"abc")], [body(b"abc", more=False)]],
    ids=["before the body", "within the body", "after the body"],
)
def test_a_server_that_raises_ends_the_exchange(messages: list[Message]) -> None:
    """As one whose client has left: nobody waits until a time-out, and nothing is raised on."""
    ends: SimpleQueue[tuple[bytes, End]] = SimpleQueue()
    failed = RuntimeError("the server has forgotten this request")
    with scripted_upstream(lambda peer, head: ends.put(peer.rest())) as upstream:
        sent = call(upstream.url, messages, (b"transfer-encoding", b"chunked"), then=failed)
        assert sent == []
        if messages:
            assert ends.get(timeout=20)[0].startswith(b"3\r\nabc\r\n")


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
