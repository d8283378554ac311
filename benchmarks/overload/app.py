"""The app to be overloaded: a request costs it one of three loads.

It counts what it has served in a file, so that the count need not be requested from an overloaded worker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import anyio.to_thread
from starlette.types import Receive, Scope, Send

from benchmarks.overload.tally import Tally

READY_PATH: Final = "/healthz"
SLOW_PATH: Final = "/slow"
PAUSE_PATH: Final = "/pause"

CPU_S: Final = 0.002
POOL: Final = 16
POOL_S: Final = 0.03
SLOW_S: Final = 2.0
PAUSE_S: Final = 0.3


def burn() -> None:
    """Compute for ``CPU_S`` of processor time, however long that takes on a busy machine."""
    until_s = time.thread_time() + CPU_S
    while time.thread_time() < until_s:
        pass


async def compute() -> None:
    """On the event loop, as async handlers do."""
    burn()


async def compute_in_a_thread() -> None:
    """In one of anyio's 40 threads, as sync handlers do in Starlette and FastAPI."""
    await anyio.to_thread.run_sync(burn)


class Pool:
    """As many requests at once as a pool has connections."""

    def __init__(self) -> None:
        self._connections = asyncio.Semaphore(POOL)

    async def __call__(self) -> None:
        """Wait for a connection, then for the database."""
        async with self._connections:
            await asyncio.sleep(POOL_S)


LOADS: Final[Mapping[str, Callable[[], Callable[[], Awaitable[None]]]]] = {
    "cpu": lambda: compute,
    "threads": lambda: compute_in_a_thread,
    "pool": Pool,
}


class App:
    """Answers ``ok`` when its work is done."""

    def __init__(self, work: Callable[[], Awaitable[None]], tally: Tally) -> None:
        self._work = work
        self._tally = tally

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or the lifespan."""
        if scope["type"] == "lifespan":
            while (kind := (await receive())["type"]) != "lifespan.shutdown":
                await send({"type": f"{kind}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        if scope["path"] == PAUSE_PATH:
            # Blocks the loop, as a garbage collection does.
            asyncio.get_running_loop().call_soon(time.sleep, PAUSE_S)
        elif scope["path"] == SLOW_PATH:
            await asyncio.sleep(SLOW_S)
        elif scope["path"] != READY_PATH:
            await self._work()
            self._tally.count()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
