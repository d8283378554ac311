"""The cases of the differential tests (``tests/doors/asgi/test_same_*.py``) over sockets: the app under uvicorn in this
process, and a client that is asked to play the server's side of a case."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

import h11
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from doors.asgi.harness import Headers
from doors.asgi.shields import Case
from e2e.proxied import PATIENCE_S
from servers import HOST, wait_until

HttpKind = Literal["h11", "httptools"]
# Each HTTP implementation of uvicorn with another one for WebSockets.
WEBSOCKETS_OF: dict[HttpKind, Literal["wsproto", "websockets-sansio"]] = {
    "h11": "wsproto",
    "httptools": "websockets-sansio",
}
# What the framing of one connection is made of, and what each server says of itself.
OF_ONE_CONNECTION = {b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"date"}
# What the proxy is there to add, and Expect, which it answers itself (docs/proxy.md).
ADDED_TO_REQUESTS = {b"via", b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"expect"}
# A handshake of its own at each end.
OF_HANDSHAKES = {b"upgrade", b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions"}
# granian refuses a WebSocket with the lines of a handshake, and names itself if the upstream names nobody.
OF_ANSWERS_TO_HANDSHAKES = {b"upgrade", b"sec-websocket-accept", b"via", b"server"}
_PARTS_OF_SCOPE = ("type", "method", "scheme", "path", "raw_path", "query_string", "root_path", "http_version")


@dataclass
class Seen:
    """What the app under the upstream saw: its scope, what it read, and how it ended."""

    scope: Scope = field(default_factory=dict)
    body: bytes = b""
    messages: list[Message] = field(default_factory=list)
    reports: list[Message] = field(default_factory=list)
    raised: str = ""

    def request(self) -> dict[str, Any]:
        """The request without what a connection or the proxy adds; lines of one name stand together."""
        left_out = OF_ONE_CONNECTION - {b"content-length", b"transfer-encoding"} | ADDED_TO_REQUESTS | OF_HANDSHAKES
        scope = {name: self.scope.get(name) for name in _PARTS_OF_SCOPE}
        return {**scope, "headers": grouped(self.scope["headers"], left_out), "subprotocols": self._subprotocols()}

    def _subprotocols(self) -> list[str]:
        return list(self.scope.get("subprotocols", []))


class Stage:
    """The upstream's app: plays ``app``, and keeps what it saw. ``test.*`` messages are reports to the tests."""

    def __init__(self) -> None:
        self.set(None)

    def set(self, app: ASGIApp | None) -> None:
        """Play another app from the next request on."""
        self._app = app
        self.seen = Seen()
        self.begun, self.ended = threading.Event(), threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Play the app."""
        assert self._app is not None, "no request was expected"
        seen, ended = self.seen, self.ended
        seen.scope = dict(scope)
        self.begun.set()

        async def keeping() -> Message:
            message = await receive()
            seen.body += message.get("body", b"")
            if message["type"] != "http.request":
                seen.messages.append(message)
            return message

        async def reporting(message: Message) -> None:
            if message["type"].startswith("test."):
                seen.reports.append(message)
            else:
                await send(message)
                await asyncio.sleep(0)  # as in the harness: an app that only sends must not keep the loop

        try:
            await self._app(scope, keeping, reporting)
        except Exception as error:
            seen.raised = type(error).__name__
            raise
        finally:
            ended.set()


@contextmanager
def staged(http: HttpKind) -> Iterator[tuple[Stage, int]]:
    """The stage under uvicorn, and its port."""
    stage = Stage()
    config = uvicorn.Config(
        stage,
        port=0,
        http=http,
        ws=WEBSOCKETS_OF[http],
        lifespan="off",
        log_level=60,  # above "critical": errors are what many cases are about
        proxy_headers=False,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started, PATIENCE_S, "uvicorn")
        yield stage, server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def grouped(headers: Any, left_out: set[bytes]) -> Headers:
    """Header lines in order, but those of one name together, at the place of the first."""
    together: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name.lower() not in left_out:
            together.setdefault(bytes(name).lower(), []).append(bytes(value))
    return [(name, value) for name, values in together.items() for value in values]


@dataclass
class Answer:
    """What the client saw of an answer. A status of 0: the connection ended without one."""

    status: int = 0
    headers: Headers = field(default_factory=list)
    length: bytes | None = None
    body: bytes = b""
    is_whole: bool = False


def ask(port: int, case: Case, stage: Stage) -> Answer:
    """Send a case's request, and read its answer; or leave, when the case says so."""
    steps = [step for step in case.steps if step.message["type"] == "http.request"]
    leaves = len(steps) < len(case.steps) or case.gone_after is not None
    with socket.create_connection((HOST, port), PATIENCE_S) as connection:
        method = case.scope["method"].encode()
        connection.sendall(_request(case, method, [step.message for step in steps]))
        if not leaves:
            return _answer(connection, method)
        assert stage.begun.wait(PATIENCE_S)
        if case.gone_after or any(step.after_sent for step in case.steps):
            _until_head(connection)
    return Answer()


def _request(case: Case, method: bytes, messages: list[Message]) -> bytes:
    headers = [*case.scope["headers"], (b"Connection", b"close")]
    if not any(name == b"host" for name, _ in headers):
        headers.insert(0, (b"host", b"example.org"))
    body = b"".join(message["body"] for message in messages)
    is_chunked = len(messages) > 1 or any(message["more_body"] for message in messages)
    if is_chunked:
        headers.append((b"transfer-encoding", b"chunked"))
        body = b"".join(b"%x\r\n%b\r\n" % (len(data), data) for message in messages if (data := message["body"]))
        body += b"" if messages[-1]["more_body"] else b"0\r\n\r\n"
    elif body:
        headers.append((b"content-length", b"%d" % len(body)))
    lines = [b"%b %b HTTP/1.1" % (method, target_of(case.scope)), *(b"%b: %b" % (n, v) for n, v in headers)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def target_of(scope: Scope) -> bytes:
    """The target of a scope's request."""
    query = scope.get("query_string")
    return quote(scope["path"], safe="/%").encode() + (b"?" + query if query else b"")


def _answer(connection: socket.socket, method: bytes) -> Answer:
    """The answer, read by h11: interim ones are passed over."""
    reader, answer = h11.Connection(h11.CLIENT), Answer()
    reader.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"x"), (b"Content-Length", b"0")]))
    reader.send(h11.EndOfMessage())
    with suppress(h11.RemoteProtocolError, ConnectionResetError):
        while True:
            event = reader.next_event()
            if event is h11.NEED_DATA:
                reader.receive_data(connection.recv(65_536))
            elif isinstance(event, h11.Response):
                answer.status = event.status_code
                answer.headers = grouped(event.headers, OF_ONE_CONNECTION)
                answer.length = dict(event.headers).get(b"content-length")
            elif isinstance(event, h11.Data):
                answer.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                answer.is_whole = True
                return answer
            elif isinstance(event, h11.ConnectionClosed):
                return answer
    return answer


def _until_head(connection: socket.socket) -> None:
    text = b""
    while b"\r\n\r\n" not in text:
        data = connection.recv(65_536)
        assert data, text
        text += data


@dataclass
class Talk:
    """What a client saw of a WebSocket: a refusal's answer, or its messages and its end."""

    refusal: tuple[int, bytes, Headers] | None = None
    subprotocol: str | None = None
    messages: list[str | bytes] = field(default_factory=list)
    closed: tuple[int | None, str | None] = (None, None)


def talk(port: int, case: Case) -> Talk:
    """Open a WebSocket, say what the case says, and leave when it does."""
    uri = f"ws://example.org{target_of(case.scope).decode()}"
    # The one that the echo chooses is always offered: a server may not choose another.
    offered = [Subprotocol(name) for name in case.scope.get("subprotocols") or ["v2"]]
    connection = socket.create_connection((HOST, port), PATIENCE_S)
    try:
        client = connect(uri, sock=connection, subprotocols=offered, compression=None, max_size=None)
    except InvalidStatus as refused:
        answer = refused.response
        lines = [(name.encode().lower(), value.encode("latin-1")) for name, value in answer.headers.raw_items()]
        return Talk(
            (
                answer.status_code,
                bytes(answer.body or b""),
                grouped(lines, OF_ONE_CONNECTION | OF_ANSWERS_TO_HANDSHAKES),
            )
        )
    with client:
        return _converse(client, case)


def _converse(client: ClientConnection, case: Case) -> Talk:
    found = Talk(subprotocol=client.subprotocol)
    said = [step.message for step in case.steps if step.message["type"] == "websocket.receive"]
    leaving = [step for step in case.steps if step.message["type"] == "websocket.disconnect"]
    for message in said:
        client.send(message["text"] if "text" in message else message["bytes"])
    with suppress(ConnectionClosed):
        if leaving:
            for _ in range(max(len(said), leaving[0].after_sent - 1)):
                found.messages.append(client.recv(PATIENCE_S))
            _leave(client, leaving[0].message)
        else:
            while True:
                found.messages.append(client.recv(PATIENCE_S))
    if not leaving:
        found.closed = (client.close_code, client.close_reason)
    return found


def _leave(client: ClientConnection, message: Message) -> None:
    if message["code"] == 1006:
        client.socket.shutdown(socket.SHUT_RDWR)
    elif message["code"] == 1005:
        client.socket.sendall(b"\x88\x80" + bytes(4))
    else:
        client.close(message["code"], message.get("reason", ""))
