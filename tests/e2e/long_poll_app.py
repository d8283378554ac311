"""Long polls: /poll is answered when there is news (a POST to /news), or after the seconds that it names."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

_news = asyncio.Event()


async def poll(request: Request) -> Response:
    """Held until there is news, or for too long."""
    with suppress(TimeoutError):
        await asyncio.wait_for(_news.wait(), float(request.query_params["hold"]))
        return PlainTextResponse("news")
    return PlainTextResponse("nothing yet")


async def news(_request: Request) -> Response:
    """There is news, from now on."""
    _news.set()
    return PlainTextResponse("ok")


app = Starlette(
    routes=[
        Route("/healthz", PlainTextResponse("ok")),
        Route("/poll", poll),
        Route("/news", news, methods=["POST"]),
    ]
)
