"""A live response: runs the app while its listener has a seat, and says goodbye if the listener is evicted.

To evict a listener, the app's task is cancelled. Once it has unwound, the response is ended in its own way: by a close
code, by ``event: shed``, or simply by the end of the stream. If all of that takes longer than ``GOODBYE_S``, the
connection is dropped. The seat is free when the response has ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from enum import Enum, auto

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shieldmw.answers.problems import close_code
from shieldmw.answers.rate_limit import Headers
from shieldmw.core.decision import Decision, Reason
from shieldmw.gate.log_throttle import LogThrottle
from shieldmw.gate.overload.gatekeeper import Passage
from shieldmw.gate.seats.admission import Entry
from shieldmw.gate.seats.seat import Seat
from shieldmw.gate.seats.seats import Seats

from .dropping import CONNECTIONS, ends_of
from .lingering import CONNECTION_CLOSE
from .passages import BEGINNINGS, route_of
from .replies import Replies
from .tickets import ticket_cookie

log = logging.getLogger(__name__)

CLOSE_REASON = "reduced capacity"
RESTART_REASON = "service restart"
CLOSE_REASONS = {
    Reason.RESTARTING: RESTART_REASON,
    Reason.DENY_LIST: "denied",
    Reason.TOO_MANY_STREAMS: "too many streams",
    Reason.REPLACED: "replaced by a newer stream",
    Reason.CREDENTIAL_ENDED: "credential ended",
}

# Time for a goodbye, or for the rest of a response of known length. A client that reads receives it in milliseconds;
# one that does not, or an app that ignores its cancellation, would otherwise hold the seat and the connection forever.
GOODBYE_S = 2.0

_DROPPED = LogThrottle()

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# The live WebSockets of this process that are open, for servers that do not wait for them when they stop.
OPEN_SOCKETS: set[LiveStream] = set()

_PAST_THE_APP = {"http.response.pathsend", "http.response.zerocopysend"}


# Lets a request into the app, or refuses it; see ``Overload.passage``. None: there is no lane.
Enter = Callable[[], Awaitable[Passage | Decision | None]]
Refuse = Callable[[Decision, Scope, Receive, Send], Awaitable[None]]


class Phase(Enum):
    """The progress and the kind of a response."""

    BEFORE = auto()
    STARTING = auto()
    WEBSOCKET = auto()
    SSE = auto()
    STREAM = auto()
    FINITE = auto()
    OVER = auto()


# In these phases the app is not cancelled immediately: it would be unknown whether the start was sent, and a finite
# response would be cut short although it ends by itself.
_ENDS_SOON = (Phase.STARTING, Phase.FINITE)


class LiveStream:
    """One response on a live path, admitted by ``decision``; ``replies`` renders the goodbye."""

    __slots__ = (
        *("_cancelled", "_cancels", "_cutting", "_deadline", "_goodbye", "_goodbye_s", "_headers", "_leaving"),
        *(
            "_opened",
            "_passage",
            "_phase",
            "_receive",
            "_replies",
            "_scope",
            "_seat",
            "_seats",
            "_send",
            "_task",
            "_trailers",
        ),
    )

    _seat: Seat
    _seats: Seats

    def __init__(
        self,
        replies: Replies,
        decision: Decision,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        goodbye_s: float = GOODBYE_S,
    ) -> None:
        self._replies = replies
        self._goodbye = decision.refused_for(Reason.NO_SEAT)
        self._scope = scope
        self._receive = receive
        self._send = send
        self._goodbye_s = goodbye_s
        self._headers: Sequence[tuple[bytes, bytes]] = ()
        self._task = asyncio.current_task()
        self._cancelled = 0 if self._task is None else self._task.cancelling()
        self._cancels = 0
        self._passage: Passage | None = None
        self._phase = Phase.BEFORE
        self._leaving = False
        self._opened = False
        self._trailers = False
        self._deadline: asyncio.TimerHandle | None = None
        self._cutting: asyncio.Task[None] | None = None

    @property
    def connection(self) -> tuple[Scope, Receive, Send]:
        """The connection, as the server passed it in."""
        return self._scope, self._receive, self._send

    def admit(self, seats: Seats, entry: Entry, headers: Headers) -> None:
        """Take the seat, which is given back at the end; the ticket is sent with the headers, as a cookie."""
        self._seats, self._seat = seats, entry.seat
        self._headers = [*headers, (b"set-cookie", ticket_cookie(entry.ticket, self._scope))]

    def leave(self) -> None:
        """Make the listener leave within ``GOODBYE_S``; a response of known length may use that time to finish."""
        if self._task is not None and not self._leaving and self._phase is not Phase.OVER:
            self._leaving = True
            self._seat.is_slow = self._phase is Phase.FINITE
            self._deadline = self._task.get_loop().call_later(self._goodbye_s, self._overdue)
            if self._phase not in _ENDS_SOON:
                self._cancel(self._task)

    async def run(self, app: ASGIApp, enter: Enter | None = None, refuse: Refuse | None = None) -> None:
        """Wait until the seat is empty and ``enter`` admits, then run the app until it ends or its listener must leave.

        ``refuse`` answers if the lane does not admit the request.
        """
        running = self._run(app, enter, refuse or self._replies.refuse)
        del enter  # the response may last for hours
        try:
            await running
        finally:
            self._over()

    async def _run(self, app: ASGIApp, enter: Enter | None, refuse: Refuse) -> None:
        try:
            if self._seat.turn is not None:
                await self._seat.turn.wait()
            entry = None if enter is None else await enter()
            del enter
            if isinstance(entry, Decision):
                self._over()
                await refuse(entry, self._scope, self._receive, self._send)
                return
            self._passage = entry
            del entry
            self._scope = in_messages(self._scope)
            await app(self._scope, self._receive, self._watch)
        except BaseException as error:
            # Apps may turn the cancellation into other errors or an exception group. A cancellation that is not ours is
            # passed on.
            if not self._leaving or self._still_cancelled() or isinstance(error, KeyboardInterrupt | SystemExit):
                raise
        else:
            if not self._leaving or self._still_cancelled():
                return
        if self._cutting is not None:
            await self._cutting
        elif self._deadline is not None:
            self._deadline.cancel()
            if not await self._end(self._deadline.when()):
                await self._until_gone()

    def _cancel(self, task: asyncio.Task[object]) -> None:
        self._cancels += 1
        task.cancel()

    def _still_cancelled(self) -> bool:
        """Uncancel the task for our own cancellations; returns whether others remain."""
        if self._task is None:
            return False
        for _ in range(self._cancels):
            self._task.uncancel()
        self._cancels = 0
        return self._task.cancelling() > self._cancelled

    async def _watch(self, message: Message) -> None:
        if self._leaving and self._phase not in _ENDS_SOON:
            await asyncio.sleep(0)  # an app that catches the error and sends again must not starve other tasks
            raise asyncio.CancelledError
        if self._passage is not None and message["type"] in BEGINNINGS:
            self._passage.begun(route_of(self._scope, message))
            self._passage = None
        if message["type"] in ("http.response.start", "websocket.accept"):
            await self._start(message)
            return
        if self._opened and message.get("body"):
            # Our own ``retry:`` field was sent before it, and a byte order mark must come first or not at all.
            self._opened = False
            message = {**message, "body": message["body"].removeprefix(_BYTE_ORDER_MARK)}
        ends = _ends(message)
        if ends or message["type"] == "websocket.http.response.start":
            self._phase = Phase.FINITE
        await self._send(message)
        if ends and not (self._trailers and message["type"] == "http.response.body"):
            self._over()

    async def _start(self, message: Message) -> None:
        """Send the start. This is never cancelled, since it would be unknown whether it was sent."""
        phase, self._phase = self._phase_after(message), Phase.STARTING
        if phase is Phase.WEBSOCKET:
            OPEN_SOCKETS.add(self)
        headers = [*message.get("headers", ()), *self._headers]
        if phase in (Phase.SSE, Phase.STREAM) and self._scope.get("http_version") == "1.1":
            # With this the server closes after the response, so a connection that stays open is not being read.
            headers = [*(line for line in headers if line[0].lower() != b"connection"), CONNECTION_CLOSE]
        await self._send({**message, "headers": headers})
        self._phase = phase
        if self._leaving and phase not in _ENDS_SOON and self._task is not None:
            self._cancel(self._task)
        elif phase is Phase.SSE and message["status"] == 200 and self._scope["method"] == "GET":
            # A browser keeps the last ``retry:`` that it received until the page is closed.
            self._opened = True
            await self._send(
                {"type": "http.response.body", "body": self._replies.answers.reconnect_field(), "more_body": True}
            )

    def _phase_after(self, message: Message) -> Phase:
        if message["type"] == "websocket.accept":
            return Phase.WEBSOCKET
        headers = {name.lower(): value for name, value in message.get("headers", ())}
        self._trailers = message.get("trailers", False)
        without_body = self._scope["method"] == "HEAD" or message["status"] in (204, 304)
        if without_body or b"content-length" in headers:
            return Phase.FINITE
        if headers.get(b"content-type", b"").startswith(b"text/event-stream") and b"content-encoding" not in headers:
            return Phase.SSE
        return Phase.STREAM

    def _overdue(self) -> None:
        """End the response without the app, which has not ended in time."""
        if self._task is not None:
            self._cancel(self._task)
            loop = self._task.get_loop()
            self._cutting = loop.create_task(self._cut_off(loop.time() + self._goodbye_s), name="shieldmw goodbye")

    async def _cut_off(self, until_s: float) -> None:
        try:
            await self._end(until_s)
        finally:
            self._over()

    def _over(self) -> None:
        """Free the seat: the response has ended, although the app may still be running."""
        self._phase = Phase.OVER
        OPEN_SOCKETS.discard(self)
        if self._passage is not None:
            self._passage.end()
        if self._deadline is not None:
            self._deadline.cancel()
        self._seats.release(self._seat)

    async def _end(self, until_s: float) -> bool:
        """Say goodbye by ``until_s``, or drop the connection. Returns whether it was said."""
        # A refusal leaves the connection usable, so it is not dropped.
        ends = None if self._phase is Phase.BEFORE else ends_of(self._scope)
        # Found now, since later the same addresses may belong to another connection.
        connection = None if ends is None else await CONNECTIONS.find(ends)
        try:
            async with asyncio.timeout_at(until_s):
                said = await self._say_goodbye()
        except TimeoutError:
            said = False
        except OSError:  # the listener has already left
            return True
        if connection is None:
            return said
        if said:
            # It may only be in a buffer that the client does not read.
            CONNECTIONS.drop_later(connection, self._goodbye_s)
        else:
            if (counts := _DROPPED.due("dropped")) is not None:
                log.info("live connections that nobody reads any more: %s; the last one: %s", counts, ends)
            await CONNECTIONS.drop(connection)
        return said

    async def _until_gone(self) -> None:
        """Wait until the server knows that the connection is gone, so that it does not miss the end of the response."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._goodbye_s):
                while not (await self._receive())["type"].endswith(".disconnect"):
                    pass

    async def _say_goodbye(self) -> bool:
        """Tell the listener why the response ends, in the response's own way. Returns False if that is impossible: the
        response is just starting, or has announced its length."""
        phase, self._phase = self._phase, Phase.OVER
        if phase in _ENDS_SOON:
            return False
        why = Reason.RESTARTING if self._seats.is_leaving else self._seat.why
        goodbye = self._goodbye.refused_for(why, self._seats.retry_after_us if why is Reason.NO_SEAT else 0)
        if phase is Phase.BEFORE:
            await self._replies.refuse(goodbye, self._scope, self._receive, self._send)
        elif phase is Phase.WEBSOCKET:
            reason = CLOSE_REASONS.get(goodbye.reason, CLOSE_REASON)
            await self._send({"type": "websocket.close", "code": close_code(goodbye), "reason": reason})
        elif phase in (Phase.SSE, Phase.STREAM):
            body = self._replies.answers.shed_event(goodbye) if phase is Phase.SSE else b""
            await self._send({"type": "http.response.body", "body": body, "more_body": False})
            if self._trailers:
                await self._send({"type": "http.response.trailers", "headers": [], "more_trailers": False})
        return True


def _ends(message: Message) -> bool:
    """Whether nothing but trailers follows this message."""
    match message["type"]:
        case "websocket.close":
            return True
        case "http.response.body" | "websocket.http.response.body" | "http.response.pathsend":
            return not message.get("more_body", False)
        case "http.response.trailers":
            return not message.get("more_trailers", False)
    return False


def in_messages(scope: Scope) -> Scope:
    """The scope without the extensions by which servers send files, so that all of a response passes through here."""
    extensions = scope.get("extensions") or {}
    if not extensions.keys() & _PAST_THE_APP:
        return scope
    return {**scope, "extensions": {name: extensions[name] for name in extensions.keys() - _PAST_THE_APP}}
