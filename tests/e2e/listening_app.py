"""Pages that listen to an event stream, with the code of the documents and without, and the stream."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from e2e.apps import healthz
from shieldmw import ShieldMiddleware

LISTENING = """<script>%s
const heard = [];
listen("/live", { message: (event) => heard.push(event.data), away: (problem) => heard.push(problem) });
</script>"""

PLAIN = """<script>
const opened = [], lost = [];
const source = new EventSource("/live");
source.onopen = () => opened.push(performance.now());
source.onerror = () => lost.push(performance.now());
</script>"""

_breaks: set[asyncio.Event] = set()


async def listening(_: Request) -> Response:
    """The code of the documents."""
    return HTMLResponse(LISTENING % os.environ["LISTEN_JS"])


async def plain(_: Request) -> Response:
    """A plain EventSource."""
    return HTMLResponse(PLAIN)


async def live(_: Request) -> Response:
    """One event, and then nothing, until the streams are broken."""
    broken = asyncio.Event()
    _breaks.add(broken)

    async def events() -> AsyncIterator[str]:
        try:
            yield "data: welcome\n\n"
            await broken.wait()
        finally:
            _breaks.discard(broken)

    return StreamingResponse(events(), media_type="text/event-stream")


async def break_all(_: Request) -> Response:
    """End every stream, as a fault in the app or on the way would."""
    for broken in _breaks:
        broken.set()
    return PlainTextResponse("broken")


app = Starlette(
    routes=[
        Route("/healthz", healthz),
        Route("/listening", listening),
        Route("/plain", plain),
        Route("/break", break_all),
        Route("/live", live),
    ]
)

shielded = ShieldMiddleware(app)
