"""Speaks RESP 2 over an open connection: commands go out, and their replies come back in the same order.

Knows nothing of connecting, of time, or of what commands and replies mean.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from hiredis import PushNotification, Reader, pack_command

from shieldmw.errors import StoreError, StoreUnavailable

from .calls import Command
from .failures import text_of

_INCOMPLETE = object()

# The head of an array of a million elements or more; any reply to us has a few thousand at most. hiredis allocates room
# for all of them before they arrive, and clears it in the end: a dozen bytes could block the event loop for 20 s. It
# does not check the two bytes after a text, so a head need not begin a line. A text that ends like a head is taken for
# one; none that we store does.
_find_too_large = re.compile(rb"[*>~|]\d{7,19}\r").search
_LONGEST_PART = 20  # of such a head that has not arrived completely


class Call:
    """Commands to be sent one after the other, and the future of their replies: errors are replies as well.

    Raises:
        StoreError: an argument cannot be sent.
    """

    __slots__ = ("expected", "packed", "replies")

    def __init__(self, commands: Sequence[Command], replies: asyncio.Future[list[Any]]) -> None:
        try:
            self.packed = b"".join([pack_command(command) for command in commands])  # type: ignore[arg-type]  # of any length
        except (TypeError, UnicodeError) as error:
            raise StoreError(text_of(error)) from error
        self.expected = len(commands)
        self.replies = replies

    def fail(self, error: StoreError) -> None:
        """End with an error, a copy for each call: raising adds to its traceback."""
        if not self.replies.done():
            self.replies.set_exception(type(error)(*error.args))


class ReplyProtocol(asyncio.Protocol):
    """Sends groups of calls, one after the other, and completes each call as its replies come.

    Calls ``answered`` when all calls of a group have been, and ``failed`` when the connection can no longer be used: it
    is lost, or the server sent something that is not a reply, or not one to these calls. The size of the replies to a
    group is not limited (except for the length of an array), only the time that the caller waits before it closes.
    ``error_of`` makes an exception from an error reply.
    """

    def __init__(
        self,
        *,
        answered: Callable[[], None],
        failed: Callable[[StoreError], None],
        error_of: Callable[[str], StoreError],
    ) -> None:
        self._answered = answered
        self._failed = failed
        self._reader = Reader(replyError=error_of, notEnoughData=_INCOMPLETE)
        self._calls: deque[Call] = deque()
        self._replies: list[Any] = []  # to the first of the calls
        self._last = b""  # the end of what was received
        self._writer: asyncio.StreamWriter | None = None

    def take_over(self, writer: asyncio.StreamWriter) -> None:
        """Speak over a stream from now on. A reference is kept, since a deleted stream closes its transport."""
        self._writer = writer
        writer.transport.set_protocol(self)

    def send(self, calls: Sequence[Call]) -> None:
        """Send a group of calls; the previous group must have been answered."""
        assert self._writer is not None
        self._calls.extend(calls)
        self._writer.transport.write(b"".join([call.packed for call in calls]))

    def close(self) -> list[Call]:
        """Close at once, and return the calls that were not answered. Unsent data is discarded."""
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None
        unanswered = list(self._calls)
        self._calls.clear()
        return unanswered

    def data_received(self, data: bytes) -> None:
        """Complete the calls whose replies have arrived."""
        try:
            text = self._last + data
            if _find_too_large(text):
                raise StoreError("the server sent an array that is too large")
            self._last = text[-_LONGEST_PART:]
            self._reader.feed(data)
            self._complete()
        except Exception as error:  # not a reply, or one that Python cannot represent: callers must not wait forever
            self._fail(StoreError(text_of(error)))

    def connection_lost(self, error: Exception | None) -> None:
        """Fail, unless we have closed it."""
        self._fail(StoreUnavailable("the server closed the connection" if error is None else text_of(error)))

    def _complete(self) -> None:
        calls = self._calls
        while calls:
            reply = self._reader.gets()
            if reply is _INCOMPLETE:
                return
            if type(reply) is PushNotification:
                break
            self._replies.append(reply)
            if len(self._replies) == calls[0].expected:
                call = calls.popleft()
                if not call.replies.done():
                    call.replies.set_result(self._replies)
                self._replies = []
        if calls or self._reader.has_data():
            self._fail(StoreError("the server sent what was not asked for"))
        else:
            self._answered()

    def _fail(self, error: StoreError) -> None:
        if self._writer is not None:
            self._failed(error)
