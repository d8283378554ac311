"""Reverse proxies in Python, each set up as its own README says.

Runs in the venv of peers.txt. ``BENCH_APP`` says which, ``BENCH_UPSTREAM`` is the URL of what it is in front of.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

UPSTREAM: Final = os.environ.get("BENCH_UPSTREAM", "http://127.0.0.1:9000")


def asgi_proxy_lib() -> ASGIApp:
    """A client of httpx for each request: connections are not kept."""
    from asgi_proxy import asgi_proxy

    app: ASGIApp = asgi_proxy(UPSTREAM)
    return app


def fastapi_reverse_proxy() -> ASGIApp:
    """A pool of httpx."""
    from fastapi import FastAPI
    from fastapi_reverse_proxy import Proxy, proxy_pass

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Proxy(app):
            yield

    app = FastAPI(lifespan=lifespan)

    async def index(request: Request) -> Response:
        answer: Response = await proxy_pass(request, UPSTREAM)
        return answer

    app.add_api_route("/{path:path}", index, methods=["GET"], response_model=None)
    return app


def build() -> ASGIApp:
    """The peer that the environment names."""
    return {"asgi_proxy_lib": asgi_proxy_lib, "fastapi_reverse_proxy": fastapi_reverse_proxy}[os.environ["BENCH_APP"]]()
