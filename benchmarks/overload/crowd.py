"""Members and guests who are not bots, in a process of their own: ``python -m benchmarks.overload.crowd``.

Reads a ``Crowd`` as JSON from stdin; prints a sample per request as JSON when all are answered.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

import uvloop

from benchmarks.overload.app import SLOW_PATH
from benchmarks.servers import HOME, own_environment
from benchmarks.store import HOST
from shieldmw.rehearsal.load.tokens import Issuer

ISSUER: Final = "overload"
PATIENCE_S: Final = 10.0
# Most concurrent requests of one stream; further ones are not sent, and count as failures.
MOST_AT_ONCE: Final = 2000
FAILED: Final = 0


@dataclass(frozen=True, slots=True)
class Stream:
    """Requests of one kind between two moments of ``time.monotonic``.

    ``rate`` is the total per second. With ``burst`` 0 each client sends at its own steady pace on one connection and
    waits for its answer; otherwise requests come in a Poisson process of bursts with this mean size, answered or not.
    ``slow`` is the part of them that goes to the slow route.
    """

    name: str
    members: bool
    clients: int
    rate: float
    from_s: float
    until_s: float
    burst: float = 0.0
    slow: float = 0.0


@dataclass(frozen=True, slots=True)
class Crowd:
    """The streams of requests to a port. ``secret`` signs the members' tokens."""

    port: int
    secret: str
    streams: tuple[Stream, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One request: when it was sent, and its answer; the status is 0 if there was none within ten seconds."""

    stream: str
    sent_s: float
    took_s: float
    status: int


async def come(crowd: Crowd) -> list[Sample]:
    """Run a crowd in another process, and return its samples."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.overload.crowd"),
        cwd=HOME,
        env=own_environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        output, _ = await process.communicate(json.dumps(asdict(crowd)).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise RuntimeError(f"the crowd failed with status {process.returncode}")
    return [Sample(*fields) for fields in json.loads(output)]


class Connection:
    """A connection that is opened when needed, and again after it was lost."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> int:
        """The status of the answer; 0 if there is none."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self._ask(request)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            self.close()
            return FAILED

    async def _ask(self, request: bytes) -> int:
        if self._streams is None:
            self._streams = await asyncio.open_connection(HOST, self._port)
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0]))
        if b"connection: close" in head:
            self.close()
        return int(head.split(b" ", 2)[1])

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Asking:
    """One stream, sending its requests."""

    def __init__(self, stream: Stream, crowd: Crowd, seen: Callable[[Sample], None]) -> None:
        self._stream = stream
        self._port = crowd.port
        self._seen = seen
        issuer = Issuer(crowd.secret, ISSUER, ISSUER, int(time.time()))
        self._whos = [self._who(number, issuer) for number in range(stream.clients)]
        self._free: list[Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Run from the stream's first request to its last answer."""
        await asyncio.sleep(self._stream.from_s - time.monotonic())
        if self._stream.burst:
            await self._arrivals()
        else:
            await asyncio.gather(*(self._regular(who) for who in self._whos))

    async def _regular(self, who: bytes) -> None:
        stream, connection = self._stream, Connection(self._port)
        every_s = stream.clients / stream.rate
        due_s = time.monotonic() + random.random() * every_s
        while due_s < stream.until_s:
            await asyncio.sleep(due_s - time.monotonic())
            await self._ask(connection, who)
            due_s = max(due_s + every_s, time.monotonic())
        connection.close()

    async def _arrivals(self) -> None:
        stream = self._stream
        due_s = stream.from_s
        while (due_s := due_s + random.expovariate(stream.rate / stream.burst)) < stream.until_s:
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            self._arrive()
            while random.random() > 1 / stream.burst:
                self._arrive()
        await asyncio.gather(*self._tasks)
        for connection in self._free:
            connection.close()

    def _arrive(self) -> None:
        if len(self._tasks) >= MOST_AT_ONCE:
            self._seen(Sample(self._stream.name, time.monotonic(), PATIENCE_S, FAILED))
            return
        task = asyncio.create_task(self._ask_once(random.choice(self._whos)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask_once(self, who: bytes) -> None:
        connection = self._free.pop() if self._free else Connection(self._port)
        await self._ask(connection, who)
        self._free.append(connection)

    async def _ask(self, connection: Connection, who: bytes) -> None:
        slow = random.random() < self._stream.slow
        name = f"{self._stream.name}, slow" if slow else self._stream.name
        path = SLOW_PATH if slow else "/"
        began_s = time.monotonic()
        status = await connection.ask(b"GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n" % (path.encode(), HOST.encode(), who))
        self._seen(Sample(name, began_s, time.monotonic() - began_s, status))

    def _who(self, number: int, issuer: Issuer) -> bytes:
        if self._stream.members:
            return f"Authorization: Bearer {issuer.token(f'member-{number}')}\r\n".encode()
        return f"X-Forwarded-For: 172.16.{number // 250}.{number % 250 + 1}\r\n".encode()


async def run(crowd: Crowd) -> list[Sample]:
    """Run all streams at once."""
    samples: list[Sample] = []
    await asyncio.gather(*(Asking(stream, crowd, samples.append).run() for stream in crowd.streams))
    return samples


def main() -> None:
    """Read the crowd from stdin, and run it."""
    told = json.load(sys.stdin)
    crowd = Crowd(told["port"], told["secret"], tuple(Stream(**fields) for fields in told["streams"]))
    samples = uvloop.run(run(crowd))
    json.dump([[each.stream, each.sent_s, each.took_s, each.status] for each in samples], sys.stdout)


if __name__ == "__main__":
    main()
