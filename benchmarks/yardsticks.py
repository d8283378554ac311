"""The cost of the least that a limiter can do: each app does one thing that the shield does, and nothing else.

None of them is fit for use: they have no rules, trust any header, and fail if Redis does.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from struct import pack
from typing import Any, Final

import redis.asyncio as redis
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from benchmarks.apps import READY_PATH, bare
from shieldmw.store.scripts import source

_UNITS: Final = 300
_UNIT_US: Final = 200_000
_POLICY: Final = (b"ratelimit-policy", b'"ip";q=300;w=60')


def _with_headers(left: int, send: Send) -> Send:
    """A ``send`` that adds the two headers of a limited answer."""
    added = [_POLICY, (b"ratelimit", b'"ip";r=%d;t=1' % left)]

    def send_and_add(message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *added]}
        return send(message)

    return send_and_add


class Counter:
    """Counts the requests of each address in a dict."""

    def __init__(self) -> None:
        self._app = bare()
        self._counts: dict[str, int] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the request, and pass it on."""
        if scope["type"] == "http" and scope["path"] != READY_PATH:
            address = scope["client"][0]
            count = self._counts[address] = self._counts.get(address, 0) + 1
            send = _with_headers(1_000_000_000 - count, send)
        await self._app(scope, receive, send)


class Group:
    """Takes one unit from the bucket of each ``X-Forwarded-For``; waiting requests share a call to ``take.lua``."""

    def __init__(self) -> None:
        self._app = bare()
        self._redis: Any = redis.Redis.from_url(os.environ["BENCH_REDIS_URL"])
        self._digest: str | None = None
        self._waiting: list[tuple[bytes, asyncio.Future[int]]] = []
        self._calling: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one unit, and pass the request on."""
        if scope["type"] == "http" and scope["path"] != READY_PATH:
            who = b""
            for name, value in scope["headers"]:
                if name == b"x-forwarded-for":
                    who = value
            send = _with_headers(await self._left(b"yardstick:" + who), send)
        await self._app(scope, receive, send)

    def _left(self, bucket: bytes) -> asyncio.Future[int]:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        left: asyncio.Future[int] = self._loop.create_future()
        self._waiting.append((bucket, left))
        if self._calling is None:
            self._calling = self._loop.create_task(self._call())
        return left

    async def _call(self) -> None:
        if self._digest is None:
            self._digest = await self._redis.script_load(source("take"))
        while self._waiting:
            group, self._waiting = self._waiting, []
            buckets = list(dict.fromkeys([bucket for bucket, _ in group]))
            places = {bucket: place for place, bucket in enumerate(buckets, 1)}
            asked: list[int] = []
            for bucket, _ in group:
                asked += (1, 0, places[bucket], _UNIT_US, _UNITS * _UNIT_US, 1)
            numbers = pack(f"<{len(asked)}d", *asked)
            now_us, *reply = await self._redis.execute_command("EVALSHA", self._digest, len(buckets), *buckets, numbers)
            for (_, left), tat_us in zip(group, reply[1::2], strict=True):
                left.set_result(_UNITS - (tat_us - now_us) // _UNIT_US)
        self._calling = None


class Ping:
    """Sends Redis one PING per request."""

    def __init__(self) -> None:
        self._app = bare()
        self._redis: Any = redis.Redis.from_url(os.environ["BENCH_REDIS_URL"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the PING, and pass the request on."""
        if scope["type"] == "http" and scope["path"] != READY_PATH:
            await self._redis.ping()
        await self._app(scope, receive, send)


def build() -> ASGIApp:
    """The yardstick that the environment names."""
    yardsticks: dict[str, Callable[[], ASGIApp]] = {"counter": Counter, "group": Group, "ping": Ping}
    return yardsticks[os.environ["BENCH_APP"]]()
