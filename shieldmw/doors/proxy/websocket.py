"""One WebSocket between an ASGI server and an upstream: a handshake of its own with each, then messages both ways.

Nothing that the client says reaches the upstream before that has accepted the handshake, so no request can be hidden
behind one that is refused. Pings are answered at each end, and the upstream is pinged while it is quiet.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable
from contextlib import suppress

from starlette.types import Message

from shieldmw.answers.gateway import NO_RESPONSE, NO_WEBSOCKET, STALLED_RESPONSE, TOO_LONG_IN_ALL

from .connection import Connection
from .failures import ClientLeft, ProxyFailure
from .frames import Frames, is_accepted, is_sendable
from .heads import RequestHead
from .http1 import ResponseHead, ResponseReader
from .passage import Client, Passage, Terms

# Part of the idle time-out after which a quiet upstream is pinged.
PINGED_AFTER = 0.25

# Time for a client to take the close frame, after all that it has not read yet.
GOODBYE_S = 5.0

# Bytes of the body of an upstream's refusal: it is held in memory.
LONGEST_REFUSAL = 65_536

# What servers say if a client's close frame has no code; it is in no frame.
NO_CODE = 1005

PROTOCOLS_HEADER = b"sec-websocket-protocol"


class WebSocket(Passage):
    """Connects one client to one upstream. The connection is used up."""

    __slots__ = ("_client", "_frames", "_is_in_order")

    def __init__(self, connection: Connection, request: RequestHead, client: Client, terms: Terms) -> None:
        super().__init__(connection, request, client, terms)
        self._frames = Frames()
        self._client: asyncio.Task[None] | None = None
        self._is_in_order = False

    async def _pass(self, authority: bytes, on_head: Callable[[], None]) -> bool:
        self._timer = self._loop.call_later(self._limits.head_s, self._interruption.end, ProxyFailure(NO_RESPONSE))
        await self._connect(authority, on_head)
        self._is_in_order = True
        return False

    async def _leave(self) -> None:
        if self._is_in_order:
            self._connection.close()
        else:
            self._connection.abort()
        await self._stop_listening()

    async def _connect(self, authority: bytes, on_head: Callable[[], None]) -> None:
        key = base64.b64encode(os.urandom(16))
        reader = ResponseReader(may_switch=True)
        self._connection.begin(self._request.bytes_for(authority, key), reader)
        while reader.head is None:
            await self._connection.readable()
        on_head()
        self._check()
        offered = self._scope.get("subprotocols") or ()
        if reader.head.status != 101:
            await self._pass_refusal(reader.head, reader)
            return
        if not is_accepted(reader.head, key, offered):
            raise ProxyFailure(NO_WEBSOCKET, "its 101 does not answer our handshake")
        self._connection.switch(self._frames, reader.rest)
        await self._send(self._accepting(reader.head))
        self._is_answered = True
        # Not before: granian accepts nothing while an app waits for a message.
        self._client = self._loop.create_task(self._pass_client(), name="shieldmw websocket client")
        await self._pass_upstream()

    # --- the handshake ---

    def _accepting(self, head: ResponseHead) -> Message:
        lines = self._heads.response(head)
        chosen = next((value.decode("latin-1") for name, value in lines if name == PROTOCOLS_HEADER), None)
        headers = [line for line in lines if not line[0].startswith(b"sec-websocket-")]
        return {"type": "websocket.accept", "subprotocol": chosen, "headers": headers}

    async def _pass_refusal(self, head: ResponseHead, reader: ResponseReader) -> None:
        """Pass on the upstream's refusal, with its body if the server can send one."""
        if "websocket.http.response" not in (self._scope.get("extensions") or {}):
            self._is_answered = True
            await self._send({"type": "websocket.close", "code": 1000})
            return
        headers, body = self._heads.response(head), await self._refusal_body(reader)
        self._is_answered = True
        await self._send({"type": "websocket.http.response.start", "status": head.status, "headers": headers})
        await self._send({"type": "websocket.http.response.body", "body": body, "more_body": False})

    async def _refusal_body(self, reader: ResponseReader) -> bytes:
        """The whole body of a refusal: granian takes it in one message only, and sends 403 otherwise."""
        body = reader.take()
        while not reader.is_complete:
            if len(body) > LONGEST_REFUSAL:
                raise ProxyFailure(NO_WEBSOCKET, f"the body of its refusal is longer than {LONGEST_REFUSAL} bytes")
            if not reader.buffered:
                await self._connection.readable()
            body += reader.take()
        return body

    # --- messages ---

    async def _pass_upstream(self) -> None:
        """Pass the upstream's messages on, until it ends the WebSocket."""
        frames = self._frames
        while True:
            self._flush()
            for message in frames.take():
                await self._send(message)
            if frames.end is not None and not frames.buffered:
                await self._say_goodbye(*frames.end)
                return
            if not frames.buffered:
                await self._connection.readable()

    async def _say_goodbye(self, code: int, reason: str) -> None:
        """Tell the client the upstream's close code. The answer to that must not interrupt us."""
        self._interruption.over()
        await self._stop_listening()
        with suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await self._send({"type": "websocket.close", "code": code, "reason": reason})

    async def _stop_listening(self) -> None:
        """End the task that waits for the client's messages: granian's worker dies if an app receives after closing."""
        if self._client is not None:
            self._client.cancel()
            await asyncio.wait([self._client])

    async def _pass_client(self) -> None:
        """Pass the client's messages on, until it leaves."""
        try:
            message = await self._pass_messages()
        except Exception as error:  # of the server, which says in many ways that a client has left
            self._interruption.end(ClientLeft(str(error)))
            return
        if is_sendable(message.get("code", NO_CODE)):
            self._frames.say(message)
            self._connection.write(self._frames.to_send())
            self._is_in_order = True
        self._interruption.end(ClientLeft())

    async def _pass_messages(self) -> Message:
        """Pass the client's messages on; returns its last one."""
        while (message := await self._receive())["type"] != "websocket.disconnect":
            if message["type"] == "websocket.receive":
                self._frames.say(message)
                self._connection.write(self._frames.to_send())
                await self._connection.drained()
        return message

    def _flush(self) -> None:
        """Answer the upstream's pings; one that does not read gets no answers."""
        data = self._frames.to_send()
        if data and not self._connection.is_congested:
            self._connection.write(data)

    # --- time ---

    def _check(self) -> None:
        """Ping a quiet upstream, and leave one that stays quiet."""
        limits, now_s, heard_s = self._limits, self._loop.time(), self._connection.heard_s
        if self._timer is not None:
            self._timer.cancel()
        if limits.total_s and now_s >= self._started_s + limits.total_s:
            self._interruption.end(ProxyFailure(TOO_LONG_IN_ALL))
        elif now_s >= heard_s + limits.idle_s:
            self._interruption.end(ProxyFailure(STALLED_RESPONSE))
        else:
            if now_s >= heard_s + limits.idle_s * PINGED_AFTER:
                self._frames.ping()
                self._flush()
            self._timer = self._loop.call_later(limits.idle_s * PINGED_AFTER, self._check)
