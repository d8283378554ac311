"""Opens connections to the server of a URL: redis-py handles TLS, passwords, databases and unix sockets, and then hands
the connection to our own protocol.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import redis.asyncio as aioredis
from redis import exceptions as redis_errors
from redis._parsers import _AsyncRESP2Parser
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from shieldmw.errors import SettingsError, StoreUnavailable
from shieldmw.settings.problems import problem

from .failures import translated
from .protocol import ReplyProtocol


class _TlsConnection(aioredis.SSLConnection):
    """A TLS connection that loads its certificates early, and disconnects without waiting for the server."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Loading them takes half of a call's budget. If it fails here, connecting raises the error again.
        with suppress(OSError, TypeError, ValueError):
            self.ssl_context.get()

    async def disconnect(self, *arguments: Any, **options: Any) -> None:
        """Disconnect without a TLS shutdown: asyncio would wait half a minute for that of a server that hangs."""
        if self._writer is not None:
            self._writer.transport.abort()
        await super().disconnect(*arguments, **options)


class Dialer:
    """Connects to one server. Sets no time limits: its callers do.

    Raises:
        SettingsError: at construction, if the URL has invalid options.
    """

    def __init__(self, url: str) -> None:
        try:
            # No retries: a call that timed out may have charged. No timeouts but those of the callers.
            pool: Any = aioredis.ConnectionPool.from_url(
                url,
                protocol=2,
                socket_timeout=None,
                socket_connect_timeout=None,
                retry=Retry(NoBackoff(), 0),
                client_name="shieldmw",
                # hiredis allocates an array for as many elements as announced before they arrive (see ``protocol``).
                parser_class=_AsyncRESP2Parser,
            )
            if pool.connection_class is aioredis.SSLConnection:
                pool.connection_class = _TlsConnection
            self._connection = pool.make_connection()
        except (TypeError, ValueError, redis_errors.RedisError) as error:
            raise SettingsError([problem("redis_url", url, f"an option cannot be used ({error})")]) from None
        self._pool = pool

    async def connect(self, protocol: ReplyProtocol) -> None:
        """Open a connection, and hand it to a protocol.

        Raises:
            StoreError: it cannot be opened.
        """
        connection = self._connection
        try:
            with translated():
                await connection.connect()
                # Nothing can arrive between the two protocols: from here on nothing yields to the loop.
                if await connection.can_read() or connection._writer.transport.is_closing():
                    raise StoreUnavailable("the server closed the connection, or sent what was not asked for")
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        writer, connection._writer, connection._reader = connection._writer, None, None
        protocol.take_over(writer)

    def pubsub(self) -> Any:
        """A subscriber of redis-py's, with a connection of its own."""
        client: Any = aioredis.Redis(connection_pool=self._pool)
        return client.pubsub()

    async def cut_off(self) -> None:
        """Close the subscribers' connections."""
        await self._pool.disconnect()
