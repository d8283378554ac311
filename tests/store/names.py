"""A host name that moves from one server to another, as a managed Redis's does at a failover."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from servers import HOST, RedisServer


class Name:
    """A name that stands for a server: connections lead to whichever it is when they are made, and stay there."""

    def __init__(self, target: RedisServer) -> None:
        self.target = target
        self.connections = 0
        self._silent = 0
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The name, as workers are told."""
        return f"redis://{HOST}:{self.port}"

    def fall_silent(self) -> None:
        """Nothing passes any more over the connections that there are."""
        self._silent = self.connections

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until one side ends it."""
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        number = self.connections
        far_reader, far_writer = await asyncio.open_connection(HOST, self.target.port)
        both = (self._pass(number, reader, far_writer), self._pass(number, far_reader, writer))
        try:
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*both)
        finally:
            self._tasks.discard(task)
            for each in (writer, far_writer):
                each.close()
                with suppress(ConnectionError):
                    await each.wait_closed()

    async def _pass(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                if number > self._silent:
                    writer.write(data)
        with suppress(OSError):
            writer.write_eof()

    async def close(self) -> None:
        """End every connection."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def named(target: RedisServer) -> AsyncIterator[Name]:
    """A name for a server."""
    name = Name(target)
    server = await asyncio.start_server(name.serve, HOST, 0)
    name.port = server.sockets[0].getsockname()[1]
    try:
        yield name
    finally:
        server.close()
        await name.close()
        await server.wait_closed()


def becomes_a_replica(old: RedisServer, new: RedisServer) -> None:
    """It follows the new master, and answers writes with READONLY."""
    old.client().replicaof(HOST, str(new.port))
