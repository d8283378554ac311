"""An app whose live responses pour more into a connection than fits, for clients that read nothing."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.routing import Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from e2e.apps import healthz
from shieldmw import ShieldMiddleware

CHUNK = b"data: " + b"x" * 8184 + b"\n\n"
FILM_CHUNKS = 6000


class Poured:
    """Server-sent events: as many kB as are asked for, and then silence; or without an end."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kb = int(parse_qs(scope["query_string"].decode()).get("kb", ["0"])[0])
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        sent = 0
        while not kb or sent < kb:
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
            sent += len(CHUNK) // 1024
        while (await receive())["type"] != "http.disconnect":
            pass


class Film:
    """A response of known length."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"%d" % (len(CHUNK) * FILM_CHUNKS))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number in range(FILM_CHUNKS):
            more = number < FILM_CHUNKS - 1
            await send({"type": "http.response.body", "body": CHUNK, "more_body": more})
            await asyncio.sleep(0)


async def ws(websocket: WebSocket) -> None:
    """A WebSocket that sends without an end."""
    await websocket.accept()
    while True:
        await websocket.send_bytes(CHUNK)


app = Starlette(
    routes=[
        Route("/healthz", healthz),
        Route("/live/sse", Poured()),
        Route("/live/film", Film()),
        WebSocketRoute("/live/ws", ws),
    ]
)

shielded = ShieldMiddleware(app)
