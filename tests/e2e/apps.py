"""The small app under test: one route for each way of answering.

It knows nothing of the shield but `scope["shield"]`, so that the same app runs with and without it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

# Long enough for a client to see separate chunks, short enough to wait for.
PAUSE_S = 0.02


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[Mapping[str, Any]]:
    """Hand the worker's process id to every request, and say in the log when the worker starts and ends."""
    sys.stderr.write(f"app started in {os.getpid()}\n")
    yield {"started_in": os.getpid()}
    sys.stderr.write(f"app ended in {os.getpid()}\n")


async def healthz(request: Request) -> Response:
    """An answer on the path that is exempt by default."""
    return PlainTextResponse("ok")


async def hello(request: Request) -> Response:
    """A small text."""
    return PlainTextResponse("hello")


async def pid(request: Request) -> Response:
    """Which worker answers."""
    return PlainTextResponse(str(os.getpid()))


async def state(request: Request) -> Response:
    """The lifespan state as this request sees it."""
    return JSONResponse(dict(request.scope.get("state") or {}))


async def headers(request: Request) -> Response:
    """The request's headers as they arrived: each name with the values of all its lines."""
    names = {name.lower() for name in request.headers}
    return JSONResponse({name: request.headers.getlist(name) for name in sorted(names)})


class Echo:
    """The request's body, sent back chunk by chunk as it comes.

    Plain ASGI: a StreamingResponse waits for `http.disconnect` beside its body and so would swallow chunks.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer before the body is read, then receive and send by turns."""
        headers = [(b"content-type", b"application/octet-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        more = True
        while more:
            message = await receive()
            more = message.get("more_body", False)
            body = message.get("body", b"")
            await send({"type": "http.response.body", "body": body, "more_body": more})


async def stream(request: Request) -> Response:
    """`?n=` chunks (5 by default), one after the other."""
    return StreamingResponse(_chunks(int(request.query_params.get("n", "5"))), media_type="text/plain")


async def _chunks(count: int) -> AsyncIterator[str]:
    """Numbered lines with a pause between."""
    for number in range(count):
        yield f"chunk {number}\n"
        await asyncio.sleep(PAUSE_S)


async def sse(request: Request) -> Response:
    """Server-sent events: `?n=` of them, or without it until the client leaves."""
    count = request.query_params.get("n")
    events = _events(None if count is None else int(count))
    return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-store"})


async def _events(count: int | None) -> AsyncIterator[str]:
    """Numbered events."""
    number = 0
    while count is None or number < count:
        yield f"id: {number}\ndata: tick {number}\n\n"
        number += 1
        await asyncio.sleep(PAUSE_S)


async def boom(request: Request) -> Response:
    """An exception in the app."""
    raise RuntimeError("boom")


async def slow(request: Request) -> Response:
    """An answer after `?ms=` milliseconds."""
    await asyncio.sleep(int(request.query_params.get("ms", "100")) / 1000)
    return PlainTextResponse("slow")


async def who(request: Request) -> Response:
    """What the shield says about the client, or null where there is no shield."""
    return JSONResponse(_describe(request.scope.get("shield")))


def _describe(shield: Any) -> dict[str, str | None] | None:
    """The shield's words as plain text."""
    if shield is None:
        return None
    return {
        "subject": None if shield.identity is None else str(shield.identity.subject),
        "class": _plain(shield.listener_class),
        "address": None if shield.client_address is None else str(shield.client_address),
        "mode": _plain(shield.mode),
    }


def _plain(value: Any) -> str:
    """The text of a string or of an enumeration's member."""
    return str(getattr(value, "value", value))


async def ws(websocket: WebSocket) -> None:
    """Echo text as text and bytes as bytes, in the first subprotocol that the client offers."""
    offered = websocket.scope.get("subprotocols") or [None]
    await websocket.accept(subprotocol=offered[0])
    while (message := await websocket.receive())["type"] == "websocket.receive":
        await _send_back(websocket, message)


async def _send_back(websocket: WebSocket, message: Mapping[str, Any]) -> None:
    """Return one message; the text `close CODE` closes the connection instead."""
    text = message.get("text")
    try:
        if text is None:
            await websocket.send_bytes(message["bytes"])
        elif text.startswith("close "):
            await websocket.close(int(text.removeprefix("close ")), "as asked")
        else:
            await websocket.send_text(text)
    except WebSocketDisconnect:
        return


app = Starlette(
    routes=[
        Route("/healthz", healthz),
        Route("/hello", hello),
        Route("/pid", pid),
        Route("/state", state),
        Route("/headers", headers),
        Route("/echo", Echo(), methods=["POST"]),
        Route("/stream", stream),
        Route("/sse", sse),
        Route("/boom", boom),
        Route("/slow", slow),
        Route("/who", who),
        WebSocketRoute("/ws", ws),
    ],
    lifespan=lifespan,
)
