"""A pytest plugin that lets Starlette's own tests ask their apps over sockets.

uvicorn in this process serves the app of the moment. What is asked stands at ``BENCH_ASK_PORT``: uvicorn itself, or a
proxy in front of it.

Runs in a venv of its own, without the shield.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from typing import Any, Final

import uvicorn
from starlette import testclient
from starlette.testclient import WebSocketDenialResponse, WebSocketTestSession
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

HOST: Final = "127.0.0.1"
PORT: Final = int(os.environ["BENCH_STAGE_PORT"])
ASK_PORT: Final = int(os.environ["BENCH_ASK_PORT"])
PATIENCE_S: Final = 4.0
_OF_HANDSHAKES: Final = {"host", "connection", "upgrade", "accept-encoding"}
httpx: Final[Any] = testclient.__dict__["httpx"]  # the one that Starlette has chosen


class Play:
    """One request of a test: the app for it, and how that ended. ``given`` is what the test wants in the scope."""

    def __init__(self, app: ASGIApp, given: dict[str, Any]) -> None:
        self.app = app
        self.given = given
        self.error: BaseException | None = None
        self.begun = threading.Event()
        self.ended = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app."""
        self.begun.set()
        try:
            await self.app({**scope, **self.given}, receive, send)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.ended.set()

    def finish(self, *, raises: bool) -> None:
        """Wait for its end, and raise what the app has raised, as Starlette's client does."""
        if self.begun.is_set() and not self.ended.wait(PATIENCE_S):
            raise AssertionError("the app is still running")
        if raises and self.error is not None:
            raise self.error


class Stage:
    """Plays the app of the moment."""

    play: Play | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Play it."""
        if self.play is not None:
            await self.play(scope, receive, send)


STAGE: Final = Stage()


class Body(httpx.SyncByteStream):  # type: ignore[misc]
    """The body of an answer; once it is closed, the app has ended."""

    def __init__(self, answer: Any, transport: Any, play: Play, *, raises: bool) -> None:
        self._answer = answer
        self._transport = transport
        self._play = play
        self._raises = raises

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._answer.stream
        except httpx.TransportError:
            self._play.finish(raises=self._raises)
            raise

    def close(self) -> None:
        """Leave."""
        self._answer.close()
        self._transport.close()
        self._play.finish(raises=self._raises)


class SocketTransport(testclient._TestClientTransport):
    """Asks over a socket."""

    def handle_request(self, request: Any) -> Any:
        """Send a request, with the bytes that the client wrote."""
        given = {"root_path": self.root_path, "client": self.client, "state": self.app_state.copy()}
        given |= {"scheme": request.url.scheme}
        play = STAGE.play = Play(self.app, given)
        if request.url.scheme in {"ws", "wss"}:
            raise testclient._Upgrade(SocketSession(play, request))
        url = request.url.copy_with(scheme="http", host=HOST, port=ASK_PORT)
        transport = httpx.HTTPTransport()
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), PATIENCE_S)
        asked = httpx.Request(
            request.method, url, headers=request.headers, stream=request.stream, extensions={"timeout": timeouts}
        )
        try:
            answer = transport.handle_request(asked)
        except httpx.TransportError:
            transport.close()
            play.finish(raises=self.raise_server_exceptions)
            raise
        body = Body(answer, transport, play, raises=self.raise_server_exceptions)
        return httpx.Response(answer.status_code, headers=answer.headers, stream=body, request=request)


class SocketSession(WebSocketTestSession):
    """A WebSocket over a socket."""

    def __init__(self, play: Play, request: Any) -> None:
        self._play = play
        self._request = request
        self.accepted_subprotocol: Any = None
        self.extra_headers: Any = None

    def __enter__(self) -> SocketSession:
        url, headers = self._request.url, self._request.headers
        offered = [Subprotocol(name.strip()) for name in headers.get("sec-websocket-protocol", "").split(",") if name]
        more = [
            (name, value)
            for name, value in headers.multi_items()
            if name not in _OF_HANDSHAKES and not name.startswith("sec-websocket-")
        ]
        try:
            self._client = connect(
                f"ws://{url.netloc.decode()}{url.raw_path.decode()}",
                sock=socket.create_connection((HOST, ASK_PORT), PATIENCE_S),
                subprotocols=offered or None,
                additional_headers=more,
                user_agent_header=None,
                compression=None,
                max_size=None,
                proxy=None,
            )
        except InvalidStatus as refused:
            self._play.finish(raises=True)
            answer = refused.response
            if answer.status_code == 403 and not answer.body:
                raise WebSocketDisconnect(1000) from None
            lines = [(name.encode(), value.encode()) for name, value in answer.headers.raw_items()]
            denied: Any = WebSocketDenialResponse
            raise denied(status_code=answer.status_code, headers=lines, content=bytes(answer.body or b"")) from None
        self.accepted_subprotocol = self._client.subprotocol
        assert self._client.response is not None
        self.extra_headers = [(n.lower().encode(), v.encode()) for n, v in self._client.response.headers.raw_items()]
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.close()
        self._play.finish(raises=kind is None)

    def send(self, message: Message) -> None:
        """Send what a client says."""
        self._client.send(message["text"] if message.get("text") is not None else message["bytes"])

    def close(self, code: int = 1000, reason: str | None = None) -> None:
        """Close it."""
        self._client.close(code, reason or "")

    def receive(self) -> Message:
        """The next message, or the close."""
        try:
            data = self._client.recv(PATIENCE_S)
        except ConnectionClosed as closed:
            code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")
            self._play.finish(raises=True)
            return {"type": "websocket.close", "code": code, "reason": reason}
        return {"type": "websocket.send", "text" if isinstance(data, str) else "bytes": data}


def pytest_configure() -> None:
    """Serve, and let the client of the tests ask over sockets."""
    config = uvicorn.Config(
        STAGE, HOST, PORT, http="h11", ws="wsproto", lifespan="off", log_level=60, proxy_headers=False
    )
    server = uvicorn.Server(config)
    threading.Thread(target=server.run, daemon=True).start()
    testclient._TestClientTransport = SocketTransport  # type: ignore[misc]
