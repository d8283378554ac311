"""An app that is easy to overload, bare for ``shieldmw serve`` and behind the shield for other servers.

Its work blocks the event loop, or takes one of four connections of a pool; it waits instead of computing, so that what
it can do is the same on a busy machine.
"""

from __future__ import annotations

import asyncio
import os
import time

from starlette.types import Message, Receive, Scope, Send

from shieldmw import ShieldMiddleware

BLOCKED_S = 0.004
POOL = 8
POOL_S = 0.03
PAUSE_S = 0.3

_connections = asyncio.Semaphore(POOL)


async def _work(load: str) -> None:
    if load == "loop":
        time.sleep(BLOCKED_S)  # noqa: ASYNC251  (as computing would)
    else:
        async with _connections:
            await asyncio.sleep(POOL_S)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer ``ok``, echo nothing: a WebSocket is accepted and closed."""
    if scope["type"] == "lifespan":
        while (kind := (await receive())["type"]) != "lifespan.shutdown":
            await send({"type": f"{kind}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/pause":
        asyncio.get_running_loop().call_soon(time.sleep, PAUSE_S)
    elif scope["path"] != "/healthz":
        await _work(os.environ["OVERLOADED_LOAD"])
    for message in _websocket() if scope["type"] == "websocket" else _http():
        await send(message)


def _http() -> list[Message]:
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    return [start, {"type": "http.response.body", "body": b"ok"}]


def _websocket() -> list[Message]:
    return [{"type": "websocket.accept"}, {"type": "websocket.close", "code": 1000}]


shielded = ShieldMiddleware(app)
