"""The app of the live audience benchmark: quiet SSE streams, and probes of the worker itself.

``AUDIENCE_SHIELD=1`` puts the shield in front; ``AUDIENCE_TRACE=1`` traces allocations.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shieldmw import ShieldMiddleware

LIVE_PATH: Final = "/live"
WELCOME: Final = b"data: welcome\n\n"
_TICK_S: Final = 0.01
_TRACE_FRAMES: Final = 12


class Ticks:
    """A periodic tick in the app, and how late each was."""

    def __init__(self) -> None:
        self._late_s: list[float] = []

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            due_s = time.perf_counter() + _TICK_S
            await asyncio.sleep(_TICK_S)
            self._late_s.append(time.perf_counter() - due_s)

    def take(self) -> dict[str, float]:
        """How late the ticks since the last call were, in milliseconds."""
        late, self._late_s = sorted(self._late_s) or [0.0], []
        return {
            "ticks": len(late),
            "p50_ms": late[len(late) // 2] * 1000,
            "p99_ms": late[len(late) * 99 // 100] * 1000,
            "max_ms": late[-1] * 1000,
        }


class Audience:
    """The app: a stream that sends a welcome and then nothing, until its listener leaves."""

    def __init__(self) -> None:
        self._ticks = Ticks()
        self._ticking: asyncio.Task[None] | None = None
        self._probes: dict[str, Callable[[], object]] = {
            "/probe/memory": memory,
            "/probe/lag": self._ticks.take,
            "/probe/allocations": allocations,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one scope."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["path"] == LIVE_PATH:
            await _listen(receive, send)
        else:
            await _answer(self._probes[scope["path"]](), send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        self._ticking = asyncio.create_task(self._ticks.run())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._ticking.cancel()
        await send({"type": "lifespan.shutdown.complete"})


async def _listen(receive: Receive, send: Send) -> None:
    headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": WELCOME, "more_body": True})
    message: Message = {"type": ""}
    while message["type"] != "http.disconnect":
        message = await receive()


async def _answer(value: object, send: Send) -> None:
    body = json.dumps(value).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def memory() -> dict[str, int]:
    """Resident memory after garbage is collected and free memory is returned to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {"rss": pages * os.sysconf("SC_PAGE_SIZE")}


def allocations() -> list[tuple[int, int, list[str]]]:
    """The places that hold most memory: bytes, blocks and the lines, innermost first."""
    gc.collect()
    found = tracemalloc.take_snapshot().statistics("traceback")
    return [(entry.size, entry.count, [str(frame) for frame in reversed(entry.traceback)]) for entry in found[:80]]


def build() -> ASGIApp:
    """The app that the environment asks for."""
    if os.environ.get("AUDIENCE_TRACE"):
        tracemalloc.start(_TRACE_FRAMES)
    app = Audience()
    return ShieldMiddleware(app) if os.environ.get("AUDIENCE_SHIELD") else app


app = build()
