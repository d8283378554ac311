"""Thousands of connections that say nothing, through one worker of `shieldmw serve --upstream`."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import pytest

from e2e.proxied import PATIENCE_S, ask_raw, proxy, request
from servers import HOST, HttpServer, asgi_server, wait_until

WEBSOCKETS = STREAMS = 1000

SETTINGS = {
    "SHIELD_OVERLOAD": "off",
    "SHIELD_MAX_IN_FLIGHT": "4096",
    "SHIELD_UPSTREAM_CONNECTIONS": "4096",
    "SHIELD_UPSTREAM_CONNECT_TIMEOUT_MS": "15000",
    "SHIELD_UPSTREAM_HEAD_TIMEOUT_MS": "30000",
}

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: site.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
LISTENER = b"GET /events HTTP/1.1\r\nHost: site.example\r\n\r\n"

# Connections being opened at one moment.
AT_ONCE = 50

# What one may cost the worker: two sockets and their buffers, a few dozen objects, and what the server keeps of it.
MOST_KB_EACH = 200

# What may stay with the process after three crowds, as a multiple of what one takes: the next one uses it again.
MOST_LEFT = 1.5

# An answer beside the idle ones; two orders of magnitude more than on an idle machine.
SLOWEST_S = 2.0


def _worker(server: HttpServer) -> Path:
    found = re.search(r"Spawning worker-1 with PID: (\d+)", server.log())
    assert found
    return Path("/proc", found[1])


def _memory_kb(worker: Path) -> int:
    found = re.search(r"^VmRSS:\s+(\d+)", (worker / "status").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def _sockets(worker: Path) -> int:
    return sum(1 for _ in (worker / "fd").iterdir())


async def _open(port: int, head: bytes, until: bytes, free: asyncio.Semaphore) -> asyncio.StreamWriter:
    async with free:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(head)
        await reader.readuntil(until)
        return writer


async def _with_crowd(server: HttpServer) -> int:
    """Open the crowd, ask small requests beside it, close it. Returns the worker's memory with it, in KB."""
    async with asyncio.timeout(60):
        free = asyncio.Semaphore(AT_ONCE)
        crowd = [_open(server.port, HANDSHAKE, b"\r\n\r\n", free) for _ in range(WEBSOCKETS)]
        crowd += [_open(server.port, LISTENER, b"data: hello\n\n", free) for _ in range(STREAMS)]
        writers = await asyncio.gather(*crowd)
        for _ in range(100):
            started_s = time.monotonic()
            answer = await asyncio.to_thread(ask_raw, server, request("/small"))
            assert answer.status == 200
            assert time.monotonic() - started_s < SLOWEST_S
        used_kb = _memory_kb(_worker(server))
        assert _sockets(_worker(server)) >= 2 * (WEBSOCKETS + STREAMS), "both ends of each are open"
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
        return used_kb


@pytest.mark.thorough
def test_idle_connections_cost_little_and_leave_nothing(tmp_path: Path) -> None:
    """A thousand WebSockets and a thousand streams, three times, while small requests go on being answered."""
    with (
        asgi_server("granian", "quiet_app:app", env={}, cwd=tmp_path) as upstream,
        proxy([upstream.base_url], tmp_path, SETTINGS) as server,
    ):
        ask_raw(server, request("/warm"))
        worker = _worker(server)
        before_kb, sockets = _memory_kb(worker), _sockets(worker)
        crowds_kb, after_kb = [], []
        for _ in range(3):
            used_kb = asyncio.run(_with_crowd(server))
            wait_until(lambda: _sockets(worker) <= sockets + AT_ONCE, PATIENCE_S, "the sockets to close", server.log)
            crowds_kb.append(used_kb - before_kb)
            after_kb.append(_memory_kb(worker) - before_kb)
            assert used_kb - before_kb < MOST_KB_EACH * (WEBSOCKETS + STREAMS), f"{used_kb} KB after {before_kb}"
        assert after_kb[2] < MOST_LEFT * crowds_kb[0], (crowds_kb, after_kb)
        assert "Traceback" not in server.log()
