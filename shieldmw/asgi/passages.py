"""The way of a request through the app, as the lane hears of it: it is inside until its response begins."""

from __future__ import annotations

from collections.abc import Awaitable, Hashable

from starlette.types import Message, Receive, Scope, Send

from shieldmw.core.bounds import MOST_LINES
from shieldmw.gate.overload.gatekeeper import Passage

from .lingering import WITHOUT_A_BODY
from .replies import Headers

# With one of these a response has begun: nothing more is waited for but what the client reads.
BEGINNINGS = frozenset(("http.response.start", "websocket.accept", "websocket.close", "websocket.http.response.start"))

# Characters of a path that say which route it is; keys of made-up paths are kept.
LONGEST_ROUTE = 64

_OF_A_BODY = frozenset((b"content-length", b"transfer-encoding"))


def send_from_inside(passage: Passage, scope: Scope, headers: Headers, send: Send) -> Send:
    """A ``send`` that tells the lane when the response begins, and adds headers to the start of an HTTP response."""

    def send_and_tell(message: Message) -> Awaitable[None]:
        kind = message["type"]
        if kind in BEGINNINGS:
            if passage.inside_then:
                passage.begun(route_of(scope, message))
            else:
                passage.end()
            if headers and kind == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
        return send(message)

    return send_and_tell


def receive_outside(passage: Passage, scope: Scope, receive: Receive) -> Receive:
    """A ``receive`` with which a request holds no place in the app while it waits for its client to send a body."""
    if scope.get("method", "GET") in WITHOUT_A_BODY:
        return receive
    is_whole = False

    async def receive_body() -> Message:
        nonlocal is_whole
        if is_whole:
            return await receive()
        passage.pause()
        try:
            message = await receive()
        finally:
            passage.go_on()
        is_whole = not message.get("more_body", False)
        return message

    return receive_body


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
        scope.get("method") not in WITHOUT_A_BODY
        or not scope.get("http_version", "1.1").startswith("1")
        or len(lines) > MOST_LINES
        or any(name in _OF_A_BODY for name, _ in lines)
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
