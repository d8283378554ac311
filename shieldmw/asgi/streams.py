"""A live response: runs the app while its listener has a seat, and says goodbye when it must leave.

To leave, the app's task is cancelled and, once it has unwound, the end is sent in the response's own
terms: a close code, an ``event: shed``, or simply the end of the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum, auto

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shieldmw.core.decision import Decision, Reason
from shieldmw.gate.audience import Seat
from shieldmw.gate.live import Entry
from shieldmw.gate.seats import Seats

from .replies import Headers, Replies, close_code, turned_away
from .tickets import ticket_cookie

CLOSE_REASON = "reduced capacity"
RESTART_REASON = "service restart"
CLOSE_REASONS = {
    Reason.RESTARTING: RESTART_REASON,
    Reason.DENY_LIST: "denied",
    Reason.TOO_MANY_STREAMS: "too many streams",
    Reason.REPLACED: "replaced by a newer stream",
    Reason.CREDENTIAL_ENDED: "credential ended",
}


class Phase(Enum):
    """How far the response has come, and what it turned out to be."""

    BEFORE = auto()
    WEBSOCKET = auto()
    SSE = auto()
    STREAM = auto()
    FINITE = auto()
    OVER = auto()


class LiveStream:
    """One response on a live path, admitted by ``decision``; ``replies`` says why its listener must leave."""

    __slots__ = (
        *("_cancelled", "_goodbye", "_headers", "_leaving", "_phase", "_receive", "_replies"),
        *("_scope", "_seat", "_seats", "_send", "_task", "_trailers"),
    )

    _seat: Seat
    _seats: Seats

    def __init__(self, replies: Replies, decision: Decision, scope: Scope, receive: Receive, send: Send) -> None:
        self._replies = replies
        self._goodbye = turned_away(decision)
        self._scope = scope
        self._receive = receive
        self._send = send
        self._headers: Sequence[tuple[bytes, bytes]] = ()
        self._task = asyncio.current_task()
        self._cancelled = 0 if self._task is None else self._task.cancelling()
        self._phase = Phase.BEFORE
        self._leaving = False
        self._trailers = False

    @property
    def connection(self) -> tuple[Scope, Receive, Send]:
        """The connection, as the server gave it."""
        return self._scope, self._receive, self._send

    def admit(self, seats: Seats, entry: Entry, headers: Headers) -> None:
        """The listener has a seat, to be given back at the end; the ticket goes out with the headers, as a cookie."""
        self._seats, self._seat = seats, entry.seat
        secure = self._scope.get("scheme") in ("https", "wss")
        self._headers = [*headers, (b"set-cookie", ticket_cookie(entry.ticket, secure=secure))]

    def leave(self) -> None:
        """The listener must go. A response of known length is left to finish: it ends by itself."""
        if self._task is not None and not self._leaving and self._phase not in (Phase.FINITE, Phase.OVER):
            self._leaving = True
            self._task.cancel()

    async def run(self, app: ASGIApp) -> None:
        """Run the app until it ends or its listener must leave."""
        try:
            await app(self._scope, self._receive, self._watch)
        except BaseException as error:
            # Apps may turn the cancellation into errors of their own, or into a group of them. Where somebody else
            # has cancelled as well, that is obeyed.
            if not self._leaving or self._still_cancelled() or isinstance(error, KeyboardInterrupt | SystemExit):
                raise
        else:
            if not self._leaving or self._still_cancelled():
                return
        finally:
            self._seats.release(self._seat)
        with suppress(OSError):  # the listener has gone by itself
            await self._say_goodbye()

    def _still_cancelled(self) -> bool:
        """Take our own cancellation back; whether there is another."""
        return self._task is not None and self._task.uncancel() > self._cancelled

    async def _watch(self, message: Message) -> None:
        if self._leaving:
            await asyncio.sleep(0)  # an app that catches this and sends again must not starve the others
            raise asyncio.CancelledError
        kind = message["type"]
        if kind in ("http.response.start", "websocket.accept"):
            message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
            self._headers = ()
            self._begin(message)
        elif kind in ("websocket.close", "websocket.http.response.start") or (
            kind in ("http.response.body", "http.response.pathsend") and not message.get("more_body", False)
        ):
            self._phase = Phase.OVER
        await self._send(message)

    def _begin(self, message: Message) -> None:
        if message["type"] == "websocket.accept":
            self._phase = Phase.WEBSOCKET
            return
        headers = {name.lower(): value for name, value in message["headers"]}
        self._trailers = message.get("trailers", False)
        if b"content-length" in headers:
            self._phase = Phase.FINITE
        elif headers.get(b"content-type", b"").startswith(b"text/event-stream") and b"content-encoding" not in headers:
            self._phase = Phase.SSE
        else:
            self._phase = Phase.STREAM

    async def _say_goodbye(self) -> None:
        phase, self._phase = self._phase, Phase.OVER
        goodbye = turned_away(self._goodbye, Reason.RESTARTING if self._seats.is_leaving else self._seat.why)
        if phase is Phase.BEFORE:
            await self._replies.refuse(goodbye, self._scope, self._receive, self._send)
        elif phase is Phase.WEBSOCKET:
            reason = CLOSE_REASONS.get(goodbye.reason, CLOSE_REASON)
            await self._send({"type": "websocket.close", "code": close_code(goodbye), "reason": reason})
        elif phase in (Phase.SSE, Phase.STREAM):
            body = self._shed_event(goodbye) if phase is Phase.SSE else b""
            await self._send({"type": "http.response.body", "body": body, "more_body": False})
            if self._trailers:
                await self._send({"type": "http.response.trailers", "headers": [], "more_trailers": False})

    def _shed_event(self, goodbye: Decision) -> bytes:
        """The last event. The empty line before it ends whatever the app had begun."""
        why = self._replies.problem_json(goodbye)
        return b"\n\nevent: shed\nretry: %d\ndata: %s\n\n" % (self._replies.retry_ms(goodbye), why)
