"""Large bodies through `shieldmw serve --upstream`: whole, and with bounded memory however slowly one end reads."""

from __future__ import annotations

import hashlib
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

import pytest

from e2e.proxied import PATIENCE_S, ask_raw, connect, ok, proxy, read_until, request
from servers import HttpServer, wait_until
from servers.upstreams import Peer, ScriptedUpstream, scripted_upstream

PIECE = bytes(range(256)) * 256
PIECES = 3200
LENGTH = len(PIECE) * PIECES

# What a worker may need more than before, of 200 MB: the buffers of two sockets, an event loop and a server.
MOST_GROWTH_KB = 24_000


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HttpServer, ScriptedUpstream]]:
    """The proxy and its upstream."""
    with (
        scripted_upstream(ok) as upstream,
        proxy([upstream.url], tmp_path_factory.mktemp("proxy"), {"SHIELD_OVERLOAD": "off"}) as server,
    ):
        yield server, upstream


def _worker(server: HttpServer) -> int:
    """The process that serves."""
    found = re.search(r"Spawning worker-1 with PID: (\d+)", server.log())
    assert found
    return int(found[1])


def _memory_kb(pid: int) -> int:
    """The memory that is resident now."""
    found = re.search(r"^VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def _digest() -> str:
    digest = hashlib.sha256()
    for _ in range(PIECES):
        digest.update(PIECE)
    return digest.hexdigest()


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_slow_reader_does_not_fill_the_memory(pair: tuple[HttpServer, ScriptedUpstream], is_chunked: bool) -> None:
    """While the client does not read, the upstream can send only what fits into the buffers; then all of it comes."""
    server, upstream = pair
    sent: SimpleQueue[int] = SimpleQueue()

    def script(peer: Peer, head: bytes) -> None:
        framing = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: %d" % LENGTH
        peer.send(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % framing)
        for number in range(PIECES):
            peer.send(b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if is_chunked else PIECE)
            sent.put(number)
        if is_chunked:
            peer.send(b"0\r\n\r\n")

    upstream.reset(ok)
    ask_raw(server, request("/warm"))
    before_kb = _memory_kb(_worker(server))
    upstream.reset(script)
    with connect(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.sendall(b"GET / HTTP/1.0\r\nHost: site.example\r\n\r\n" if is_chunked else request("/"))
        _until_still(sent)
        assert sent.qsize() < PIECES // 4
        assert _memory_kb(_worker(server)) - before_kb < MOST_GROWTH_KB
        rest = read_until(connection, b"\r\n\r\n").partition(b"\r\n\r\n")[2]
        digest, length = hashlib.sha256(rest), len(rest)
        while data := connection.recv(1 << 20):
            digest.update(data)
            length += len(data)
    assert (length, digest.hexdigest()) == (LENGTH, _digest())
    assert _memory_kb(_worker(server)) - before_kb < MOST_GROWTH_KB


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_slow_upstream_does_not_fill_the_memory(pair: tuple[HttpServer, ScriptedUpstream], is_chunked: bool) -> None:
    """While it does not read, the client can send only what fits into the buffers; then all of it arrives."""
    server, upstream = pair
    go_on: SimpleQueue[None] = SimpleQueue()
    arrived: SimpleQueue[tuple[int, str]] = SimpleQueue()

    def script(peer: Peer, head: bytes) -> None:
        go_on.get(timeout=PATIENCE_S)
        digest, length = hashlib.sha256(), 0
        while length < LENGTH:
            size = int(peer.line(), 16) if is_chunked else min(1 << 20, LENGTH - length)
            data = peer.read(size)
            if is_chunked:
                assert peer.read(2) == b"\r\n"
            digest.update(data)
            length += len(data)
        if is_chunked:
            assert peer.read(5) == b"0\r\n\r\n"
        arrived.put((length, digest.hexdigest()))
        ok(peer, head)

    upstream.reset(ok)
    ask_raw(server, request("/warm"))
    before_kb = _memory_kb(_worker(server))
    upstream.reset(script)
    framing = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: %d" % LENGTH
    sent: SimpleQueue[int] = SimpleQueue()
    with connect(server) as connection:
        connection.sendall(request("/", "POST", framing))

        def send_all() -> None:
            for number in range(PIECES):
                connection.sendall(b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if is_chunked else PIECE)
                sent.put(number)
            if is_chunked:
                connection.sendall(b"0\r\n\r\n")

        sender = Thread(target=send_all)
        sender.start()
        _until_still(sent)
        assert sent.qsize() < PIECES // 4
        assert _memory_kb(_worker(server)) - before_kb < MOST_GROWTH_KB
        go_on.put(None)
        assert arrived.get(timeout=PATIENCE_S) == (LENGTH, _digest())
        assert b"200 OK" in read_until(connection, b"ok")
        sender.join()
    assert upstream.errors == []
    assert _memory_kb(_worker(server)) - before_kb < MOST_GROWTH_KB


def _until_still(sent: SimpleQueue[int]) -> None:
    """Wait until nothing more has been sent for a while."""
    last = [(-1, 0.0)]

    def is_still() -> bool:
        count, now_s = sent.qsize(), time.monotonic()
        if count != last[0][0]:
            last[0] = (count, now_s)
        return count > 0 and now_s - last[0][1] > 0.5

    wait_until(is_still, PATIENCE_S, "the sender to be held up")
