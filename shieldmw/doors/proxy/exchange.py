"""One request and its response over one connection, between an ASGI server and an upstream.

The task of the request passes the response on. A second task passes the request's body on and then waits for the client
to leave; without a body it only starts once the response takes its time, and so does the timer that checks the time
limits, since most exchanges are over by then (``Watchlist``). The timer is armed for the earliest moment at which a
limit could be exceeded. An exchange that is ended from outside has its task cancelled, and raises the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import Message, Receive, Send

from shieldmw.answers.gateway import (
    CUT_REQUEST,
    NO_RESPONSE,
    SLOW_CLIENT,
    STALLED_REQUEST,
    STALLED_RESPONSE,
    TOO_LONG_IN_ALL,
    Failure,
)
from shieldmw.errors import UpstreamError

from .connection import Connection
from .failures import ClientLeft, ProxyFailure
from .heads import Heads, RequestHead
from .http1 import ResponseHead, ResponseReader
from .interruption import Interruption
from .watchlist import Watchlist


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Limits of an exchange in seconds: for the head of the response, once the request has been sent; for any pause;
    and in all (0: none)."""

    head_s: float
    idle_s: float
    total_s: float


class Exchange:
    """Passes one request on over ``connection``, and its response back."""

    __slots__ = (
        *("_connection", "_heads", "_interruption", "_is_answered", "_is_sent", "_limits", "_loop", "_reader"),
        *("_receive", "_request", "_send", "_sender", "_started_s", "_timer", "_watchlist"),
    )

    def __init__(
        self,
        connection: Connection,
        request: RequestHead,
        heads: Heads,
        limits: TimeLimits,
        loop: asyncio.AbstractEventLoop,
        watchlist: Watchlist,
        receive: Receive,
        send: Send,
    ) -> None:
        self._connection = connection
        self._request = request
        self._heads = heads
        self._limits = limits
        self._loop = loop
        self._watchlist = watchlist
        self._receive = receive
        self._send = send
        self._is_sent = not request.has_body
        self._sender: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_answered = False

    async def run(self, authority: bytes, on_head: Callable[[], None]) -> bool:
        """Do it. ``authority`` is the upstream's own Host; ``on_head`` is called once it answers.

        Returns whether the connection can carry another request; otherwise it has been dropped.

        Raises:
            ProxyFailure: there was no response, or not the whole of it.
            ClientLeft: the client has left before the end.
        """
        self._interruption = Interruption(self._loop)
        self._started_s = self._loop.time()
        self._reader = ResponseReader(to_head=self._request.method == "HEAD")
        self._connection.begin(self._request.bytes_for(authority), self._reader)
        if self._request.has_body:
            self._sender = self._loop.create_task(self._pass_request(), name="shieldmw request body")
        self._watchlist.add(self)
        is_reusable = False
        try:
            await self._pass_response(on_head)
            is_reusable = self._connection.finish() and self._is_sent
        except OSError as error:  # servers raise it for a client that has left
            raise ClientLeft(str(error)) from None
        except asyncio.CancelledError:
            if (reason := self._interruption.reason()) is None:
                raise
            raise self._told(reason) from None
        except ProxyFailure as failure:
            raise self._told(failure) from None
        finally:
            self._interruption.over()
            self._watchlist.remove(self)
            if self._timer is not None:
                self._timer.cancel()
            if self._sender is not None:
                self._sender.cancel()
                self._sender = None  # it would keep its own end, and with that `receive`, until a garbage collection
            if not is_reusable:
                self._connection.abort()
        return is_reusable

    def _told(self, reason: UpstreamError) -> UpstreamError:
        if isinstance(reason, ProxyFailure):
            reason.is_answered = self._is_answered
        return reason

    # --- the response ---

    async def _pass_response(self, on_head: Callable[[], None]) -> None:
        reader, connection, send = self._reader, self._connection, self._send
        while reader.head is None:
            await connection.readable()
        on_head()
        await send(self._start(reader.head))
        self._is_answered = True
        while True:
            body, is_complete = reader.take(), reader.is_complete
            if body or is_complete:
                await send({"type": "http.response.body", "body": body, "more_body": not is_complete})
                connection.progress_s = self._loop.time()
            if is_complete:
                return
            if not reader.buffered and not reader.is_complete:
                await connection.readable()

    def _start(self, head: ResponseHead) -> Message:
        lines = self._heads.response(head)
        return {"type": "http.response.start", "status": head.status, "headers": lines}

    # --- the request ---

    async def _pass_request(self) -> None:
        """Pass the body on, and then wait for the client to leave."""
        try:
            if not self._is_sent:
                await self._pass_body()
            while (await self._receive())["type"] != "http.disconnect":
                pass
        except ProxyFailure as failure:
            self._interruption.end(failure)
        except Exception as error:  # of the server, which says in many ways that a client has left
            self._interruption.end(ClientLeft(str(error)))
        else:
            self._interruption.end(ClientLeft())

    async def _pass_body(self) -> None:
        """Pass the body on: exactly what was announced, or no end at all.

        Raises:
            ProxyFailure: it was cut short, or is longer than announced.
        """
        connection, (length, is_chunked) = self._connection, self._request.framing
        passed, more = 0, True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ProxyFailure(CUT_REQUEST)
            piece, more = message.get("body", b""), message.get("more_body", False)
            passed += len(piece)
            if length is not None and (passed > length or (passed < length and not more)):
                raise ProxyFailure(CUT_REQUEST)
            if piece:
                connection.write(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
                await connection.drained()
        if is_chunked:
            connection.write(b"0\r\n\r\n")
        connection.progress_s = self._loop.time()
        self._is_sent = True

    # --- the end from outside ---

    def look(self) -> None:
        """The exchange has lasted for a while: wait for the client to leave, and check the time limits."""
        if self._sender is None:
            self._sender = self._loop.create_task(self._pass_request(), name="shieldmw client watch")
        self._check()

    def _check(self) -> None:
        """End the exchange if a time limit has been exceeded, otherwise come back when one could be."""
        limits, now_s = self._limits, self._loop.time()
        failure, limit_s = self._limit()
        due_s = self._connection.progress_s + limit_s
        if limits.total_s and self._started_s + limits.total_s <= due_s:
            failure, due_s = TOO_LONG_IN_ALL, self._started_s + limits.total_s
        if now_s >= due_s:
            self._interruption.end(ProxyFailure(failure))
        else:
            # Another limit may apply by then, but none that ends earlier than this.
            self._timer = self._loop.call_at(min(due_s, now_s + min(limits.head_s, limits.idle_s)), self._check)

    def _limit(self) -> tuple[Failure, float]:
        """What the exchange waits for, as the failure that it would be, and how long it may take in seconds."""
        idle_s = self._limits.idle_s
        if not self._is_sent:
            return (STALLED_REQUEST if self._connection.is_congested else SLOW_CLIENT), idle_s
        if self._reader.head is None:
            return NO_RESPONSE, self._limits.head_s
        return STALLED_RESPONSE, idle_s
