"""The connections of one event loop to one upstream: kept alive, bounded, with a bounded wait for a free one."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from functools import partial

from shieldmw.answers.gateway import (
    ALL_IN_USE,
    CLOSED,
    NOT_CONNECTED,
    NOT_FOUND,
    REFUSED,
    UNREACHABLE,
    WRONG_CERTIFICATE,
    WRONG_TLS,
    Failure,
)

from .connection import Connection
from .failures import ProxyFailure
from .upstreams import UpstreamAddress

# How long an idle connection is kept: less than the 5 s after which uvicorn and Node close theirs, since a request that
# meets the close is lost.
KEPT_S = 4.0

# Age up to which an idle connection may carry a request that cannot be repeated: gunicorn closes after 2 s.
CERTAIN_S = 1.0


class Pool:
    """At most ``most`` connections to ``address``. Getting one takes at most ``connect_s``."""

    def __init__(
        self,
        address: UpstreamAddress,
        loop: asyncio.AbstractEventLoop,
        *,
        most: int,
        connect_s: float,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._address = address
        self.authority = address.authority
        self._loop = loop
        self._most = most
        self._connect_s = connect_s
        self._tls = tls
        self._connecting = 0
        self._connections: set[Connection] = set()
        self._idle: dict[Connection, float] = {}  # since when; the last one is the newest
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._sweep: asyncio.TimerHandle | None = None

    def idle(self, *, is_repeatable: bool) -> Connection | None:
        """The idle connection used last, if there is one that is fresh enough for the request."""
        while self._idle:
            connection, since_s = self._idle.popitem()
            if self._loop.time() - since_s > (KEPT_S if is_repeatable else CERTAIN_S):
                self._idle[connection] = since_s
                return None
            if not connection.is_closed:
                return connection
        return None

    async def connection(self) -> Connection:
        """A new connection, or the next one that becomes free if there may be no more.

        Raises:
            ProxyFailure: there is none in time.
        """
        is_full = self._is_full()
        if is_full and self._idle:  # not fresh enough for this request
            self._drop(next(iter(self._idle)))
            is_full = False
        try:
            async with asyncio.timeout(self._connect_s):
                is_next = False
                while is_full:
                    given = await self._wait(is_next=is_next)
                    if given is not None and not given.is_closed:
                        return given
                    if given is not None:  # the upstream has closed it before we woke
                        self._drop(given)
                    is_full, is_next = self._is_full(), True
                return await self._connect()
        except TimeoutError:
            raise ProxyFailure(ALL_IN_USE if is_full else NOT_CONNECTED) from None

    def give_back(self, connection: Connection) -> None:
        """A connection that can carry another request: for the request that waits longest, or to be kept."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self._idle[connection] = self._loop.time()
        if self._sweep is None:
            self._sweep = self._loop.call_later(KEPT_S, self._close_old)

    def close(self) -> None:
        """Close the idle connections. Those in use end with their requests."""
        for connection in list(self._idle):
            self._drop(connection)
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    def _is_full(self) -> bool:
        return len(self._connections) + self._connecting >= self._most

    async def _wait(self, *, is_next: bool) -> Connection | None:
        """The next connection that becomes free; None if one has ended, so that another can be opened. ``is_next``:
        before all others that wait."""
        waiter: asyncio.Future[Connection | None] = self._loop.create_future()
        if is_next:
            self._waiting.appendleft(waiter)
        else:
            self._waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():  # it became free at the same moment
                given = waiter.result()
                if given is None:
                    self._let_next_connect()
                else:
                    self.give_back(given)
            raise

    async def _connect(self) -> Connection:
        make, address = partial(Connection, self._loop, self._ended), self._address
        self._connecting += 1
        try:
            if address.path is not None:
                _, connection = await self._loop.create_unix_connection(make, address.path)
            else:
                name = None if self._tls is None else address.host
                _, connection = await self._loop.create_connection(
                    make, address.host, address.port, ssl=self._tls, server_hostname=name
                )
        except BaseException as error:
            self._let_next_connect()
            if not isinstance(error, OSError) or isinstance(error, TimeoutError):
                raise
            raise ProxyFailure(_failure_of(error), str(error)) from None
        finally:
            self._connecting -= 1
        if connection.is_closed:
            self._let_next_connect()
            raise ProxyFailure(CLOSED)
        self._connections.add(connection)
        return connection

    def _ended(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.discard(connection)
            self._idle.pop(connection, None)
            self._let_next_connect()

    def _drop(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._idle.pop(connection, None)
        connection.abort()

    def _let_next_connect(self) -> None:
        """There is room for one more connection: let the request that waits longest open it."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _close_old(self) -> None:
        self._sweep = None
        now_s = self._loop.time()
        for connection, since_s in list(self._idle.items()):
            if now_s - since_s < KEPT_S:
                self._sweep = self._loop.call_later(since_s + KEPT_S - now_s, self._close_old)
                return
            self._drop(connection)


def _failure_of(error: OSError) -> Failure:
    if isinstance(error, ssl.SSLCertVerificationError):
        return WRONG_CERTIFICATE
    if isinstance(error, ssl.SSLError):
        return WRONG_TLS
    if isinstance(error, socket.gaierror):
        return NOT_FOUND
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        return REFUSED
    return UNREACHABLE
