"""One connection to an upstream, which carries one request at a time. Knows asyncio, nothing of ASGI.

Bytes in flight are bounded both ways: reading stops while much of a response waits to be taken, and ``drained`` waits
while the upstream does not read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from shieldmw.answers.gateway import CLOSED, Failure

from .failures import ProxyFailure

# Bytes of a response that may wait before reading stops. An event loop reads up to 256 KB at once on top of that.
MOST_BUFFERED = 131_072


# Time for the upstream to read the last bytes of a connection that is closed.
LINGERING_S = 2.0


class Reader(Protocol):
    """Takes what an upstream sends. ``buffered``: bytes that wait to be taken."""

    buffered: int
    is_complete: bool
    is_reusable: bool

    @property
    def end_so_far(self) -> Failure:
        """What it means if the connection ends here."""

    def feed(self, data: bytes) -> None:
        """Take what has come."""

    def eof(self) -> None:
        """The upstream has closed its side."""


class Connection(asyncio.Protocol):
    """A connection that was opened. ``on_end`` is called when it has ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_end: Callable[[Connection], None]) -> None:
        self._loop = loop
        self._on_end = on_end
        self._transport: asyncio.Transport | None = None
        self._reader: Reader | None = None
        self._failure: ProxyFailure | None = None
        self._readable: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._reads = True
        self._is_congested = False
        self.is_closed = False
        self.requests = 0
        # When anything last moved, and when the upstream was last heard, on the loop's clock.
        self.progress_s = self.heard_s = loop.time()

    # --- called by the exchange ---

    def begin(self, head: bytes, reader: Reader) -> None:
        """Send the head of a request, whose response goes to ``reader``."""
        self._reader = reader
        self._failure = ProxyFailure(CLOSED) if self.is_closed else None
        self.requests += 1
        self.write(head)

    def switch(self, reader: Reader, rest: bytes) -> None:
        """What comes from now on, with ``rest``, is of another protocol."""
        self._reader = reader
        if rest:
            reader.feed(rest)

    def write(self, data: bytes) -> None:
        """Send a part of the request; ``drained`` must be awaited before the next one."""
        self.progress_s = self._loop.time()
        if self._transport is not None and not self.is_closed:
            self._transport.write(data)

    @property
    def is_congested(self) -> bool:
        """Whether the upstream has not read much of what was sent."""
        return self._is_congested

    async def drained(self) -> None:
        """Wait until the upstream has read most of what was sent, or the connection has ended."""
        if self._is_congested and not self.is_closed:
            self._writable = self._loop.create_future()
            await self._writable

    async def readable(self) -> None:
        """Wait until more of the response has come.

        Raises:
            ProxyFailure: it is no valid response, or it has been cut short, and all that came before has been taken.
        """
        if self._failure is None:
            if not self._reads and self._transport is not None:
                self._reads = True
                self._transport.resume_reading()
            self._readable = self._loop.create_future()
            await self._readable
        if self._failure is not None and not (self._reader and self._reader.buffered):
            raise self._failure

    def finish(self) -> bool:
        """The response has been taken. Returns whether the connection can carry another request."""
        reader, self._reader = self._reader, None
        if not self._reads and self._transport is not None and not self.is_closed:
            self._reads = True
            self._transport.resume_reading()
        return reader is not None and reader.is_reusable and not self.is_closed and not self._is_congested

    def close(self) -> None:
        """End the connection once all that was written has been sent, but soon."""
        if self._transport is not None and not self.is_closed:
            self._transport.close()
            self._loop.call_later(LINGERING_S, self._transport.abort)

    def abort(self) -> None:
        """Drop the connection at once, without ending the request."""
        if self._transport is not None:
            self._transport.abort()

    # --- called by the event loop ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        """A part of the response has come."""
        self.progress_s = self.heard_s = self._loop.time()
        reader = self._reader
        if reader is None:  # nobody has asked for anything
            self.abort()
            return
        try:
            reader.feed(data)
        except ProxyFailure as failure:
            self._fail(failure)
            return
        if reader.buffered > MOST_BUFFERED and self._reads and self._transport is not None:
            self._reads = False
            self._transport.pause_reading()
        _wake(self._readable)

    def eof_received(self) -> None:
        """The upstream has closed its side, which may be the end of the response."""
        if self._reader is None:
            self.is_closed = True
        else:
            try:
                self._reader.eof()
            except ProxyFailure as failure:
                self._fail(failure)
            else:
                _wake(self._readable)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self.is_closed = True
        reader = self._reader
        if reader is not None and not reader.is_complete and self._failure is None:
            self._failure = ProxyFailure(reader.end_so_far, str(exc or ""))
        _wake(self._readable)
        _wake(self._writable)
        self._on_end(self)

    def pause_writing(self) -> None:
        """The upstream reads more slowly than is sent."""
        self._is_congested = True

    def resume_writing(self) -> None:
        """The upstream has read most of it."""
        self._is_congested = False
        self.progress_s = self._loop.time()
        _wake(self._writable)

    def _fail(self, failure: ProxyFailure) -> None:
        self._failure = failure
        self.abort()
        _wake(self._readable)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
