"""A server on a real socket whose replies a test writes itself, and the event loops that a connection must work on."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop
from hiredis import Reader

from servers import HOST, trust
from shieldmw.store.redis.connection import RedisConnection
from store.faults import RESET
from store.stores import AMPLE_S

T = TypeVar("T")

# redis-py sends so many commands while it connects: the client's name, the library's, and its version.
HANDSHAKE = 3

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
EVERY_LOOP = pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS.keys())

Loop = Callable[[], asyncio.AbstractEventLoop]


def run_on(loop: Loop, work: Coroutine[Any, Any, T]) -> T:
    """Run a test's coroutine on one kind of loop."""
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(work)


@asynccontextmanager
async def connected(url: str, timeout_s: float = AMPLE_S) -> AsyncIterator[RedisConnection]:
    """A connection, closed at the end; a test that hangs fails."""
    connection = RedisConnection(url, timeout_s)
    try:
        async with asyncio.timeout(AMPLE_S):
            yield connection
    finally:
        await connection.aclose()


async def echo(connection: RedisConnection, text: object) -> bytes:
    """What a server that echoes makes of a text."""
    reply: bytes = await connection.command("ECHO", str(text))
    return reply


class Peer:
    """One connection, as the server sees it, once redis-py has made it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._parser = Reader()

    async def commands(self, count: int) -> list[list[bytes]]:
        """The next commands."""
        found: list[list[bytes]] = []
        while len(found) < count:
            command = self._parser.gets()
            if command is not False:
                found.append(command)
            elif data := await self._reader.read(65_536):
                self._parser.feed(data)
            else:
                raise EOFError
        return found

    def has_more(self) -> bool:
        """Whether there is more than was read."""
        return self._parser.has_data()

    async def send(self, data: bytes) -> None:
        """Send it, and let the other side read."""
        if self._writer.transport.is_closing():  # for which uvloop has an error of its own
            raise ConnectionResetError
        self._writer.write(data)
        await self._writer.drain()

    async def ended(self) -> bool:
        """Wait until the other side has closed the connection; whether it has sent nothing before."""
        with suppress(ConnectionError):
            return not await self._reader.read()
        return True

    async def shake_hands(self, also: bytes = b"") -> None:
        """Answer what redis-py sends while it connects; ``also`` goes with the last reply."""
        for number in range(1, HANDSHAKE + 1):
            await self.commands(1)
            await self.send(b"+OK\r\n" + (also if number == HANDSHAKE else b""))

    def reset(self) -> None:
        """Reset the connection."""
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._writer.transport.abort()


class Scripted:
    """A server that treats each connection by the next of some scripts; the last one is for all that follow."""

    def __init__(self, *scripts: Callable[[Peer], Awaitable[None]]) -> None:
        self.connections = 0
        self.port = 0
        self.failures: list[BaseException] = []
        self._scripts = scripts
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until its script ends or the other side does."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        script = self._scripts[min(self.connections, len(self._scripts) - 1)]
        self.connections += 1
        try:
            await script(Peer(reader, writer))
        except (EOFError, ConnectionError, asyncio.CancelledError):
            pass
        except BaseException as error:
            self.failures.append(error)
        finally:
            writer.transport.abort()

    async def end(self) -> None:
        """End every connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def scripted(
    *scripts: Callable[[Peer], Awaitable[None]], certificates: Path | None = None
) -> AsyncIterator[tuple[Scripted, str]]:
    """A server that follows scripts, and its URL; an assertion that fails in a script fails the test."""
    answering = Scripted(*scripts)
    context = None
    if certificates is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates / "server.crt", certificates / "server.key")
    server = await asyncio.start_server(answering.serve, HOST, 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    scheme, query = ("redis", "") if certificates is None else ("rediss", f"?{trust(certificates)}")
    try:
        yield answering, f"{scheme}://{HOST}:{port}{query}"
    finally:
        server.close()
        await answering.end()
        await server.wait_closed()
    if answering.failures:
        raise answering.failures[0]


async def echoes(peer: Peer) -> None:
    """A server that answers each command by its last argument."""
    await peer.shake_hands()
    while True:
        [[*_, argument]] = await peer.commands(1)
        await peer.send(bulk(argument))


def bulk(text: bytes) -> bytes:
    """A reply of these bytes."""
    return b"$%d\r\n%b\r\n" % (len(text), text)
