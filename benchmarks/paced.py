"""Latency at a slow pace, in a process of its own: of an HTTP server, or of Redis for comparison.

Uses threads with blocking sockets: an event loop's timers have a resolution of a millisecond, more than what is
measured. Prints the median and the 99th percentile of the latencies, in µs, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import quantiles
from typing import Final
from urllib.parse import urlsplit

import redis.asyncio as redis
import uvloop

LANES: Final = 8
_SKIPPED_S: Final = 0.5
_BODY: Final = b"\r\n\r\nhello"


class Lane(threading.Thread):
    """One connection that sends at its own pace, with the headers of its share of the clients in turn."""

    def __init__(self, url: str, lines: Sequence[str], every_s: float, until_s: float) -> None:
        super().__init__()
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._requests = [f"GET / HTTP/1.1\r\nHost: {parts.netloc}\r\n{line}\r\n".encode() for line in lines]
        self._socket = socket.create_connection((parts.hostname, parts.port or 80))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._every_s = every_s
        self._until_s = until_s
        self.took_us: list[float] = []
        self.wrong = 0

    def run(self) -> None:
        """Send until the time is up."""
        counted_from_s = time.perf_counter() + _SKIPPED_S
        due_s = time.perf_counter() + random.random() * self._every_s
        number = 0
        while due_s < self._until_s:
            time.sleep(max(0.0, due_s - time.perf_counter()))
            began_s = time.perf_counter()
            self._socket.sendall(self._requests[number % len(self._requests)])
            answer = self._answer()
            ended_s = time.perf_counter()
            if began_s > counted_from_s:
                self.took_us.append((ended_s - began_s) * 1e6)
            self.wrong += not answer.endswith(_BODY)
            number += 1
            due_s += self._every_s * random.uniform(0.5, 1.5)

    def _answer(self) -> bytes:
        """Read head and body, which the server sends separately. An answer other than 200 is not read to its end."""
        answer = self._socket.recv(65536)
        while answer.startswith(b"HTTP/1.1 200 ") and not answer.endswith(_BODY):
            answer += self._socket.recv(65536)
        return answer


def ask_server(url: str, rate: float, seconds: float, lines: Sequence[str]) -> list[float]:
    """Latencies of a server at ``rate`` requests a second."""
    until_s = time.perf_counter() + seconds
    # A random start: each run begins with different clients, so that none is hot.
    first = random.randrange(len(lines))
    turned = [f"{line}\r\n" for line in (*lines[first:], *lines[:first])] if lines[0] else [""]
    lanes = [Lane(url, turned[n::LANES] or turned, LANES / rate, until_s) for n in range(LANES)]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    if any(lane.wrong for lane in lanes):
        raise SystemExit(f"{sum(lane.wrong for lane in lanes)} answers were not 200")
    return [took for lane in lanes for took in lane.took_us]


async def ask_redis(url: str, rate: float, seconds: float) -> list[float]:
    """Latencies of a PING as the shield's own client would send it, from the same kind of event loop."""
    client = redis.Redis.from_url(url)
    took_us = []
    until_s = time.perf_counter() + seconds
    while time.perf_counter() < until_s:
        await asyncio.sleep(random.uniform(0.5, 1.5) / rate)
        began_s = time.perf_counter()
        await client.ping()
        took_us.append((time.perf_counter() - began_s) * 1e6)
    await client.aclose()
    return took_us


def main() -> None:
    """Arguments: URL, rate, seconds, and for a server a file with the clients' headers."""
    url, rate, seconds = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    if url.startswith("redis"):
        took_us = uvloop.run(ask_redis(url, rate, seconds))
    else:
        took_us = ask_server(url, rate, seconds, Path(sys.argv[4]).read_text("utf-8").splitlines() or [""])
    cuts = quantiles(took_us, n=100)
    sys.stdout.write(json.dumps({"asked": len(took_us), "p50_us": cuts[49], "p99_us": cuts[98]}))


if __name__ == "__main__":
    main()
