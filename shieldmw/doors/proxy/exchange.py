"""One request and its response over one connection, between an ASGI server and an upstream.

The task of the request passes the response on. A second task passes on what is left of the request's body, and then
waits for the client to leave; if nothing is left it only starts once the response takes its time, and so does the timer
that checks the time limits, since most exchanges are over by then (``Watchlist``). The timer is armed for the earliest
moment at which a limit could be exceeded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import Message

from shieldmw.answers.gateway import (
    NO_RESPONSE,
    SLOW_CLIENT,
    STALLED_REQUEST,
    STALLED_RESPONSE,
    TOO_LONG_IN_ALL,
    Failure,
)
from shieldmw.errors import UpstreamError

from .body import RequestBody
from .connection import Connection
from .failures import ClientLeft, ProxyFailure
from .heads import RequestHead
from .http1 import ResponseHead, ResponseReader
from .passage import Client, Passage, Terms


class Exchange(Passage):
    """Passes one request on, with its ``body`` if it may have one, and its response back."""

    __slots__ = ("_body", "_is_reusable", "_is_sent", "_reader", "_sender", "_watchlist")

    def __init__(
        self, connection: Connection, request: RequestHead, body: RequestBody | None, client: Client, terms: Terms
    ) -> None:
        super().__init__(connection, request, client, terms)
        self._body = body
        self._watchlist = terms.watchlist
        self._sender: asyncio.Task[None] | None = None
        self._is_sent = False
        self._is_reusable = False

    async def _pass(self, authority: bytes, on_head: Callable[[], None]) -> bool:
        self._reader = ResponseReader(to_head=self._request.method == "HEAD")
        head, body = self._request.bytes_for(authority), self._body
        self._connection.begin(head + body.begun if body is not None else head, self._reader)
        self._is_sent = (body is None or body.is_complete) and not self._connection.is_congested
        if not self._is_sent:
            self._sender = self._loop.create_task(self._pass_request(), name="shieldmw request body")
        self._watchlist.add(self)
        await self._pass_response(on_head)
        self._is_reusable = self._connection.finish() and self._is_sent
        return self._is_reusable

    async def _leave(self) -> None:
        self._watchlist.remove(self)
        if self._sender is not None:
            self._sender.cancel()
            self._sender = None  # it would keep its own end, and with that `receive`, until a garbage collection
        if not self._is_reusable:
            self._connection.abort()

    # --- the response ---

    async def _pass_response(self, on_head: Callable[[], None]) -> None:
        reader = self._reader
        while reader.head is None:
            await self._connection.readable()
        on_head()
        await self._send(self._start(reader.head))
        self._is_answered = True
        await self._pass_response_body(reader)

    def _start(self, head: ResponseHead) -> Message:
        lines = self._heads.response(head)
        return {"type": "http.response.start", "status": head.status, "headers": lines}

    # --- the request ---

    async def _pass_request(self) -> None:
        """Pass on what is left of the body, and then wait for the client to leave."""
        try:
            if not self._is_sent:
                await self._pass_rest()
            while (await self._receive())["type"] != "http.disconnect":
                pass
        except UpstreamError as reason:
            self._interruption.end(reason)
        except Exception as error:  # of the server, which says in many ways that a client has left
            self._interruption.end(ClientLeft(str(error)))
        else:
            self._interruption.end(ClientLeft())

    async def _pass_rest(self) -> None:
        connection, body = self._connection, self._body
        await connection.drained()
        while body is not None and not body.is_complete:
            connection.write(await body.piece())
            await connection.drained()
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
