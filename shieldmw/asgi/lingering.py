"""What is sent to those who are refused must arrive: a connection is not closed while its client is still sending.

A server that closes a connection with bytes unread resets it, and the answer may be lost: nginx makes a 502 of it.
So an answer that needs no body is sent at once, and what still comes of the body is read then, for a while (nginx
calls it a lingering close). Over HTTP/2 a stream ends by itself, and nothing has to be read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress

from starlette.types import Message, Receive, Scope, Send

from shieldmw.core.bounds import MOST_LINES

# So much is read as fast as it comes: the longest body that nginx lets through unless it is told otherwise. Beyond it
# we read slowly, so that a proxy which is busy sending has to stop, and finds the answer.
READ_AT_ONCE_BYTES = 1 << 20
PAUSE_S = 0.05

# As long as nginx lingers for a client that is silent (lingering_timeout).
LONGEST_S = 5.0

# So many at once, in one process; each holds a task and what its server buffers. Those beyond are not waited for.
MOST_AT_ONCE = 128

# A Content-Length with more digits is longer than any body.
LONGEST_NUMBER = 20

_OF_THE_BODY = frozenset((b"content-length", b"transfer-encoding", b"expect"))
_WITHOUT_A_BODY = frozenset(("GET", "HEAD"))

_CLOSE = (b"connection", b"close")


class Lingering:
    """How long the shield stays with clients after it has answered them, and with how many at once."""

    def __init__(
        self, most_at_once: int = MOST_AT_ONCE, longest_s: float = LONGEST_S, pause_s: float = PAUSE_S
    ) -> None:
        self._free = most_at_once
        self._longest_s = longest_s
        self.pause_s = pause_s

    @property
    def has_room(self) -> bool:
        """Whether there may be one more now."""
        return self._free > 0

    async def stay(self, ending: Awaitable[None]) -> None:
        """Await the end of an exchange, for as long as we linger at most."""
        self._free -= 1
        try:
            async with asyncio.timeout(self._longest_s):
                await ending
        except TimeoutError:
            pass
        finally:
            self._free += 1

    def around(self, scope: Scope, receive: Receive, send: Send) -> tuple[Receive, Send]:
        """The two for an answer that may come before the body was read; the same two where there is no body.

        A GET is taken to have none, and of a head with too many lines no more is read: nobody uploads like that.
        """
        lines = scope["headers"]
        if scope["type"] != "http" or scope["method"] in _WITHOUT_A_BODY or len(lines) > MOST_LINES:
            return receive, send
        for name, _ in lines:
            if name in _OF_THE_BODY:
                break
        else:
            return receive, send
        if not scope.get("http_version", "1.1").startswith("1"):
            return receive, send
        length, expects = _announced(scope)
        if length == 0:
            return receive, send
        early = EarlyAnswer(self, scope, receive, send, length, expects=expects)
        return early.receive, early.send


def _announced(scope: Scope) -> tuple[int | None, bool]:
    """How long the body will be (None: not known), and whether its client waits to be told to continue."""
    fields = {name: value for name, value in scope["headers"] if name in _OF_THE_BODY}
    length = fields.get(b"content-length", b"0")
    known = b"transfer-encoding" not in fields and length.isdigit() and len(length) < LONGEST_NUMBER
    return int(length) if known else None, b"expect" in fields


def _is_last(message: Message) -> bool:
    return message["type"] == "http.response.body" and not message.get("more_body", False)


class EarlyAnswer:
    """An answer to a request with a body of ``length`` (None: unknown) that may be sent before all of it was read.

    A client that ``expects`` to be told to continue has sent nothing yet. It is not asked to: reading would do that.
    """

    __slots__ = (
        *("_asked", "_expects", "_length", "_lingering", "_lingers", "_reads_after"),
        *("_receive", "_send", "_whole"),
    )

    def __init__(
        self, lingering: Lingering, scope: Scope, receive: Receive, send: Send, length: int | None, *, expects: bool
    ) -> None:
        self._lingering = lingering
        self._receive = receive
        self._send = send
        self._length = length
        self._expects = expects
        self._asked = self._whole = self._lingers = False
        # Where the answer has ended, hypercorn closes at once and uvicorn lets nobody read. Granian takes a stream
        # whose Content-Length is reached for ended, and lets us read after the end only: it is known by what it offers.
        self._reads_after = "http.response.pathsend" in (scope.get("extensions") or {})

    async def receive(self) -> Message:
        """The next message of the request."""
        self._asked = True
        message = await self._receive()
        self._whole = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer; with the last one read what is left of the body."""
        if message["type"] == "http.response.start":
            message = self._begun(message)
        elif self._lingers and self._lingering.has_room and _is_last(message):
            await self._end(message)
            return
        await self._send(message)

    def _begun(self, message: Message) -> Message:
        """The head of the answer; it says where the connection will not be used again."""
        if self._whole:
            return message
        waits = self._expects and not self._asked
        self._lingers = not waits and self._lingering.has_room
        if waits or (self._lingers and (self._length is None or self._length > READ_AT_ONCE_BYTES)):
            headers = [line for line in message.get("headers", ()) if line[0] != b"connection"]
            return {**message, "headers": [*headers, _CLOSE]}
        return message

    async def _end(self, message: Message) -> None:
        if self._reads_after:
            await self._send(message)
            await self._lingering.stay(self._read_on())
            return
        await self._send({**message, "more_body": True})
        await self._lingering.stay(self._read_on())
        with suppress(OSError):  # the client has its answer, and may have gone
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _read_on(self) -> None:
        read = 0
        while not self._whole:
            if read >= READ_AT_ONCE_BYTES:
                await asyncio.sleep(self._lingering.pause_s)
            message = await self.receive()
            read += len(message.get("body", b""))
