"""SIGTERM with all seats taken: listeners are notified at once, and seats are free before the server has drained."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
import redis
from websockets.asyncio.client import ClientConnection, connect

from e2e.clients import TIMEOUT_S, fresh_address
from e2e.test_seats import ADMIN_TOKEN, Listener, Record, run, until
from servers import HttpServer, asgi_server, redis_server
from servers.asgi import AsgiKind

SSE_LISTENERS = 5
SOCKETS = 3
MANY_SOCKETS = 30

# An ordinary response that takes about a second.
ORDINARY_CHUNKS = 50

# What the goodbyes and the seats may take, and the end of the process: drains last 20 s, or for ever.
GOODBYE_S = 2.0
END_S = 5.0

# hypercorn tells worker processes of its end by a flag that apps cannot see; one process has the signal itself.
ONE_PROCESS = ("--workers", "0")

SERVERS: dict[str, tuple[AsgiKind, int, Sequence[str]]] = {
    "uvicorn": ("uvicorn", 1, ("--loop", "asyncio")),
    "uvicorn on uvloop": ("uvicorn", 1, ("--loop", "uvloop")),
    "two workers of uvicorn": ("uvicorn", 2, ()),
    "granian": ("granian", 1, ("--loop", "asyncio")),
    "shieldmw serve": ("shieldmw", 1, ()),
    "two workers of shieldmw serve": ("shieldmw", 2, ()),
    "hypercorn": ("hypercorn", 1, ONE_PROCESS),
    "hypercorn on uvloop": ("hypercorn", 1, (*ONE_PROCESS, "-k", "uvloop")),
}


@pytest.mark.parametrize("way", [signal.SIGTERM, signal.SIGINT], ids=lambda way: way.name)
@pytest.mark.parametrize("kind", SERVERS)
def test_who_listens_hears_of_the_end_at_once(
    kind: str, way: signal.Signals, tmp_path: Path, record_property: Record
) -> None:
    """Streams get their goodbye and seats are back within 2 s, an ordinary request finishes, and the process ends."""
    server_kind, workers, arguments = SERVERS[kind]
    target = "live_app:app" if server_kind == "shieldmw" else "shielded_live_app:shielded"
    with redis_server("valkey") as store:
        env = {
            "SHIELD_REDIS_URL": store.url,
            "SHIELD_REDIS_TIMEOUT_MS": "1000",
            "SHIELD_ADMIN_TOKEN": ADMIN_TOKEN,
            "SHIELD_LIVE_PATHS": "/live/*",
            "SHIELD_IP_LIMIT": "off",
        }
        with asgi_server(server_kind, target, env=env, cwd=tmp_path, workers=workers, args=arguments) as server:
            run(_stopped(server, store.client(), workers, way, record_property))


@pytest.mark.parametrize("http", ["auto", "1"])
def test_websockets_alone_hear_of_the_end(http: str, tmp_path: Path) -> None:
    """They get their close code although granian waits for none of them, and nothing else holds up its end."""
    env = {"SHIELD_REDIS_URL": "memory://", "SHIELD_LIVE_PATHS": "/live/*", "SHIELD_IP_LIMIT": "off"}
    with asgi_server("shieldmw", "live_app:app", env=env, cwd=tmp_path, args=("--http", http)) as server:
        closes = run(_closed_by_a_stop(server))
        server.process.wait(END_S)
    assert closes == [(1012, "service restart")] * MANY_SOCKETS


async def _closed_by_a_stop(server: HttpServer) -> Sequence[tuple[int, str]]:
    """With what WebSockets end that are all there is."""
    sockets = [await connect(f"{server.ws_url}/live/ws", local_addr=(fresh_address(), 0)) for _ in range(MANY_SOCKETS)]
    server.process.terminate()
    return await asyncio.gather(*(_close_of(socket) for socket in sockets))


async def _stopped(
    server: HttpServer, store: redis.Redis, workers: int, way: signal.Signals, record_property: Record
) -> None:
    await until(lambda: _workers(store) == workers, TIMEOUT_S, "the seats of every worker")
    listeners = [Listener() for _ in range(SSE_LISTENERS)]
    for listener in listeners:
        assert await listener.ask(server)
    sockets = [await connect(f"{server.ws_url}/live/ws", local_addr=(fresh_address(), 0)) for _ in range(SOCKETS)]
    await until(lambda: all(listener.ids for listener in listeners), TIMEOUT_S, "the event")
    async with (
        httpx.AsyncClient(base_url=server.base_url, timeout=TIMEOUT_S) as guest,
        guest.stream("GET", f"/stream?n={ORDINARY_CHUNKS}") as ordinary,
    ):
        lines = ordinary.aiter_lines()
        came = [await anext(lines)]
        server.process.send_signal(way)
        began_s = time.monotonic()
        closes = await asyncio.gather(*(_close_of(socket) for socket in sockets))
        await until(lambda: all(listener.left_s for listener in listeners), GOODBYE_S, "the goodbyes")
        await until(lambda: _workers(store) == 0, GOODBYE_S, "the seats to be given back")
        took_s = time.monotonic() - began_s
        came += [line async for line in lines]
    assert came == [f"chunk {number}" for number in range(ORDINARY_CHUNKS)]
    assert took_s < GOODBYE_S
    await asyncio.to_thread(server.process.wait, END_S)
    record_property("goodbye_s", round(took_s, 3))
    record_property("end_s", round(time.monotonic() - began_s, 3))
    for listener in listeners:
        _assert_goodbye(listener.heard)
    assert [code for code, _ in closes] == [1012] * SOCKETS
    # uvicorn closes WebSockets itself, with the same code, where its own tick comes first.
    assert {reason for _, reason in closes} <= {"service restart", ""}
    assert "Traceback" not in server.log()


async def _close_of(socket: ClientConnection) -> tuple[int, str]:
    """With what a WebSocket ends."""
    await asyncio.wait_for(socket.wait_closed(), TIMEOUT_S)
    assert socket.close_code is not None
    return socket.close_code, socket.close_reason or ""


def _assert_goodbye(heard: str) -> None:
    shed = re.search(r"\n\nevent: shed\nretry: (\d+)\ndata: (\{[^\n]*\})\n\n$", heard)
    assert shed, heard[-300:]
    assert 1000 <= int(shed[1]) <= 3000
    assert json.loads(shed[2])["title"] == "This server is restarting"


def _workers(store: redis.Redis) -> int:
    """How many workers have seats."""
    return sum(name[:1] not in (b"#", "#") for name in store.hkeys("shield:seats"))
