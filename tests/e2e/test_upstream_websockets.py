"""WebSockets through `shieldmw serve --upstream`: real libraries at both ends, and raw handshakes."""

from __future__ import annotations

import base64
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import unquote

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve

from e2e.proxied import PATIENCE_S, ask_raw, ok, proxy, rest, sent_lines
from e2e.proxied import connect as connect_raw
from servers import HOST, HttpServer
from servers.upstreams import Peer, ScriptedUpstream, scripted_upstream

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="


# --- before a real server -------------------------------------------------------------------------


@contextmanager
def websocket_upstream(handler: Callable[[ServerConnection], None], **options: Any) -> Iterator[str]:
    """A server of the websockets library."""
    with serve(handler, HOST, 0, max_size=None, **options) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://{HOST}:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join()


def handle(connection: ServerConnection) -> None:
    """Echo, and do what the path says."""
    assert connection.request is not None
    path = connection.request.path
    if path.startswith("/close/"):
        _, _, code, reason = path.split("/")
        connection.close(int(code), unquote(reason))
    elif path == "/close-without-a-code":
        connection.socket.sendall(b"\x88\x00")
        connection.close()
    elif path == "/drop":
        connection.socket.shutdown(socket.SHUT_RDWR)
    elif path == "/flood":
        for number in range(100_000):
            connection.send(b"%d" % number)
    else:
        with suppress(ConnectionClosed):
            while True:
                connection.send(connection.recv())
    if connection.close_code is not None:
        _CLOSED.put((connection.close_code, connection.close_reason or ""))


_CLOSED: SimpleQueue[tuple[int, str]] = SimpleQueue()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    """The proxy before a server of the websockets library that speaks the subprotocol `b`."""
    with (
        websocket_upstream(handle, select_subprotocol=lambda _, offered: "b" if "b" in offered else None) as url,
        proxy([url], tmp_path_factory.mktemp("proxy")) as server,
    ):
        yield server


@contextmanager
def client(server: HttpServer, path: str, **options: Any) -> Iterator[ClientConnection]:
    """A client of the websockets library."""
    with connect(f"{server.ws_url}{path}", max_size=None, open_timeout=PATIENCE_S, **options) as connection:
        yield connection


def test_messages_pass_both_ways(real: HttpServer) -> None:
    """Text and bytes stay what they are, also empty, large and many."""
    messages: list[str | bytes] = [
        "",
        "héllo 🎉",
        b"",
        b"\x00\xff",
        "x" * 1_000_000,
        bytes(10_000_000),
        *(str(n) for n in range(100)),
    ]
    with client(real, "/echo?a=%2F") as connection:
        for message in messages:
            connection.send(message)
            assert connection.recv(PATIENCE_S) == message


def test_fragments_are_one_message(real: HttpServer) -> None:
    """However the client cuts it."""
    with client(real, "/echo") as connection:
        connection.send(["one ", "two ", "three"])
        assert connection.recv(PATIENCE_S) == "one two three"


def test_the_subprotocol_is_the_upstreams_choice(real: HttpServer) -> None:
    """Among those that the client offers."""
    with client(real, "/echo", subprotocols=["a", "b"]) as connection:
        assert connection.subprotocol == "b"
    with client(real, "/echo") as connection:
        assert connection.subprotocol is None


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "bye"), (1011, "é"), (3000, "x"), (4999, "y" * 100)])
def test_the_upstreams_close_code_is_kept(real: HttpServer, code: int, reason: str) -> None:
    """With its reason."""
    with client(real, f"/close/{code}/{reason}") as connection:
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(PATIENCE_S)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, reason)


def test_a_close_without_a_code_is_normal(real: HttpServer) -> None:
    """ASGI has no close without one."""
    with client(real, "/close-without-a-code") as connection:
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(PATIENCE_S)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1000


def test_an_upstream_that_vanishes_is_a_bad_gateway(real: HttpServer) -> None:
    """Close code 1014, IANA's for it."""
    with client(real, "/drop") as connection:
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(PATIENCE_S)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1014


@pytest.mark.parametrize("code", [1000, 1001, 4321])
def test_the_clients_close_code_is_kept(real: HttpServer, code: int) -> None:
    """granian tells apps no reason."""
    _drain(_CLOSED)
    with client(real, "/echo") as connection:
        connection.send("x")
        connection.recv(PATIENCE_S)
        connection.close(code)
    assert _CLOSED.get(timeout=PATIENCE_S)[0] == code


def test_a_client_that_vanishes_leaves_no_close_frame(real: HttpServer) -> None:
    """The upstream sees 1006, as it would without a proxy."""
    _drain(_CLOSED)
    with client(real, "/echo") as connection:
        connection.send("x")
        connection.recv(PATIENCE_S)
        connection.socket.shutdown(socket.SHUT_RDWR)
        assert _CLOSED.get(timeout=PATIENCE_S)[0] == 1006


def test_a_flood_is_not_kept_in_memory(real: HttpServer) -> None:
    """All of it comes, in order, to a client that starts to read late."""
    with client(real, "/flood") as connection:
        assert [int(connection.recv(PATIENCE_S)) for _ in range(100_000)] == list(range(100_000))


def test_a_listener_on_a_live_path_holds_a_seat(tmp_path: Path) -> None:
    """And a second one on a capacity of one is turned away before the upstream is asked."""
    env = {"SHIELD_LIVE_PATHS": "/live", "SHIELD_CAPACITY": "1", "SHIELD_IP_LIMIT": "100/minute"}
    with websocket_upstream(handle) as url, proxy([url], tmp_path, env) as server:
        with client(server, "/live") as connection:
            connection.send("x")
            assert connection.recv(PATIENCE_S) == "x"
            with pytest.raises(InvalidStatus) as refused, client(server, "/live"):
                pass
            assert refused.value.response.status_code == 503
        with client(server, "/echo") as connection:
            connection.send("y")
            assert connection.recv(PATIENCE_S) == "y"


def _drain(queue: SimpleQueue[tuple[int, str]]) -> None:
    while not queue.empty():
        queue.get()


# --- before a scripted one ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HttpServer, ScriptedUpstream]]:
    """The proxy with short time limits, and its upstream."""
    env = {"SHIELD_UPSTREAM_HEAD_TIMEOUT_MS": "500", "SHIELD_UPSTREAM_IDLE_TIMEOUT_MS": "2000"}
    with (
        scripted_upstream(ok) as upstream,
        proxy([upstream.url], tmp_path_factory.mktemp("proxy"), env) as server,
    ):
        yield server, upstream


@pytest.fixture
def server(pair: tuple[HttpServer, ScriptedUpstream]) -> HttpServer:
    """The proxy."""
    return pair[0]


@pytest.fixture
def upstream(pair: tuple[HttpServer, ScriptedUpstream]) -> Iterator[ScriptedUpstream]:
    """The upstream; the worker serves on after each test."""
    pair[1].reset(ok)
    yield pair[1]
    assert pair[1].errors == []
    pair[1].reset(ok)
    assert ask_raw(pair[0], b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").body == b"ok"
    assert "Traceback" not in pair[0].log()


def accepting(head: bytes, *more: bytes) -> bytes:
    """A 101 that answers a handshake."""
    key = dict(sent_lines(head))[b"sec-websocket-key"]
    accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
    lines = (b"Upgrade: WebSocket", b"Connection: Upgrade", b"Sec-WebSocket-Accept: " + accept, *more)
    return b"HTTP/1.1 101 Switching Protocols\r\n" + b"\r\n".join(lines) + b"\r\n\r\n"


def handshake(*more: bytes, version: bytes = b"13", key: bytes = KEY, path: bytes = b"/") -> bytes:
    """A client's handshake."""
    lines = (
        *(b"GET %b HTTP/1.1" % path, b"Host: site.example", b"Connection: Upgrade", b"Upgrade: websocket"),
        *(b"Sec-WebSocket-Version: " + version, b"Sec-WebSocket-Key: " + key, *more),
    )
    return b"\r\n".join(lines) + b"\r\n\r\n"


def test_the_handshake_is_our_own(server: HttpServer, upstream: ScriptedUpstream) -> None:
    """Its own key and no extensions; Origin, cookies and subprotocols pass. (granian sends no headers of an app's.)"""

    def script(peer: Peer, head: bytes) -> None:
        peer.send(accepting(head, b"Sec-WebSocket-Protocol: two") + b"\x81\x02hi")
        peer.rest()

    upstream.reset(script)
    more = (b"Origin: https://site.example", b"Cookie: c=3", b"Sec-WebSocket-Protocol: one, two", b"X: \xe9")
    with connect_raw(server) as connection:
        connection.sendall(handshake(*more, b"Sec-WebSocket-Extensions: permessage-deflate", path=b"/a%2Fb?c"))
        received = b""
        while b"hi" not in received:
            received += connection.recv(65_536)
    sent = sent_lines(upstream.heads[0])
    lines = dict(sent)
    assert upstream.heads[0].startswith(b"GET /a%2Fb?c HTTP/1.1\r\nhost: site.example\r\n")
    assert (lines[b"origin"], lines[b"cookie"], lines[b"x"]) == (b"https://site.example", b"c=3", b"\xe9")
    assert lines[b"sec-websocket-protocol"] == b"one, two"
    assert lines[b"sec-websocket-key"] != KEY
    assert b"sec-websocket-extensions" not in lines
    assert [name for name, _ in sent if name in (b"upgrade", b"connection")] == [b"connection", b"upgrade"]
    head = received.partition(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"http/1.1 101 ")
    assert head.count(b"sec-websocket-protocol: two") == 1


NO_HANDSHAKES = {
    "no key": handshake().replace(b"Sec-WebSocket-Key: " + KEY + b"\r\n", b""),
    "another version": handshake(version=b"8"),
    "no version": handshake().replace(b"Sec-WebSocket-Version: 13\r\n", b""),
    "no Connection": handshake().replace(b"Connection: Upgrade\r\n", b""),
    "another protocol": handshake().replace(b"Upgrade: websocket", b"Upgrade: h2c"),
}


@pytest.mark.parametrize("what", NO_HANDSHAKES)
def test_what_is_no_handshake_is_no_upgrade(server: HttpServer, upstream: ScriptedUpstream, what: str) -> None:
    """It passes as an ordinary request or is refused; the upstream sees no Upgrade, and nothing is hidden behind it."""
    with connect_raw(server) as connection:
        hidden = b"GET /hidden HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        connection.sendall(NO_HANDSHAKES[what] + hidden)
        answer = rest(connection)
    assert answer.status in (200, 400, 426)
    for head in upstream.heads:
        assert b"upgrade" not in head.lower()
    assert len(upstream.heads) <= 2


def test_nothing_reaches_the_upstream_before_it_accepts(server: HttpServer, upstream: ScriptedUpstream) -> None:
    """What a client sends behind a handshake that is refused is a request of its own, decided by itself."""
    seen: SimpleQueue[bytes] = SimpleQueue()

    def script(peer: Peer, head: bytes) -> None:
        peer.socket.settimeout(0.3)
        try:
            seen.put(peer.socket.recv(65_536))
        except TimeoutError:
            seen.put(b"nothing")
        peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nX-Why: no\r\n\r\nno")
        peer.rest()

    upstream.reset(script)
    with connect_raw(server) as connection:
        connection.sendall(handshake() + b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n")
        assert seen.get(timeout=PATIENCE_S) == b"nothing"
        answer = connection.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"x-why: no" in answer
    for hidden in upstream.heads[1:]:
        assert hidden.startswith(b"GET /hidden HTTP/1.1\r\nhost: a\r\n")


BAD_ANSWERS: dict[str, Callable[[bytes], bytes]] = {
    "a wrong accept": lambda head: accepting(head.replace(b"sec-websocket-key: ", b"sec-websocket-key: x")),
    "no accept": lambda head: b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    "an extension": lambda head: accepting(head, b"Sec-WebSocket-Extensions: permessage-deflate"),
    "a subprotocol that was not offered": lambda head: accepting(head, b"Sec-WebSocket-Protocol: x"),
    "another protocol": lambda head: accepting(head).replace(b"Upgrade: WebSocket", b"Upgrade: h2c"),
    "garbage": lambda head: b"hello\r\n\r\n",
    "nothing": lambda head: b"",
}


@pytest.mark.parametrize("what", BAD_ANSWERS)
def test_a_wrong_answer_to_the_handshake_is_a_bad_gateway(
    server: HttpServer, upstream: ScriptedUpstream, what: str
) -> None:
    """502, and the client's WebSocket is never open."""

    def script(peer: Peer, head: bytes) -> None:
        peer.send(BAD_ANSWERS[what](head))
        peer.close()

    upstream.reset(script)
    with pytest.raises(InvalidStatus) as refused, client(server, "/"):
        pass
    assert refused.value.response.status_code == 502


@pytest.mark.parametrize(
    ("length", "status"), [(None, 401), (40_000, 401), (200_000, 502)], ids=["in pieces", "long", "too long"]
)
def test_a_refusal_passes_with_its_body(
    server: HttpServer, upstream: ScriptedUpstream, length: int | None, status: int
) -> None:
    """Also one that comes in several pieces; one that is too long to be held is a bad gateway."""

    def script(peer: Peer, head: bytes) -> None:
        if length is None:
            peer.send(b"HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(99):
                peer.send(b"2\r\nno\r\n")
            peer.send(b"0\r\n\r\n")
        else:
            peer.send(b"HTTP/1.1 401 No\r\nContent-Length: %d\r\n\r\n" % length + bytes(length))

    upstream.reset(script)
    with pytest.raises(InvalidStatus) as refused, client(server, "/"):
        pass
    response = refused.value.response
    assert response.status_code == status
    if status == 401:
        assert response.body == (b"no" * 99 if length is None else bytes(length))


def test_no_answer_to_the_handshake_is_a_timeout(server: HttpServer, upstream: ScriptedUpstream) -> None:
    """504 after the time for a head."""

    def script(peer: Peer, head: bytes) -> None:
        peer.rest()

    upstream.reset(script)
    with pytest.raises(InvalidStatus) as refused, client(server, "/"):
        pass
    assert refused.value.response.status_code == 504


BAD_FRAMES = {
    "a masked frame": (b"\x81\x82abcdxx", 1014),
    "an unknown opcode": (b"\x83\x00", 1014),
    "a reserved bit": (b"\xc1\x00", 1014),
    "text that is no UTF-8": (b"\x81\x01\xff", 1014),
    "a continuation of nothing": (b"\x80\x00", 1014),
    "a fragmented ping": (b"\x09\x00", 1014),
    "a message of a gigabyte": (b"\x82\x7f\0\0\0\0\x40\0\0\0", 1009),
    "fragments beyond the limit": (b"\x02\x7f\0\0\0\0\0\xff\0\0" + bytes(0xFF0000) + b"\x00\x7f\0\0\0\0\0\2\0\0", 1009),
    "a close frame of one byte": (b"\x88\x01x", 1014),
}


@pytest.mark.parametrize("what", BAD_FRAMES)
def test_bad_frames_end_the_websocket(server: HttpServer, upstream: ScriptedUpstream, what: str) -> None:
    """With a close code for the client, and the upstream's connection ends."""
    frames, code = BAD_FRAMES[what]
    ends: SimpleQueue[object] = SimpleQueue()

    def script(peer: Peer, head: bytes) -> None:
        peer.send(accepting(head) + frames)
        ends.put(peer.rest())

    upstream.reset(script)
    with client(server, "/") as connection:
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(PATIENCE_S)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == code
    ends.get(timeout=PATIENCE_S)


def test_a_quiet_upstream_is_pinged_and_a_dead_one_left(server: HttpServer, upstream: ScriptedUpstream) -> None:
    """One that answers pings may be quiet for longer than the idle time-out; one that does not is left."""
    pings: SimpleQueue[bytes] = SimpleQueue()
    answers = [True]

    def script(peer: Peer, head: bytes) -> None:
        peer.send(accepting(head))
        while ping := peer.read(6):  # a masked ping without a payload
            pings.put(ping[:2])
            if answers[0]:
                peer.send(b"\x8a\x00")

    upstream.reset(script)
    with client(server, "/", ping_interval=None) as connection:
        started_s = time.monotonic()
        for _ in range(6):
            assert pings.get(timeout=PATIENCE_S) == b"\x89\x80"
        assert time.monotonic() - started_s > 2.0
        answers[0] = False
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(PATIENCE_S)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1014


def test_an_upstream_that_pings_without_reading_is_bounded(server: HttpServer, upstream: ScriptedUpstream) -> None:
    """Its pings are not answered while it does not read, so that the answers do not pile up."""
    done: SimpleQueue[None] = SimpleQueue()

    def script(peer: Peer, head: bytes) -> None:
        peer.send(accepting(head))
        ping = b"\x89\x7d" + bytes(125)
        for _ in range(2000):
            peer.send(ping * 100)
        peer.send(b"\x81\x02hi")
        done.get(timeout=PATIENCE_S)
        peer.close()

    upstream.reset(script)
    with client(server, "/") as connection:
        assert connection.recv(PATIENCE_S) == "hi"
        done.put(None)
