"""Tells the lane of a request's passage through the app: it counts as inside until its response begins."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable

from starlette.types import Message, Receive, Scope, Send

from shieldmw.answers.rate_limit import Headers
from shieldmw.core.bounds import MOST_LINES
from shieldmw.core.decision import Decision
from shieldmw.gate.overload.gatekeeper import Passage

_HTTP_START = "http.response.start"

# Messages that begin a response: from then on it only waits for the client to read.
BEGINNINGS = frozenset((_HTTP_START, "websocket.accept", "websocket.close", "websocket.http.response.start"))

# Characters of a path that identify its route. A bound, since keys of made-up paths are kept, too.
LONGEST_ROUTE = 64

_OF_A_BODY = frozenset((b"content-length", b"transfer-encoding"))


def send_from_inside(passage: Passage, scope: Scope, headers: Headers, send: Send) -> Send:
    """A ``send`` that notifies the lane when the response begins, and adds headers to the start of an HTTP response."""

    def send_and_tell(message: Message) -> Awaitable[None]:
        kind = message["type"]
        if passage.is_inside and kind in BEGINNINGS:
            if passage.inside_then:  # rare; finding the route takes longer than everything else here
                passage.begun(route_of(scope, message))
            else:
                passage.end()
        if headers and kind == _HTTP_START:
            message = {**message}
            message["headers"] = [*message.get("headers", ()), *headers]
        return send(message)

    return send_and_tell


class Upload:
    """A request with a body. If its client was slow it has lost its place, and passes the lane again.

    If it is shed there (``refusal``) the app receives a disconnect, and nothing that it sends goes out. ``on_settled``
    is called once, with that refusal, or with None as soon as there can be none any more.
    """

    __slots__ = ("_enter", "_has_begun", "_on_settled", "_passage", "_receive", "_send", "is_whole", "refusal")

    def __init__(
        self,
        passage: Passage,
        enter: Callable[[], Awaitable[Passage | Decision]],
        on_settled: Callable[[Decision | None], None],
        receive: Receive,
        send: Send,
    ) -> None:
        self._passage = passage
        self._enter = enter
        self._on_settled: Callable[[Decision | None], None] | None = on_settled
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
        if self.is_whole or message["type"] == "http.disconnect":
            return message
        self.is_whole = not message.get("more_body", False)
        if not self._passage.goes_on():
            entry = await self._enter()
            if isinstance(entry, Passage):
                self._passage.goes_on_as(entry)
                if self._has_begun:  # the app has answered in the meantime
                    self._passage.end()
            elif not self._has_begun:
                self.refusal = entry
                self.settle()
                return {"type": "http.disconnect"}
        if self.is_whole:
            self.settle()
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer.

        Raises:
            OSError: the request was turned away. Servers raise the same if the client has disconnected.
        """
        if self.refusal is not None:
            raise OSError("the request was turned away")
        self._has_begun = True
        self.settle()
        await self._send(message)

    def settle(self) -> None:
        """Call ``on_settled`` unless it was called: the request cannot be refused any more, was refused, or is over."""
        on_settled, self._on_settled = self._on_settled, None
        if on_settled is not None:
            on_settled(self.refusal)


def route_of(scope: Scope, start: Message) -> Hashable:
    """The key that a response time is kept under: the endpoint that a framework has found, otherwise the path's first
    two segments; together with the status, since errors are faster.

    Errors without an endpoint share one key per status, whatever their path.
    """
    status, endpoint = start.get("status"), scope.get("endpoint")
    if endpoint is not None:
        return id(endpoint), status
    if status is not None and status >= 400:
        return int(status)
    path: str = scope["path"]
    return *path[:LONGEST_ROUTE].split("/", 3)[:3], status


async def receive_if_there(scope: Scope, receive: Receive) -> Receive | None:
    """What to receive with from now on; None if the client has disconnected.

    Not checked for a request that may have a body, since ``receive`` could wait for it in vain: over HTTP/2 any
    request may have one.
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
