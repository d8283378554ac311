"""Drives the shield alone, without server or socket: one process, an app that does nothing, fake scopes.

Run by ``alone.py`` with a ``Job`` as JSON; prints a ``Report`` as JSON. The shield is configured by its variables.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import uvloop
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from benchmarks.store import Store
from shieldmw import ShieldMiddleware

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_SAMPLES: Final = 100
_HEADERS: Final = (
    (b"host", b"127.0.0.1:8000"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    (b"accept", b"*/*"),
)


@dataclass(frozen=True, slots=True)
class Job:
    """``requests`` by ``clients`` in turn, ``at_once`` of them concurrent, after ``warm_up`` requests."""

    requests: int
    clients: int = 1
    at_once: int = 64
    warm_up: int = 1000
    path: str = "/"
    shielded: bool = True


@dataclass(slots=True)
class Report:
    """The result of a job. ``memory`` has samples of (requests, resident bytes)."""

    requests: int
    seconds: float
    cpu_s: float
    redis_cpu_s: float = 0.0
    calls: int = 0
    allowed: int = 0
    refused: int = 0
    memory: list[tuple[int, int]] = field(default_factory=list)


class App:
    """Answers 200 with an empty body; its cost without the shield is subtracted."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


class Driver:
    """Sends concurrent requests to an app, as the connections of a server would."""

    def __init__(self, app: ASGIApp, job: Job) -> None:
        self._app = app
        self._job = job
        self.statuses: Counter[int] = Counter()
        self.memory: list[tuple[int, int]] = []

    async def run(self, first: int, count: int) -> None:
        """Send ``count`` requests, starting with client ``first``."""
        numbers = iter(range(first, first + count))
        every = max(1, count // _SAMPLES)
        await asyncio.gather(*(self._lane(numbers, every) for _ in range(self._job.at_once)))

    async def _lane(self, numbers: Iterator[int], every: int) -> None:
        for number in numbers:
            await self._app(self._scope(number % self._job.clients), _receive, self._send)
            if number % every == 0:
                self.memory.append((number, resident()))
            await asyncio.sleep(0)  # a server reads other sockets between two requests on one

    def _scope(self, client: int) -> Scope:
        return {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": self._job.path,
            "raw_path": self._job.path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [*_HEADERS],
            "client": (f"10.{client >> 16 & 255}.{client >> 8 & 255}.{client & 255}", 40000),
            "server": ("127.0.0.1", 8000),
        }

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.statuses[message["status"]] += 1


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def resident() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


async def drive(job: Job, store: Store) -> Report:
    """Warm up, then measure."""
    driver = Driver(ShieldMiddleware(App()) if job.shielded else App(), job)
    await driver.run(0, job.warm_up)
    await asyncio.sleep(0.1)
    driver.statuses.clear()
    driver.memory.clear()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before, cpu_s, began_s = store.work(), time.process_time(), time.perf_counter()
    await driver.run(job.warm_up, job.requests)
    seconds, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    work = store.work() - before
    return Report(
        job.requests,
        seconds,
        cpu_s,
        work.cpu_s,
        work.calls,
        driver.statuses[200],
        driver.statuses[429],
        driver.memory,
    )


def main() -> None:
    """The job is the first argument, the port of the store the second."""
    job = Job(**json.loads(sys.argv[1]))
    sys.stdout.write(json.dumps(asdict(uvloop.run(drive(job, Store(int(sys.argv[2])))))))


if __name__ == "__main__":
    main()
