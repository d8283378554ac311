"""A small gRPC server on asyncio: unary calls over HTTP/2 without TLS, for clients of one's own such as Envoy.

It answers calls, and knows nothing of what is asked. All that arrives together is answered together, in one write.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import cast

from shieldmw.gate.log_throttle import LogThrottle

from .connection import Call, Connection
from .frames import ErrorCode, GrpcStatus, ProtocolError

log = logging.getLogger(__name__)

# Answers a message with another, at once or later. Raises ``MalformedMessage`` if it cannot be read.
Method = Callable[[bytes], bytes | Awaitable[bytes]]

# Connections at once. Envoy opens one for each of its threads.
MOST_CONNECTIONS = 1024

# Interval at which connections are checked. One that has not sent its preface, a call that is not complete, and a
# connection that does not go on are given up at the second check.
CHECK_EVERY_S = 5.0

# A peer that is gone without a word is noticed after about 2 minutes.
KEEPALIVE_IDLE_S, KEEPALIVE_EVERY_S, KEEPALIVE_TRIES = 60, 15, 4

# Interval at which the end of connections is looked for while the server stops.
STOP_LOOK_S = 0.02


class MalformedMessage(ValueError):
    """A message that is not what its method takes."""


class GrpcServer:
    """Serves ``methods``, by path such as ``/package.Service/Method``, to all who connect."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self.methods = {path.encode(): method for path, method in methods.items()}
        self.peers: set[Peer] = set()
        self._listener: asyncio.Server | None = None
        self._checking: asyncio.Task[None] | None = None
        self._throttle = LogThrottle()

    async def start(self, listening: socket.socket) -> None:
        """Serve on a socket that listens."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: Peer(self), sock=listening, backlog=MOST_CONNECTIONS)
        self._checking = loop.create_task(self._check(), name="shieldmw gRPC connections")

    async def stop(self, within_s: float) -> None:
        """Stop: no new connections; clients are told, and their calls answered, for at most ``within_s``."""
        if self._listener is None:
            return
        self._listener.close()
        for peer in list(self.peers):
            peer.announce_end()
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self.peers:
                    for peer in list(self.peers):
                        peer.end_if_done()
                    await asyncio.sleep(STOP_LOOK_S)
        for peer in list(self.peers):
            peer.end(ErrorCode.NO_ERROR)
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.gather(self._checking, return_exceptions=True)

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            for peer in list(self.peers):
                peer.check()

    def complain(self, reason: str, peer: str, error: BaseException | None = None) -> None:
        """Log that a connection or a call failed: at most one line in ten seconds. ``reason`` is a fixed text."""
        counts = self._throttle.due(reason)
        if counts is not None:
            log.warning("gRPC: %s; the last from %s", counts, peer, exc_info=error)


class Peer(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: GrpcServer) -> None:
        self._server = server
        self._methods = server.methods
        self._connection = Connection()
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._deciding: set[asyncio.Future[bytes]] = set()
        self._will_write = False
        self._is_paused = False
        self._stale: tuple[frozenset[int], object] | None = None
        self._name = "?"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the client, unless there are too many connections."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it
        name = transport.get_extra_info("peername")
        self._name = f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "a unix socket"
        if len(self._server.peers) >= MOST_CONNECTIONS:
            self._server.complain("too many connections", self._name)
            self._transport.abort()
            return
        self._server.peers.add(self)
        if isinstance(name, tuple):
            _keep_alive(transport.get_extra_info("socket"))
        self._write()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client, and what it has asked."""
        self._transport = None
        self._server.peers.discard(self)
        for task in self._deciding:
            task.cancel()

    def data_received(self, data: bytes) -> None:
        """Answer the calls that are complete."""
        try:
            calls = self._connection.receive(data)
        except ProtocolError as error:
            self._server.complain(error.reason.partition(":")[0], self._name)
            self.end(error.code)
            return
        for call in calls:
            self._answer(call)
        self._write()

    def _answer(self, call: Call) -> None:
        method = self._methods.get(call.path)
        if method is None:
            self._connection.fail(call.stream, GrpcStatus.UNIMPLEMENTED)
            return
        try:
            answer = method(call.message)
        except Exception as error:
            self._failed(call.stream, error)
            return
        if isinstance(answer, bytes):
            self._connection.reply(call.stream, answer)
            return
        task = asyncio.ensure_future(answer)
        self._deciding.add(task)
        task.add_done_callback(partial(self._decided, call.stream))

    def _decided(self, stream: int, task: asyncio.Future[bytes]) -> None:
        self._deciding.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._connection.reply(stream, task.result())
        else:
            self._failed(stream, error)
        if not self._will_write:  # others will be decided in the same turn of the loop
            self._will_write = True
            self._loop.call_soon(self._write)

    def _failed(self, stream: int, error: BaseException) -> None:
        if isinstance(error, MalformedMessage):
            self._server.complain("a message that cannot be read", self._name)
            self._connection.fail(stream, GrpcStatus.INVALID_ARGUMENT)
        else:
            self._server.complain("a call that failed", self._name, error)
            self._connection.fail(stream, GrpcStatus.INTERNAL)

    def _write(self) -> None:
        self._will_write = False
        out = self._connection.take_out()
        if out and self._transport is not None:
            self._transport.write(out)

    def pause_writing(self) -> None:
        """Read no more while the client does not read."""
        self._is_paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self._is_paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def check(self) -> None:
        """Give up what has not moved since the last check."""
        connection, stale = self._connection, self._stale
        incomplete = connection.incomplete()
        self._stale = (incomplete, connection.progress)
        if stale is None:
            return
        for stream in incomplete & stale[0]:
            connection.cancel(stream)
        stands_still = stale[1] == connection.progress and not (incomplete & stale[0]) and not self._deciding
        if stands_still and (self._is_paused or not connection.is_greeted or not connection.is_idle):
            self._server.complain("a connection that does not go on", self._name)
            if self._transport is not None:
                self._transport.abort()
            return
        self._write()

    def announce_end(self) -> None:
        """Ask the client to open no more calls."""
        self._connection.announce_end()
        self._write()

    def end_if_done(self) -> None:
        """Close the connection once the client knows and its calls are answered."""
        if self._connection.is_idle and (self._connection.knows_end or not self._connection.is_greeted):
            self.end(ErrorCode.NO_ERROR)

    def end(self, code: ErrorCode) -> None:
        """Close the connection."""
        self._connection.end(code)
        self._write()
        if self._transport is not None:
            self._transport.close()
        self._server.peers.discard(self)


def _keep_alive(sock: socket.socket) -> None:
    """Have the kernel find out whether the peer is still there."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),  # not on macOS
        ("TCP_KEEPINTVL", KEEPALIVE_EVERY_S),
        ("TCP_KEEPCNT", KEEPALIVE_TRIES),
    ):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
