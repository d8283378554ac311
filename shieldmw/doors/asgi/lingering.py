"""Keeps a connection open until a refused client has finished sending, so that it receives the answer.

A server that closes a connection with unread bytes resets it, and the answer may be lost: nginx turns that into a 502.
So a refusal, which does not depend on the body, is sent at once, and the rest of the body is read after it, within
bounds (nginx calls this a lingering close). Over HTTP/2 a stream ends by itself, and nothing has to be read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from contextlib import suppress

from starlette.types import Message, Receive, Scope, Send

from shieldmw.core.bounds import LONGEST_LENGTH, MOST_LINES

# Bytes read at full speed: nginx's default body limit. After that, each read follows a pause, so that a proxy has to
# stop sending and notices the answer.
READ_AT_ONCE_BYTES = 1 << 20
PAUSE_S = 0.05

# Longest lingering close: nginx's default for a client that sends nothing (lingering_timeout).
LONGEST_S = 5.0

# Maximum number of lingering connections per process, since each holds a task and the server's buffers. Others are
# closed as soon as the answer is sent.
MOST_AT_ONCE = 128

_OF_THE_BODY = frozenset((b"content-length", b"transfer-encoding", b"expect"))
# Methods whose requests are assumed to have no body.
WITHOUT_A_BODY = frozenset(("GET", "HEAD"))

CONNECTION_CLOSE = (b"connection", b"close")


class Lingering:
    """Bounds lingering: the time for each connection, and the number of connections at once."""

    def __init__(
        self, most_at_once: int = MOST_AT_ONCE, longest_s: float = LONGEST_S, pause_s: float = PAUSE_S
    ) -> None:
        self._free = most_at_once
        self._longest_s = longest_s
        self.pause_s = pause_s

    @property
    def has_room(self) -> bool:
        """Whether one more connection may linger now."""
        return self._free > 0

    async def stay(self, ending: Awaitable[None]) -> None:
        """Await ``ending`` for at most ``longest_s``."""
        self._free -= 1
        try:
            async with asyncio.timeout(self._longest_s):
                await ending
        except TimeoutError:
            pass
        finally:
            self._free += 1

    def around(self, scope: Scope, receive: Receive, send: Send) -> tuple[Receive, Send]:
        """``receive`` and ``send`` for an answer that may precede the body; unchanged if there is no body.

        A GET is assumed to have none. Heads with too many lines are not read, since no real upload has so many.
        """
        lines = scope["headers"]
        if scope["type"] != "http" or scope["method"] in WITHOUT_A_BODY or len(lines) > MOST_LINES:
            return receive, send
        if not scope.get("http_version", "1.1").startswith("1"):
            return receive, send
        length, expects = _announced(lines)
        if length == 0:
            return receive, send
        early = EarlyAnswer(self, scope, receive, send, length, expects=expects)
        return early.receive, early.send


def _announced(lines: Iterable[tuple[bytes, bytes]]) -> tuple[int | None, bool]:
    """The length of the body in bytes (None: unknown), and whether the client expects 100 Continue."""
    length, is_chunked, expects = b"0", False, False
    for name, value in lines:
        if name not in _OF_THE_BODY:
            continue
        if name == b"content-length":
            length = value
        elif name == b"expect":
            expects = True
        else:
            is_chunked = True
    known = not is_chunked and length.isdigit() and len(length) <= LONGEST_LENGTH
    return int(length) if known else None, expects


def _is_last(message: Message) -> bool:
    return message["type"] == "http.response.body" and not message.get("more_body", False)


class EarlyAnswer:
    """An answer to a request with a body of ``length`` (None: unknown) that may be sent before all of it has been read.

    If the client ``expects`` 100 Continue, nothing is read: it has sent nothing yet, and reading would make it send.
    """

    def __init__(
        self, lingering: Lingering, scope: Scope, receive: Receive, send: Send, length: int | None, *, expects: bool
    ) -> None:
        self._lingering = lingering
        self._receive = receive
        self._send = send
        self._length = length
        self._expects = expects
        self._asked = self._whole = self._lingers = False
        # Once the answer has ended, hypercorn closes the connection, and uvicorn delivers no more of the body, so the
        # body is read before the end. Granian ends the answer when its Content-Length is reached, and delivers the body
        # only after that; it is recognized by this extension.
        self._reads_after = "http.response.pathsend" in (scope.get("extensions") or {})

    async def receive(self) -> Message:
        """The next message of the request."""
        self._asked = True
        message = await self._receive()
        self._whole = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer; with the last part, read the rest of the body."""
        if message["type"] == "http.response.start":
            message = self._begun(message)
        elif self._lingers and self._lingering.has_room and _is_last(message):
            await self._end(message)
            return
        await self._send(message)

    def _begun(self, message: Message) -> Message:
        """The head of the answer, with ``Connection: close`` if the connection cannot be reused."""
        if self._whole:
            return message
        waits = self._expects and not self._asked
        self._lingers = not waits and self._lingering.has_room
        if waits or (self._lingers and (self._length is None or self._length > READ_AT_ONCE_BYTES)):
            headers = [line for line in message.get("headers", ()) if line[0] != b"connection"]
            return {**message, "headers": [*headers, CONNECTION_CLOSE]}
        return message

    async def _end(self, message: Message) -> None:
        if self._reads_after:
            await self._send(message)
            await self._lingering.stay(self._read_on())
            return
        await self._send({**message, "more_body": True})
        await self._lingering.stay(self._read_on())
        with suppress(OSError):  # the client has its answer, and may have disconnected
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _read_on(self) -> None:
        read = 0
        while not self._whole:
            if read >= READ_AT_ONCE_BYTES:
                await asyncio.sleep(self._lingering.pause_s)
            message = await self.receive()
            read += len(message.get("body", b""))
