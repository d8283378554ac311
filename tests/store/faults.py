"""A TCP proxy in front of a real server that breaks connections on demand, and counts what passes through it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from servers import HOST

# SO_LINGER with a time of 0: close() sends a reset.
RESET = struct.pack("ii", 1, 0)


@dataclass
class Proxy:
    """What the proxy does to the reply of a command that contains `target`, and how often it saw one.

    `harm` turns the reply into what is sent instead, after which the connection is reset where `resets`;
    None passes everything on.
    """

    port: int = 0
    target: bytes = b"EVALSHA"
    harm: Callable[[bytes], bytes] | None = None
    resets: bool = True
    seen: int = 0
    connections: int = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://{HOST}:{self.port}"


@asynccontextmanager
async def proxy_to(port: int) -> AsyncIterator[Proxy]:
    """A proxy before the server on a port of loopback."""
    proxy = Proxy()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        proxy.connections += 1
        upstream_reader, upstream_writer = await asyncio.open_connection(HOST, port)
        try:
            while data := await reader.read(65_536):
                proxy.seen += data.count(proxy.target)
                upstream_writer.write(data)
                reply = await upstream_reader.read(65_536)
                if proxy.harm is not None and proxy.target in data:
                    reply = proxy.harm(reply)
                if proxy.harm is not None and proxy.target in data and proxy.resets:
                    writer.write(reply)
                    with suppress(ConnectionError):
                        await writer.drain()
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    return
                writer.write(reply)
        except ConnectionError:
            return
        finally:
            tasks.discard(task)
            for each in (writer, upstream_writer):
                each.close()
                with suppress(ConnectionError):
                    await each.wait_closed()

    server = await asyncio.start_server(serve, HOST, 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
