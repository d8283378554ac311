"""The apps that are measured, except the peers: the bare app, shielded ones, and one that sends a refusal.

``BENCH_APP`` says which.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

READY_PATH: Final = "/healthz"


async def hello(request: Request) -> PlainTextResponse:
    """The app's only route."""
    return PlainTextResponse("hello")


def bare() -> ASGIApp:
    """Starlette with one route, and one more for readiness, which no limiter counts."""
    return Starlette(routes=[Route("/", hello), Route(READY_PATH, hello)])


def shield() -> ASGIApp:
    """The same behind the shield, configured by its own variables, imported from the folder ``BENCH_CHECKOUT``."""
    sys.path.insert(0, os.environ["BENCH_CHECKOUT"])
    from shieldmw import ShieldMiddleware

    return ShieldMiddleware(bare())


def uncounted() -> ASGIApp:
    """The same, but neither metrics nor the busiest clients are counted."""
    app = shield()
    from shieldmw.gate.decided import DecidedRequests

    DecidedRequests.add = lambda *_: None  # type: ignore[method-assign]
    return app


def refusal() -> ASGIApp:
    """Only sends the bytes of ``BENCH_REFUSAL``: the least that any refusal can cost under this server."""
    answer = json.loads(Path(os.environ["BENCH_REFUSAL"]).read_text("utf-8"))
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer["headers"]]
    refused = {"type": "http.response.start", "status": answer["status"], "headers": headers}
    ready = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]}
    body = {"type": "http.response.body", "body": answer["body"].encode("latin-1")}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == READY_PATH:
            await send(ready)
            await send({"type": "http.response.body"})
            return
        await send(refused)
        await send(body)

    return app


served: Final = bare()
"""The app that ``shieldmw serve`` wraps by itself."""


def build() -> ASGIApp:
    """The app that the environment names."""
    return {"bare": bare, "shield": shield, "uncounted": uncounted, "refusal": refusal}[os.environ["BENCH_APP"]]()
