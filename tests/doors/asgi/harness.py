"""Drives an ASGI app with scripted messages and records everything it does. Knows nothing of the shield's internals."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.types import ASGIApp, Message, Scope

T = TypeVar("T")
Headers = list[tuple[bytes, bytes]]

# A script that hangs has failed; nothing here takes a hundredth of it.
LIMIT_S = 20

PEER = ("203.0.113.7", 50123)

# The test's own name for "the client hung up": what a server raises from send.
GONE = OSError("the client is gone")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine on an event loop of its own, within a limit."""

    async def limited() -> T:
        async with asyncio.timeout(LIMIT_S):
            return await coroutine

    return asyncio.run(limited())


@dataclass(frozen=True)
class Step:
    """A message that the server has for the app, once the app has sent so many messages."""

    message: Message
    after_sent: int = 0


@dataclass
class Record:
    """All that an app did."""

    sent: list[Message] = field(default_factory=list)
    received: list[str] = field(default_factory=list)
    raised: str | None = None

    def of(self, kind: str) -> list[Message]:
        """The messages sent of one type."""
        return [message for message in self.sent if message["type"] == kind]

    @property
    def status(self) -> int:
        """The status of the answer."""
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> Headers:
        """The header lines of the answer."""
        return list(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        """The body of the answer."""
        return b"".join(message.get("body", b"") for message in self.sent)

    def values(self, name: bytes) -> list[bytes]:
        """The values of all header lines of one name."""
        return [value for key, value in self.headers if key == name]

    def value(self, name: bytes) -> str:
        """The value of the one header line of a name."""
        (found,) = self.values(name)
        return found.decode("latin-1")


class Server:
    """The server's side of one call: hands out the script, takes what is sent.

    After the script it says that the client has gone, but only once the app has ended its answer:
    an app that waits for more waits for ever, as it would on an idle connection.
    """

    def __init__(self, scope: Scope, steps: Sequence[Step] = (), gone_after: int | None = None) -> None:
        self.scope = scope
        self.record = Record()
        self._steps = list(steps)
        self._gone_after = gone_after
        self._changed = asyncio.Event()

    async def receive(self) -> Message:
        """The next message of the script."""
        if self._steps:
            step = self._steps.pop(0)
            await self.until_sent(step.after_sent)
            message = dict(step.message)
        else:
            await self._until(lambda: any(_ends(message) for message in self.record.sent))
            message = {"type": "http.disconnect"}
            if self.scope["type"] == "websocket":
                message = {"type": "websocket.disconnect", "code": 1006}
        self.record.received.append(message["type"])
        return message

    async def send(self, message: Message) -> None:
        """Take a message of the app."""
        if self._gone_after is not None and len(self.record.sent) >= self._gone_after:
            raise GONE
        message = dict(message)
        if "headers" in message:
            message["headers"] = [(bytes(name), bytes(value)) for name, value in message["headers"]]
        self.record.sent.append(message)
        self._changed.set()
        await asyncio.sleep(0)

    async def until_sent(self, count: int) -> None:
        """Wait until the app has sent so many messages."""
        await self._until(lambda: len(self.record.sent) >= count)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()


def _ends(message: Message) -> bool:
    kind = message["type"]
    if kind in ("http.response.pathsend", "websocket.close"):
        return True
    return kind in ("http.response.body", "websocket.http.response.body") and not message.get("more_body", False)


async def call(app: ASGIApp, scope: Scope, steps: Sequence[Step] = (), gone_after: int | None = None) -> Record:
    """Call the app with a scope and a script; what it raises is part of the record."""
    server = Server(scope, steps, gone_after)
    try:
        await app(scope, server.receive, server.send)
    except Exception as error:
        server.record.raised = repr(error)
    return server.record


def http_scope(path: str = "/", method: str = "GET", *, headers: Headers | None = None, **more: Any) -> Scope:
    """An http scope as a server makes it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "surrogatepass"),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"example.org"), *(headers or [])],
        "client": PEER,
        "server": ("192.0.2.1", 80),
        "state": {},
        "extensions": {},
        **more,
    }


def websocket_scope(path: str = "/", *, headers: Headers | None = None, **more: Any) -> Scope:
    """A websocket scope as a server makes it; such a scope has no method."""
    scope = http_scope(path, headers=headers)
    del scope["method"]
    return {**scope, "type": "websocket", "scheme": "ws", "subprotocols": [], **more}


def body(*chunks: bytes) -> list[Step]:
    """The script of a request body in chunks."""
    last = len(chunks) - 1
    return [Step({"type": "http.request", "body": chunk, "more_body": n < last}) for n, chunk in enumerate(chunks)]


NO_BODY = body(b"")
CONNECT = Step({"type": "websocket.connect"})

ADDED = (b"ratelimit-policy", b"ratelimit")


def without_added(record: Record) -> Record:
    """The record as it was before the shield added its two header lines; they must be there, and last."""
    sent: list[Message] = []
    for message in record.sent:
        if message["type"] == "http.response.start":
            headers = message["headers"]
            assert tuple(name for name, _ in headers[-2:]) == ADDED, "the two lines are added at the end"
            sent.append({**message, "headers": headers[:-2]})
        else:
            sent.append(message)
    return Record(sent, record.received, record.raised)


_BOUNDARY = re.compile(rb"[0-9a-f]{26}")


def comparable(record: Record) -> Record:
    """The record without what differs from run to run in the bare app: a missing list of headers
    is an empty one, and a multipart boundary is random."""
    return Record([_comparable(message) for message in record.sent], record.received, record.raised)


def _comparable(message: Message) -> Message:
    same = {**message}
    if same["type"] == "http.response.start":
        same["headers"] = [(name, _BOUNDARY.sub(b"boundary", value)) for name, value in same.get("headers", [])]
    if isinstance(same.get("body"), bytes):
        same["body"] = _BOUNDARY.sub(b"boundary", same["body"])
    return same
