"""The way of a request through the app, as the lane hears of it: it is inside until its response begins."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable

from starlette.types import Message, Receive, Scope, Send

from shieldmw.answers.rate_limit import Headers
from shieldmw.core.bounds import MOST_LINES
from shieldmw.core.decision import Decision
from shieldmw.gate.overload.gatekeeper import Passage

_HTTP_START = "http.response.start"

# With one of these a response has begun: nothing more is waited for but what the client reads.
BEGINNINGS = frozenset((_HTTP_START, "websocket.accept", "websocket.close", "websocket.http.response.start"))

# Characters of a path that say which route it is; keys of made-up paths are kept.
LONGEST_ROUTE = 64

_OF_A_BODY = frozenset((b"content-length", b"transfer-encoding"))


def send_from_inside(passage: Passage, scope: Scope, headers: Headers, send: Send) -> Send:
    """A ``send`` that tells the lane when the response begins, and adds headers to the start of an HTTP response."""

    def send_and_tell(message: Message) -> Awaitable[None]:
        kind = message["type"]
        if passage.is_inside and kind in BEGINNINGS:
            if passage.inside_then:  # seldom, and to say which route it is takes longer than all else here
                passage.begun(route_of(scope, message))
            else:
                passage.end()
        if headers and kind == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *headers]}
        return send(message)

    return send_and_tell


class Upload:
    """A request with a body: one whose client was slow has lost its place, and comes back through the lane.

    Where it is turned away there (``refusal``) the app is told that the client has gone, and what it sends is not sent.
    """

    __slots__ = ("_enter", "_has_begun", "_passage", "_receive", "_send", "is_whole", "refusal")

    def __init__(
        self, passage: Passage, enter: Callable[[], Awaitable[Passage | Decision]], receive: Receive, send: Send
    ) -> None:
        self._passage = passage
        self._enter = enter
        self._receive = receive
        self._send = send
        self._has_begun = False
        self.is_whole = False
        self.refusal: Decision | None = None

    async def receive(self) -> Message:
        """The next message of the request."""
        if self.refusal is not None:
            return {"type": "http.disconnect"}
        message = await self._receive()
        if self.is_whole:
            return message
        self.is_whole = not message.get("more_body", False)
        if not self._passage.goes_on():
            entry = await self._enter()
            if isinstance(entry, Passage):
                self._passage.goes_on_as(entry)
                if self._has_begun:  # the app has answered meanwhile
                    self._passage.end()
            elif not self._has_begun:
                self.refusal = entry
                return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer.

        Raises:
            OSError: the request was turned away. It is what a server raises where the client has gone.
        """
        if self.refusal is not None:
            raise OSError("the request was turned away")
        self._has_begun = True
        await self._send(message)


def route_of(scope: Scope, start: Message) -> Hashable:
    """What a response time belongs to: the endpoint that a framework has found, else the path's first two parts.

    And its status, since errors are found sooner: those of a route that nobody found are one for all paths.
    """
    status, endpoint = start.get("status"), scope.get("endpoint")
    if endpoint is not None:
        return id(endpoint), status
    if status is not None and status >= 400:
        return int(status)
    path: str = scope["path"]
    return *path[:LONGEST_ROUTE].split("/", 3)[:3], status


async def receive_if_there(scope: Scope, receive: Receive) -> Receive | None:
    """What to receive with from now on; None where the client has gone.

    Nobody looks where it may send a body: over HTTP/2 any request may, and could be waited for in vain.
    """
    lines = scope["headers"]
    if (
        scope["type"] != "http"
        or not scope.get("http_version", "1.1").startswith("1")
        or len(lines) > MOST_LINES
        or any(name in _OF_A_BODY and value != b"0" for name, value in lines)
    ):
        return receive
    message: Message | None = await receive()
    if message is not None and message["type"] == "http.disconnect":
        return None

    async def receive_again() -> Message:
        nonlocal message
        first, message = message, None
        return await receive() if first is None else first

    return receive_again
