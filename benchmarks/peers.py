"""The peers, each set up as its own README says, with the same limit on the same Redis.

Runs in the venv of peers.txt, which has no shield. A library that is not a middleware is put in the thinnest one.
``BENCH_LIMIT`` is ``N/minute`` or ``N/day``.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from benchmarks.apps import READY_PATH, bare, hello

LIMIT: Final = os.environ.get("BENCH_LIMIT", "1000000/minute")
REDIS_URL: Final = os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:6379/0")
_AMOUNT: Final = int(LIMIT.partition("/")[0])
_PERIOD: Final = LIMIT.partition("/")[2]


class Thin:
    """Calls ``allows`` with the address of the peer, and sends the shortest 429."""

    def __init__(self, app: ASGIApp, allows: Callable[[str], Awaitable[bool]]) -> None:
        self._app = app
        self._allows = allows

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Decide an http scope."""
        if scope["type"] == "http" and scope["path"] != READY_PATH and not await self._allows(scope["client"][0]):
            await send({"type": "http.response.start", "status": 429, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})
            return
        await self._app(scope, receive, send)


def slowapi() -> ASGIApp:
    """slowapi 0.1.10, its quick start for Starlette (slowapi.readthedocs.io, linked from its README)."""
    from slowapi import Limiter, _rate_limit_exceeded_handler
    from slowapi.errors import RateLimitExceeded
    from slowapi.util import get_remote_address

    limiter = Limiter(key_func=get_remote_address, storage_uri=REDIS_URL)

    app = Starlette(routes=[Route("/", limiter.limit(LIMIT)(hello)), Route(READY_PATH, hello)])
    app.state.limiter = limiter
    app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)
    return app


def limits() -> ASGIApp:
    """limits 5.8.0, README "Dive right in" with the async twins it names, and the cheapest of its three strategies."""
    from limits import parse
    from limits.aio.strategies import FixedWindowRateLimiter
    from limits.storage import storage_from_string

    strategy = FixedWindowRateLimiter(storage_from_string(f"async+{REDIS_URL}"))
    item = parse(LIMIT)
    return Thin(bare(), lambda address: strategy.hit(item, "bench", address))


def throttled_py() -> ASGIApp:
    """throttled-py 3.5.0, README "Example", "Asynchronous" and "Redis"."""
    from throttled.asyncio import RateLimiterType, RedisStore, Throttled

    throttle = Throttled(
        using=RateLimiterType.TOKEN_BUCKET.value,
        quota=f"{_AMOUNT}/{_PERIOD[0]} burst {_AMOUNT}",
        store=RedisStore(server=REDIS_URL, options={}),
    )

    async def allows(address: str) -> bool:
        return not (await throttle.limit(address, cost=1)).limited

    return Thin(bare(), allows)


def asgi_ratelimit() -> ASGIApp:
    """asgi-ratelimit 0.10.0, README "Usage" with Redis; its ``client_ip`` refuses loopback, so the function is ours."""
    from ratelimit import RateLimitMiddleware, Rule
    from ratelimit.backends.redis import RedisBackend
    from redis.asyncio import StrictRedis

    async def peer(scope: Scope) -> tuple[str, str]:
        return scope["client"][0], "default"

    rule = Rule(**{_PERIOD: _AMOUNT})
    backend = RedisBackend(StrictRedis.from_url(REDIS_URL))
    app: ASGIApp = RateLimitMiddleware(bare(), peer, backend, {r"^/$": [rule]})
    return app


def fastapi_limiter() -> ASGIApp:
    """fastapi-limiter 0.1.6, README "Quick Start"; it needs FastAPI, which is slower than Starlette by itself."""
    import redis.asyncio as redis
    from fastapi import Depends, FastAPI
    from fastapi_limiter import FastAPILimiter
    from fastapi_limiter.depends import RateLimiter

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await FastAPILimiter.init(redis.from_url(REDIS_URL, encoding="utf8"))
        yield
        await FastAPILimiter.close()

    app = FastAPI(lifespan=lifespan)
    period = {"minute": {"minutes": 1}, "day": {"hours": 24}}[_PERIOD]

    @app.get("/", dependencies=[Depends(RateLimiter(times=_AMOUNT, **period))])
    async def index() -> PlainTextResponse:
        return PlainTextResponse("hello")

    @app.get(READY_PATH)
    async def ready() -> PlainTextResponse:
        return PlainTextResponse("hello")

    return app


def build() -> ASGIApp:
    """The peer that the environment names."""
    peers = (slowapi, limits, throttled_py, asgi_ratelimit, fastapi_limiter)
    return {peer.__name__: peer for peer in peers}[os.environ["BENCH_APP"]]()
