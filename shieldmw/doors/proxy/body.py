"""The body of a request as the server hands it on: exactly what was announced, or no end at all, and not too slowly.

A client that sends a byte now and then would hold a connection to the upstream for as long as it likes, so a pause
must not only be short: all waiting for a body is paid from one account of seconds, into which its bytes pay. nginx only
limits each pause; Apache's mod_reqtimeout has a rate like this one.
"""

from __future__ import annotations

import asyncio

from starlette.types import Receive

from shieldmw.answers.gateway import CUT_REQUEST, SLOW_CLIENT

from .failures import ClientLeft, ProxyFailure
from .heads import Framing

# Seconds that a body may be waited for before its rate counts: Apache's 20, and some more for a phone in a tunnel.
LONGEST_WAIT_S = 30.0


class Pace:
    """How long a body may still be waited for: ``longest_s`` at first, less by each second of waiting, and more by a
    second for each ``bytes_per_s`` bytes, up to ``longest_s`` again. With a rate of 0 any byte restores all of it."""

    __slots__ = ("_bytes_per_s", "_longest_s", "left_s")

    def __init__(self, longest_s: float, bytes_per_s: int) -> None:
        self._longest_s = self.left_s = longest_s
        self._bytes_per_s = bytes_per_s

    def came(self, size: int, waited_s: float) -> None:
        """A piece of ``size`` bytes was waited for."""
        if self._bytes_per_s:
            self.left_s = min(self._longest_s, self.left_s - waited_s + size / self._bytes_per_s)
        elif size:
            self.left_s = self._longest_s
        else:
            self.left_s -= waited_s


class RequestBody:
    """The body of one request, written as its framing says.

    ``framing`` is known once the body has begun; ``begun`` is what was written then, and is kept for an attempt over
    another connection; ``is_complete``: nothing follows what was returned last.
    """

    __slots__ = ("_loop", "_pace", "_passed", "_receive", "begun", "framing", "is_complete")

    def __init__(self, receive: Receive, framing: Framing, pace: Pace, loop: asyncio.AbstractEventLoop) -> None:
        self._receive = receive
        self._pace = pace
        self._loop = loop
        self._passed = 0
        self.framing = framing
        self.begun = b""
        self.is_complete = False

    async def begin(self) -> None:
        """Wait for the first bytes, or for the end. Only then is it known whether a request over HTTP/2 has a body.

        Raises:
            ProxyFailure, ClientLeft: as ``piece``.
        """
        piece = b""
        while not piece and not self.is_complete:
            piece = await self._next()
        if self.framing == Framing(None):
            self.framing = Framing(len(piece)) if self.is_complete else Framing(None, is_chunked=True)
        self.begun = self._written(piece)

    async def piece(self) -> bytes:
        """The next piece as it is written, with the end of the body after the last one.

        Raises:
            ProxyFailure: the body was cut short, is longer than announced, or comes too slowly.
            ClientLeft: the server says that there is no client any more.
        """
        return self._written(await self._next())

    def _written(self, piece: bytes) -> bytes:
        if not self.framing.is_chunked:
            return piece
        chunk = b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
        return chunk + b"0\r\n\r\n" if self.is_complete else chunk

    async def _next(self) -> bytes:
        since_s = self._loop.time()
        try:
            async with asyncio.timeout(self._pace.left_s):
                message = await self._receive()
        except TimeoutError:
            raise ProxyFailure(SLOW_CLIENT) from None
        except Exception as error:  # of the server, which says in many ways that a client has left
            raise ClientLeft(str(error)) from None
        if message["type"] == "http.disconnect":
            raise ProxyFailure(CUT_REQUEST)
        piece: bytes = message.get("body", b"")
        self.is_complete = not message.get("more_body", False)
        self._pace.came(len(piece), self._loop.time() - since_s)
        self._passed += len(piece)
        length = self.framing.length
        if length is not None and (self._passed > length or (self._passed < length and self.is_complete)):
            raise ProxyFailure(CUT_REQUEST)
        return piece
