"""A live event: streams that never end by themselves, and the app's own journal of its listeners.

Each worker appends a line to the file that LIVE_JOURNAL names when a stream begins and when it ends, with the
clock that all processes of one machine share: read together they say exactly how many were there at any moment.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from e2e.apps import healthz, hello, pid, stream, who

# Often enough to see that a stream goes on, seldom enough for hundreds of them beside other tests.
TICK_S = 0.1

_numbers = itertools.count()
_journal = os.open(os.environ.get("LIVE_JOURNAL", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@contextmanager
def _in_journal() -> Iterator[None]:
    """A stream's beginning and end."""
    name = f"{os.getpid()}.{next(_numbers)}"
    os.write(_journal, f"{time.monotonic()} + {name}\n".encode())
    try:
        yield
    finally:
        os.write(_journal, f"{time.monotonic()} - {name}\n".encode())


class Sse:
    """Numbered server-sent events until the listener leaves."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Plain ASGI, so that the journal has the moment and not what a framework makes of it."""
        with _in_journal():
            headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            gone = asyncio.create_task(_gone(receive))
            try:
                for number in itertools.count():
                    event = f"id: {number}\ndata: {os.getpid()}\n\n".encode()
                    await send({"type": "http.response.body", "body": event, "more_body": True})
                    if (await asyncio.wait([gone], timeout=TICK_S))[0]:
                        return
            finally:
                gone.cancel()


async def _gone(receive: Receive) -> None:
    """Return when the listener has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def ws(websocket: WebSocket) -> None:
    """A WebSocket that says hello and then listens until the listener leaves."""
    with _in_journal():
        await websocket.accept()
        try:
            await websocket.send_text("welcome")
            while True:
                await websocket.receive_text()
        except WebSocketDisconnect:
            return


async def members(request: Request) -> Response:
    """What a rule may keep for members."""
    return PlainTextResponse("members")


app = Starlette(
    routes=[
        Route("/healthz", healthz),
        Route("/hello", hello),
        Route("/pid", pid),
        Route("/who", who),
        Route("/stream", stream),
        Route("/members", members),
        Route("/closed", members),
        Route("/live/sse", Sse()),
        WebSocketRoute("/live/ws", ws),
    ]
)
