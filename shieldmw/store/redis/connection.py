"""The connection to one Redis or Valkey server, its scripts and its errors. The only module that imports redis.

Calls are grouped: while one round trip is under way the others queue, and the next round trip takes them all. One task
owns the connection, so a request that is cancelled while waiting neither cancels a call nor shifts another's reply.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import redis.asyncio as aioredis
from hiredis import pack_command
from redis import exceptions as redis_errors
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from shieldmw.errors import NotApplied, NotPermitted, SettingsError, StoreError, StoreUnavailable
from shieldmw.settings.problems import problem
from shieldmw.store.scripts import NAMES, source

from .budget import Budget
from .calls import Asked, ClusterDown, Command, Moved, TryAgain

# Most calls in one round trip. More would make the first wait for the last.
MOST_CALLS = 256

# Shortest interval between two reconnects to a name because its server has said that it cannot take writes.
LEAVE_EVERY_S = 0.5

# Silence after which a subscriber pings the server; after as long again without an answer it leaves.
QUIET_S = 5.0

# Answers that mean "not now" rather than "never": LOADING, READONLY, OOM, MASTERDOWN. RuntimeError is what uvloop
# raises where the connection was reset while nobody waited.
_AWAY = (
    OSError,
    RuntimeError,
    TimeoutError,
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.ReadOnlyError,
    redis_errors.OutOfMemoryError,
    redis_errors.MasterDownError,
)

# The same for errors without a class in the library. Before Redis 7 an error in a script is quoted in another error.
_NOT_NOW = re.compile(r"(?:^|: -)(BUSY|MISCONF|NOREPLICAS|OOM|READONLY|MASTERDOWN) ")

# Answers of a server that may have been replaced: it is a replica now, its master or replicas are away, or its cluster
# is down.
_NOT_THE_ONE = (redis_errors.ReadOnlyError, redis_errors.ClusterDownError)
_ISOLATED = ("NOREPLICAS", "READONLY", "MASTERDOWN")

# Sent to the node that a slot is moving to. It holds for the next command only, or for a whole transaction.
_ASKING: Command = ("ASKING",)


@dataclass(slots=True)
class _Call:
    """Commands to be sent one after the other, and the future of their replies."""

    commands: Sequence[Command]
    replies: asyncio.Future[list[Any]]


class _TlsConnection(aioredis.SSLConnection):
    """Reads the certificates before a request waits for them, and disconnects at once."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Reading them takes half a budget. If they cannot be read, connecting raises the error again.
        with suppress(OSError, TypeError, ValueError):
            self.ssl_context.get()

    async def disconnect(self, *arguments: Any, **options: Any) -> None:
        """Disconnect without a TLS shutdown: asyncio would wait half a minute for that of a server that hangs."""
        if self._writer is not None:
            self._writer.transport.abort()
        await super().disconnect(*arguments, **options)


class RedisConnection:
    """Makes calls, each round trip within ``timeout_s`` including connecting. No call is sent twice.

    Raises:
        SettingsError: at construction, if the URL has invalid options.
        StoreUnavailable: the server is away, too slow, or unable to serve now.
        StoreError: any other error that the server answers.
    """

    slotted = False

    def __init__(self, url: str, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        try:
            # No retries: a call that timed out may have charged. No timeouts besides the budget.
            pool: Any = aioredis.ConnectionPool.from_url(
                url,
                protocol=2,
                socket_timeout=None,
                socket_connect_timeout=None,
                retry=Retry(NoBackoff(), 0),
                client_name="shieldmw",
            )
            if pool.connection_class is aioredis.SSLConnection:
                pool.connection_class = _TlsConnection
            self._connection = pool.make_connection()
        except (TypeError, ValueError, redis_errors.RedisError) as error:
            raise SettingsError([problem("redis_url", url, f"an option cannot be used ({error})")]) from None
        self._pool = pool
        self._waiting: list[_Call] = []
        self._owner: asyncio.Task[None] | None = None
        self._retired = False
        self._is_the_one = True
        self._left_s = float("-inf")
        self._scripts = {name: source(name) for name in NAMES}
        self._digests: dict[str, str] = {}

    async def run(
        self, script: str, keys: Sequence[str], arguments: Sequence[str | int | bytes], *, asking: bool = False
    ) -> object:
        """Run a script by its digest; load it first if the server does not know it."""
        if script not in self._digests:
            await self._load(script)
        command: Command = ("EVALSHA", self._digests[script], len(keys), *keys, *arguments)
        try:
            return await self.command(*command, asking=asking)
        except _ScriptForgotten:
            await self._load(script)
            return await self.command(*command, asking=asking)

    async def command(self, *command: str | int | bytes, asking: bool = False) -> Any:
        """Send one command, with ASKING before it if ``asking``."""
        *_, reply = await self._call([_ASKING, command] if asking else [command])
        return _checked(reply)

    async def transaction(self, *commands: Command, asking: bool = False) -> list[Any]:
        """Send several commands as a transaction: all or none are carried out."""
        before = [_ASKING] if asking else []
        *queued, replies = await self._call([*before, ("MULTI",), *commands, ("EXEC",)])
        for reply in (*queued, replies):
            _checked(reply)
        return [_checked(reply) for reply in replies]

    async def messages(self, channel: str) -> AsyncGenerator[bytes, None]:
        """The messages of a channel, preceded by an empty one once we are subscribed.

        Fails if we leave the server for another, or if it falls silent: the caller then subscribes again.
        """
        client: Any = aioredis.Redis(connection_pool=self._pool)
        pubsub = client.pubsub()
        try:
            with _TRANSLATED:
                async with Budget(self._timeout_s):
                    await pubsub.subscribe(channel)
                    await pubsub.get_message(timeout=None)  # the confirmation
            yield b""
            asked = False
            while True:
                with _TRANSLATED:
                    message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=QUIET_S)
                    if message is None and asked:
                        raise StoreUnavailable("the server subscribed to has fallen silent")
                    asked = message is None
                    if asked:
                        await pubsub.ping()
                if message is not None and message["type"] == "message":
                    yield message["data"]
        finally:
            await pubsub.aclose()

    async def infos(self) -> Mapping[str, bytes]:
        """The server's INFO."""
        return {"": await self.command("INFO")}

    async def retire(self) -> None:
        """Close the connection once its calls have ended, and any that a later call opens; subscribers are cut off."""
        self._retired = True
        await self._pool.disconnect()
        if self._owner is None or self._owner.done():
            await self._connection.disconnect(nowait=True)

    async def aclose(self) -> None:
        """Close the connection; a later call opens a new one."""
        if self._owner is not None:
            self._owner.cancel()
            await asyncio.gather(self._owner, return_exceptions=True)
            self._end((), StoreUnavailable("closed"))  # a task that was cancelled before it began has told nobody
        await self._connection.disconnect(nowait=True)
        await self._pool.disconnect()

    async def _load(self, script: str) -> None:
        self._digests[script] = (await self.command("SCRIPT", "LOAD", self._scripts[script])).decode("ascii")

    async def _call(self, commands: Sequence[Command]) -> list[Any]:
        """Queue commands for the next round trip and wait for their replies."""
        call = _Call(commands, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        if self._owner is None or self._owner.done():
            self._owner = asyncio.create_task(self._own(), name="shieldmw store")
        return await call.replies

    async def _own(self) -> None:
        """Make round trips while calls are waiting. If one fails, the calls that queue behind it fail with it."""
        calls: list[_Call] = []
        try:
            while self._waiting:
                calls, self._waiting = self._waiting[:MOST_CALLS], self._waiting[MOST_CALLS:]
                await self._round_trip(calls)
            if self._retired:
                await self._connection.disconnect(nowait=True)
        except StoreError as error:
            self._end(calls, error)
        except asyncio.CancelledError:
            self._end(calls, StoreUnavailable("closed"))
            raise
        except Exception as error:  # a reply that the library fails to read, or a mistake: nobody may wait for ever
            self._end(calls, StoreError(_text(error)))

    def _end(self, calls: Sequence[_Call], error: StoreError) -> None:
        """Fail the calls under way, and those that are waiting and have not been sent."""
        for call in calls:
            _fail(call, type(error)(*error.args))
        for call in self._waiting:
            _fail(call, NotApplied(*error.args))
        self._waiting = []

    async def _round_trip(self, calls: Sequence[_Call]) -> None:
        connection = self._connection
        commands = [command for call in calls for command in call.commands]
        sent = False
        try:
            with _TRANSLATED:
                async with Budget(self._timeout_s):
                    if not connection.is_connected:
                        await connection.connect()
                    sent = True
                    await connection.send_packed_command(_packed(commands), check_health=False)
                    for call in calls:
                        replies = [await self._reply() for _ in call.commands]
                        if not call.replies.done():
                            call.replies.set_result(replies)
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if isinstance(error, StoreUnavailable) and not sent:
                raise NotApplied(*error.args) from error
            raise
        if not self._is_the_one:
            self._is_the_one = True
            await self._leave()

    async def _reply(self) -> Any:
        """Read one reply. An error that the server answers is returned, not raised, since more replies follow it."""
        try:
            return await self._connection.read_response()
        except redis_errors.ResponseError as error:
            if isinstance(error, _NOT_THE_ONE) or _code(error) in _ISOLATED:
                self._is_the_one = False
            return error

    async def _leave(self) -> None:
        """Close all connections, including subscribers', unless that was just done: the next call resolves the name
        again."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._left_s >= LEAVE_EVERY_S:
            self._left_s = now_s
            await self._connection.disconnect(nowait=True)
            await self._pool.disconnect()


def _packed(commands: Sequence[Command]) -> bytes:
    """Pack commands as redis-py does, but with hiredis, which is faster."""
    return b"".join([pack_command(command) for command in commands])  # type: ignore[arg-type]  # of any length


class _ScriptForgotten(StoreError):
    """The server does not know the script, and did nothing."""


def _checked(reply: Any) -> Any:
    if isinstance(reply, redis_errors.NoScriptError):
        raise _ScriptForgotten(str(reply))
    if isinstance(reply, Exception):
        raise _failure(reply)
    return reply


def _failure(reply: Exception) -> StoreError:
    """Our exception for the server's error."""
    text = _text(reply)
    if isinstance(reply, redis_errors.MovedError):  # first: in the library it is a subclass of AskError
        return Moved(text, reply.host, reply.port)
    if isinstance(reply, redis_errors.AskError):
        return Asked(text, reply.host, reply.port)
    if isinstance(reply, redis_errors.NoPermissionError) or "NOPERM " in text:  # also if it aborts a transaction
        return NotPermitted(text)
    if isinstance(reply, redis_errors.TryAgainError):
        return TryAgain(text)
    if isinstance(reply, redis_errors.ClusterDownError):
        return ClusterDown(text)
    return NotApplied(text) if isinstance(reply, _AWAY) or _code(reply) else StoreError(text)


def _code(error: Exception) -> str:
    """The code that says why a server cannot serve now; '' for any other error."""
    found = _NOT_NOW.search(str(error))
    return found[1] if found else ""


def _fail(call: _Call, error: StoreError) -> None:
    if not call.replies.done():
        call.replies.set_exception(error)


def _text(error: BaseException) -> str:
    return f"{type(error).__name__} {error}".strip()


class _Translated:
    """Translates the library's errors into ours, in this one place."""

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, _AWAY):
            raise StoreUnavailable(_text(error)) from error
        if isinstance(error, redis_errors.NoPermissionError):
            raise NotPermitted(_text(error)) from error
        if isinstance(error, redis_errors.RedisError):
            raise StoreError(_text(error)) from error


_TRANSLATED = _Translated()


def pairs(flat: Sequence[Any]) -> Mapping[bytes, Any]:
    """A flat reply of names and values, as a mapping.

    Raises:
        StoreError: it is not such a reply.
    """
    try:
        return dict(zip(flat[::2], flat[1::2], strict=True))
    except (TypeError, ValueError):
        raise StoreError("a reply of the store is not a list of names and values") from None
