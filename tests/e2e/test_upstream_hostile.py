"""`shieldmw serve --upstream` before hostile upstreams: one clear answer, in time, and the worker lives on."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue

import pytest

from e2e.proxied import PATIENCE_S, answering, ask_raw, connect, ok, proxy, request, rest, took
from servers import HOST, HttpServer, free_port, wait_until
from servers.upstreams import Peer, Script, ScriptedUpstream, scripted_upstream
from shieldmw.doors.proxy.pool import KEPT_S

CONNECT_S, HEAD_S, IDLE_S, TOTAL_S = 0.6, 0.5, 1.0, 3.0
# A busy machine may need so much longer.
SLACK_S = 5.0

SETTINGS = {
    "SHIELD_UPSTREAM_CONNECT_TIMEOUT_MS": str(round(CONNECT_S * 1000)),
    "SHIELD_UPSTREAM_HEAD_TIMEOUT_MS": str(round(HEAD_S * 1000)),
    "SHIELD_UPSTREAM_IDLE_TIMEOUT_MS": str(round(IDLE_S * 1000)),
    "SHIELD_UPSTREAM_TOTAL_TIMEOUT_MS": str(round(TOTAL_S * 1000)),
}
FEW = {"SHIELD_UPSTREAM_CONNECTIONS": "4", "SHIELD_UPSTREAM_CONNECT_TIMEOUT_MS": str(round(CONNECT_S * 1000))}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HttpServer, ScriptedUpstream]]:
    """The proxy with short time limits and few connections, and its upstream."""
    with (
        scripted_upstream(ok) as upstream,
        proxy([upstream.url], tmp_path_factory.mktemp("proxy"), SETTINGS) as server,
    ):
        yield server, upstream


@pytest.fixture
def server(pair: tuple[HttpServer, ScriptedUpstream]) -> HttpServer:
    """The proxy."""
    return pair[0]


@pytest.fixture
def upstream(pair: tuple[HttpServer, ScriptedUpstream]) -> Iterator[ScriptedUpstream]:
    """The upstream; after each test the same worker still serves."""
    server, upstream = pair
    upstream.reset(ok)
    yield upstream
    assert upstream.errors == []
    upstream.reset(ok)
    assert ask_raw(server, request("/")).body == b"ok"
    assert "Traceback" not in server.log()
    assert server.log().count("Unhandled") == 0


def hangs(peer: Peer, head: bytes) -> None:
    """Say nothing until the proxy leaves."""
    peer.rest()


def _endless_head(peer: Peer, head: bytes) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        peer.send(b"X-Line: %b\r\n" % (b"x" * 1000))


def _endless_interim(peer: Peer, head: bytes) -> None:
    while True:
        peer.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)


def _dripping_head(peer: Peer, head: bytes) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nX: ")
    peer.rest()


def _reset(peer: Peer, head: bytes) -> None:
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.socket.close()


TERMINATED, INCOMPLETE = "connection_terminated", "http_response_incomplete"
LONG, LATE = "http_response_header_section_size", "http_response_timeout"

# Responses that are wrong by their bytes are in tests/doors/proxy/smuggling.
HOSTILE: dict[str, tuple[Script, int, str]] = {
    "closes": (answering(), 502, TERMINATED),
    "resets": (_reset, 502, TERMINATED),
    "closes within the head": (answering(b"HTTP/1.1 200 OK\r\nX: y"), 502, INCOMPLETE),
    "hangs": (hangs, 504, LATE),
    "hangs within the head": (_dripping_head, 504, LATE),
    "an endless head": (_endless_head, 502, LONG),
    "endless informational responses": (_endless_interim, 502, LONG),
    "a long line": (answering(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 400_000), 502, LONG),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_upstream_is_one_clear_answer(server: HttpServer, upstream: ScriptedUpstream, what: str) -> None:
    """502 or 504 as a problem document, within the time limit, with the reason in Proxy-Status."""
    script, status, error = HOSTILE[what]
    upstream.reset(script)
    with connect(server) as connection:
        connection.sendall(request("/", "POST", b"Content-Length: 0"))  # which is not repeated
        started_s = time.monotonic()
        answer = rest(connection)
    assert time.monotonic() - started_s < HEAD_S + SLACK_S
    assert answer.status == status
    assert answer.values(b"proxy-status") == [f"shieldmw; error={error}".encode()]
    assert answer.values(b"content-type") == [b"application/problem+json"]
    assert json.loads(answer.body)["status"] == status
    assert answer.text.count(b"HTTP/1.1 ") == 1


def test_a_response_to_nobody_is_not_taken_for_the_next_one(server: HttpServer, upstream: ScriptedUpstream) -> None:
    """An upstream that speaks while nothing is asked loses the connection."""
    ends: SimpleQueue[object] = SimpleQueue()

    def script(peer: Peer, head: bytes) -> None:
        ok(peer, head)
        if b"/first" in head:
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
            ends.put(peer.rest())

    upstream.reset(script)
    assert ask_raw(server, request("/first")).body == b"ok"
    ends.get(timeout=KEPT_S / 2)
    assert ask_raw(server, request("/next")).body == b"ok"


def test_an_upstream_that_stops_in_the_middle_is_cut_off(server: HttpServer, upstream: ScriptedUpstream) -> None:
    """After the idle time-out the client sees the end of the connection, not of the body."""
    ends: SimpleQueue[object] = SimpleQueue()

    def script(peer: Peer, head: bytes) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        ends.put(peer.rest())

    upstream.reset(script)
    answer = ask_raw(server, request("/"))
    assert answer.body == b"3\r\nabc\r\n"
    ends.get(timeout=PATIENCE_S)


def test_an_endless_response_ends_at_the_total_time(server: HttpServer, upstream: ScriptedUpstream) -> None:
    """Although something moves all the time."""

    def script(peer: Peer, head: bytes) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            peer.send(b"3\r\nabc\r\n")
            peer.socket.settimeout(0.05)
            try:
                if not peer.socket.recv(1):
                    return
            except TimeoutError:
                continue

    upstream.reset(script)
    assert TOTAL_S * 0.9 < took(lambda: ask_raw(server, request("/"))) < TOTAL_S + SLACK_S


def test_a_client_that_stops_uploading_is_answered(server: HttpServer, upstream: ScriptedUpstream) -> None:
    """408 after the idle time-out, and the upstream is left without an end of the body."""
    ends: SimpleQueue[tuple[bytes, str]] = SimpleQueue()
    upstream.reset(lambda peer, head: ends.put(peer.rest()))
    with connect(server) as connection:
        connection.sendall(request("/", "POST", b"Transfer-Encoding: chunked", body=b"3\r\nabc\r\n"))
        assert rest(connection).status == 408
    assert ends.get(timeout=PATIENCE_S)[0] in (b"3\r\nabc\r\n", b"")


def test_a_client_that_uploads_a_byte_now_and_then_is_answered(server: HttpServer, upstream: ScriptedUpstream) -> None:
    """408, although no pause is as long as the idle time-out; the upstream is left without an end of the body."""
    ends: SimpleQueue[tuple[bytes, str]] = SimpleQueue()
    upstream.reset(lambda peer, head: ends.put(peer.rest()))
    started_s = time.monotonic()
    with connect(server) as connection:
        connection.sendall(request("/", "POST", b"Content-Length: 10000"))
        readable: list[socket.socket] = []
        while not readable:
            assert time.monotonic() - started_s < IDLE_S + SLACK_S
            connection.sendall(b"x")
            readable, _, _ = select.select([connection], [], [], IDLE_S / 10)
        answer = rest(connection)
    assert (answer.status, answer.values(b"content-type")) == (408, [b"application/problem+json"])
    assert 0 < len(ends.get(timeout=PATIENCE_S)[0]) < 1000


def test_bodies_that_do_not_begin_take_no_connection(tmp_path: Path) -> None:
    """Twenty heads without a body before four connections: others are served."""
    with scripted_upstream(ok) as upstream, proxy([upstream.url], tmp_path, FEW) as server, ExitStack() as connections:
        waiting = [connections.enter_context(connect(server)) for _ in range(20)]
        for connection in waiting:
            connection.sendall(request("/", "POST", b"Content-Length: 2"))
        assert [ask_raw(server, request("/")).status for _ in range(10)] == [200] * 10
        assert all(head.startswith(b"GET ") for head in upstream.heads)
        upstream.reset(lambda peer, head: ok(peer, peer.read(2)))
        waiting[0].sendall(b"hi")
        assert rest(waiting[0]).body == b"ok"


def test_an_upstream_that_does_not_read_is_cut_off(server: HttpServer, upstream: ScriptedUpstream) -> None:
    """504 once the request has not moved for the idle time-out."""
    release: SimpleQueue[None] = SimpleQueue()
    upstream.reset(lambda peer, head: release.get(timeout=PATIENCE_S))
    with connect(server) as connection:
        connection.sendall(request("/", "POST", b"Content-Length: 100000000"))
        sent = 0
        readable: list[socket.socket] = []
        while not readable:
            readable, writable, _ = select.select([connection], [connection], [], PATIENCE_S)
            if writable and not readable:
                sent += connection.send(b"x" * 65_536)
        answer = connection.recv(65_536)
    release.put(None)
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert b"connection_write_timeout" in answer
    assert sent < 30_000_000, "it was taken in without being passed on"


def test_the_pool_is_bounded(tmp_path: Path) -> None:
    """Four connections at most; a fifth request waits, and is served when one is free, or refused with 503."""
    release: SimpleQueue[None] = SimpleQueue()

    def script(peer: Peer, head: bytes) -> None:
        if b"/held" in head:
            release.get(timeout=PATIENCE_S)
        ok(peer, head)

    with (
        scripted_upstream(ok) as upstream,
        proxy([upstream.url], tmp_path, FEW) as server,
        ExitStack() as connections,
    ):
        upstream.reset(script)
        held = [connections.enter_context(connect(server)) for _ in range(4)]
        for connection in held:
            connection.sendall(request("/held"))
        wait_until(lambda: len(upstream.heads) == 4, PATIENCE_S, "four requests", server.log)
        refused = ask_raw(server, request("/fifth"))
        assert (refused.status, len(upstream.heads)) == (503, 4)
        assert refused.values(b"proxy-status") == [b"shieldmw; error=connection_limit_reached"]
        assert refused.values(b"retry-after") == [b"1"]
        with connect(server) as sixth:
            sixth.sendall(request("/sixth"))
            release.put(None)
            assert rest(sixth).body == b"ok"
        for _ in range(3):
            release.put(None)
        assert [rest(connection).body for connection in held] == [b"ok"] * 4
        assert upstream.connections == 3, "one was open before the test began"


def _refusing() -> str:
    return f"http://{HOST}:{free_port()}"


UNREACHABLE: dict[str, tuple[Callable[[], str], int, str]] = {
    "nobody listens": (_refusing, 502, "connection_refused"),
    "no such socket": (lambda: "unix:/nonexistent/app.sock", 502, "connection_refused"),
    "no such name": (lambda: "http://no-such-host.invalid:80", 502, "dns_error"),
}


@pytest.mark.parametrize("what", UNREACHABLE)
def test_an_upstream_that_cannot_be_reached(what: str, tmp_path: Path) -> None:
    """502 with the reason, and a line in the log that names the upstream."""
    url, status, error = UNREACHABLE[what]
    named = url()
    with proxy([named], tmp_path) as server:
        answer = ask_raw(server, request("/", "POST", b"Content-Length: 2", body=b"hi"))
        assert (answer.status, answer.values(b"proxy-status")) == (status, [f"shieldmw; error={error}".encode()])
        wait_until(lambda: f"the last: {named}" in server.log(), PATIENCE_S, "a line in the log", server.log)


def test_a_full_backlog_is_a_timeout(tmp_path: Path) -> None:
    """504 when the upstream does not accept the connection in time."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        with ExitStack() as crowd:
            for _ in range(4):
                one = crowd.enter_context(socket.socket())
                one.setblocking(False)
                one.connect_ex((HOST, port))
            with proxy([f"http://{HOST}:{port}"], tmp_path, SETTINGS) as server:
                answer = ask_raw(server, request("/"))
    assert (answer.status, answer.values(b"proxy-status")) == (504, [b"shieldmw; error=connection_timeout"])
