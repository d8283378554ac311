"""The ASGI app that passes requests on to upstreams. The shield wraps it as it would wrap any other app."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import get_ident

from starlette.types import Receive, Scope, Send

from shieldmw.answers.gateway import ALL_IN_USE, CLOSED, Failure
from shieldmw.core.made import made
from shieldmw.core.text import harmless
from shieldmw.errors import UpstreamError
from shieldmw.gate.log_throttle import LogThrottle

from .body import LONGEST_WAIT_S, Pace, RequestBody
from .connection import Connection
from .exchange import Exchange
from .failures import ClientLeft, ProxyFailure
from .heads import Heads, RequestHead
from .passage import Client, Terms, TimeLimits
from .pool import Pool
from .upstreams import Balancer, UpstreamAddress
from .watchlist import Watchlist
from .websocket import WebSocket

log = logging.getLogger(__name__)

# IANA's close code for a gateway whose upstream failed.
WEBSOCKET_BAD_GATEWAY = 1014

# Attempts for one request: each at another upstream, or over a new connection after a kept one was found closed.
MOST_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class ProxyOptions:
    """``most_connections`` of one event loop to each upstream; the time to get one, ``connect_s``; and the limits of an
    exchange."""

    most_connections: int
    connect_s: float
    limits: TimeLimits


class Upstream:
    """Passes requests on to one of ``addresses``."""

    def __init__(self, addresses: Sequence[UpstreamAddress], heads: Heads, options: ProxyOptions) -> None:
        self._addresses = addresses
        self._heads = heads
        self._options = options
        self._tls = ssl.create_default_context() if any(address.tls for address in addresses) else None
        self._here: _Here | None = None
        self._everywhere: dict[asyncio.AbstractEventLoop, _Here] = {}
        self._failures = LogThrottle()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request with what an upstream answers, or with a problem document that says why there is none."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        try:
            await self._forward(self._heads.request(scope), made(Client, (scope, receive, send)))
        except ClientLeft as left:
            _let_go(left)
        except ProxyFailure as failure:
            _let_go(failure)
            if scope["type"] == "websocket":
                await _end(failure, scope, send)
            elif not failure.is_answered:
                await _answer(failure.failure, send)
            # Otherwise the response is left unfinished: the server then cuts the connection.

    async def _forward(self, request: RequestHead, client: Client) -> None:
        """Try upstreams until one has got the request; the first bytes of its body are awaited before.

        Raises:
            ProxyFailure: there is no whole response.
            ClientLeft: the client has left.
        """
        here = self._on_this_loop()
        body: RequestBody | None = None
        if request.has_body and client.scope["type"] == "http":
            body = RequestBody(client.receive, request.framing, self._pace(), here.loop)
            await body.begin()
            request = request._replace(framing=body.framing)
        unreached: set[int] = set()
        wants_new = False
        for attempts_left in reversed(range(MOST_ATTEMPTS)):
            number = here.balancer.choose(here.loop.time(), unreached)
            pool = here.pools[number]
            connection = None if wants_new else pool.idle(is_repeatable=request.is_repeatable)
            try:
                connection = connection or await pool.connection()
                passage: Exchange | WebSocket
                if client.scope["type"] == "http":
                    passage = Exchange(connection, request, body, client, here.terms)
                else:
                    passage = WebSocket(connection, request, client, here.terms)
                if await passage.run(pool.authority, here.answered[number]):
                    pool.give_back(connection)
                return
            except ProxyFailure as failure:
                if connection is not None and _was_kept_too_long(connection, request, failure):
                    wants_new = True
                    if not attempts_left:
                        raise
                    continue
                self._note(here, number, failure)
                unreached.add(number)
                if connection is not None or len(unreached) == len(here.pools) or not attempts_left:
                    raise

    def _pace(self) -> Pace:
        limits = self._options.limits
        longest_s = min(LONGEST_WAIT_S if limits.upload_bytes_per_s else limits.idle_s, limits.idle_s)
        return Pace(min(longest_s, limits.total_s or longest_s), limits.upload_bytes_per_s)

    def _note(self, here: _Here, number: int, failure: ProxyFailure) -> None:
        """Count a failure of an upstream, and log it."""
        if not failure.failure.is_upstreams and failure.failure is not ALL_IN_USE:
            return
        address = self._addresses[number].text
        if failure.failure.is_upstreams and not failure.is_answered and here.balancer.failed(number, here.loop.time()):
            log.warning("upstream %s is left out for %.0f s", address, here.balancer.pause_s(number))
        if (counts := self._failures.due(failure.failure.error)) is not None:
            log.warning("upstreams failed: %s; the last: %s: %s", counts, address, harmless(failure))

    def _on_this_loop(self) -> _Here:
        here = self._here
        # A thread runs one loop. Asking asyncio for it costs a system call on Python 3.11.
        if here is None or here.thread != get_ident() or not here.loop.is_running():
            self._everywhere = {loop: known for loop, known in self._everywhere.items() if not loop.is_closed()}
            here = self._everywhere.get(asyncio.get_running_loop()) or _Here(
                self._addresses, self._heads, self._options, self._tls
            )
            self._here = self._everywhere[here.loop] = here
        return here

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            kind = (await receive())["type"]
            if kind == "lifespan.shutdown":
                for pool in self._on_this_loop().pools:
                    pool.close()
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return


class _Here:
    """What belongs to one event loop: the pools, and what is known of the upstreams' health."""

    def __init__(
        self, addresses: Sequence[UpstreamAddress], heads: Heads, options: ProxyOptions, tls: ssl.SSLContext | None
    ) -> None:
        self.loop = loop = asyncio.get_running_loop()
        self.thread = get_ident()
        self.terms = Terms(loop, heads, options.limits, Watchlist(loop))
        self.balancer = Balancer(len(addresses))
        self.answered = [partial(self.balancer.succeeded, number) for number in range(len(addresses))]
        most, connect_s = options.most_connections, options.connect_s
        self.pools = [
            Pool(address, loop, most=most, connect_s=connect_s, tls=tls if address.tls else None)
            for address in addresses
        ]


def _was_kept_too_long(connection: Connection, request: RequestHead, failure: ProxyFailure) -> bool:
    """Whether the upstream had closed a kept connection, and the request, which nobody answered, may be repeated."""
    return failure.failure is CLOSED and connection.requests > 1 and request.is_repeatable


def _let_go(failure: UpstreamError) -> None:
    """Drop the frames that a failure was raised through, and that refer to it.

    They hold ``receive``, and granian closes no connection with an unread body before that is freed: it would stay open
    until the next garbage collection.
    """
    failure.__traceback__ = failure.__context__ = None


async def _end(failure: ProxyFailure, scope: Scope, send: Send) -> None:
    """End a WebSocket that has no upstream, or none any more."""
    with suppress(OSError):  # the client may have left
        if not failure.is_answered and "websocket.http.response" in (scope.get("extensions") or {}):
            status, headers, body = failure.failure.status, failure.failure.headers, failure.failure.body
            await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
            await send({"type": "websocket.http.response.body", "body": body})
        else:
            await send({"type": "websocket.close", "code": WEBSOCKET_BAD_GATEWAY})


async def _answer(failure: Failure, send: Send) -> None:
    with suppress(OSError):  # the client may have left
        await send({"type": "http.response.start", "status": failure.status, "headers": failure.headers})
        await send({"type": "http.response.body", "body": failure.body})
