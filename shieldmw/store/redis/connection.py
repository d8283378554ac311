"""One Redis or Valkey: its connection, its scripts and its errors. The only module that imports redis.

Calls are grouped: while one round trip is under way the others queue, and the next takes them all. One task
owns the connection, so a request that goes away while waiting neither cancels a call nor shifts another's reply.
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

# Shortest interval between two reconnects to a name whose server has said that it is not the one to ask.
LEAVE_EVERY_S = 0.5

# Silence after which a subscriber pings the server; after as long again without an answer it leaves.
QUIET_S = 5.0

# Answers that mean "not now" rather than "never": LOADING, READONLY, OOM, MASTERDOWN.
_AWAY = (
    OSError,
    TimeoutError,
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.ReadOnlyError,
    redis_errors.OutOfMemoryError,
    redis_errors.MasterDownError,
)

# The same for errors without a class in the library; before Redis 7 an error in a script is quoted in another error.
_NOT_NOW = re.compile(r"(?:^|: -)(BUSY|MISCONF|NOREPLICAS|OOM|READONLY|MASTERDOWN) ")

# It is a replica now, its master or its replicas are away, or its cluster is down: there may be another in its place.
_NOT_THE_ONE = (redis_errors.ReadOnlyError, redis_errors.ClusterDownError)
_ISOLATED = ("NOREPLICAS", "READONLY", "MASTERDOWN")

# For the next command alone, at a node that a slot is on its way to; in a transaction for all of it.
_ASKING: Command = ("ASKING",)


@dataclass(slots=True)
class _Call:
    """Commands that are sent one after the other, and the future of their replies."""

    commands: Sequence[Command]
    replies: asyncio.Future[list[Any]]


class _TlsConnection(aioredis.SSLConnection):
    """Reads certificates before a request waits for them, and ends at once."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # It takes half a budget. Where they cannot be read, connecting says so again.
        with suppress(OSError, TypeError, ValueError):
            self.ssl_context.get()

    async def disconnect(self, *arguments: Any, **options: Any) -> None:
        """End without the goodbye of TLS: for that of a server that hangs asyncio would wait half a minute."""
        if self._writer is not None:
            self._writer.transport.abort()
        await super().disconnect(*arguments, **options)


class RedisConnection:
    """Calls with a budget of ``timeout_s`` a round trip, connecting included. None is sent twice.

    Raises:
        SettingsError: at construction, where the URL has options that cannot be.
        StoreUnavailable: away, too slow, or unable to serve now.
        StoreError: any other error that it answers.
    """

    slotted = False

    def __init__(self, url: str, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        try:
            # No retries: a call that timed out may have charged. No time-outs beside the budget.
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
        """Run a script by its digest; load it first where the server does not know it."""
        if script not in self._digests:
            await self._load(script)
        command: Command = ("EVALSHA", self._digests[script], len(keys), *keys, *arguments)
        try:
            return await self.command(*command, asking=asking)
        except _ScriptForgotten:
            await self._load(script)
            return await self.command(*command, asking=asking)

    async def command(self, *command: str | int | bytes, asking: bool = False) -> Any:
        """One command; ``asking`` as a node of a cluster said."""
        *_, reply = await self._call([_ASKING, command] if asking else [command])
        return _checked(reply)

    async def transaction(self, *commands: Command, asking: bool = False) -> list[Any]:
        """Several commands as one: all or none are carried out."""
        before = [_ASKING] if asking else []
        *queued, replies = await self._call([*before, ("MULTI",), *commands, ("EXEC",)])
        for reply in (*queued, replies):
            _checked(reply)
        return [_checked(reply) for reply in replies]

    async def messages(self, channel: str) -> AsyncGenerator[bytes, None]:
        """The messages of a channel, beginning with an empty one once we are subscribed.

        Fails where the server is left for another, or falls silent: then the caller subscribes again.
        """
        client: Any = aioredis.Redis(connection_pool=self._pool)
        pubsub = client.pubsub()
        try:
            with _TRANSLATED:
                async with Budget(self._timeout_s):
                    await pubsub.subscribe(channel)
                    await pubsub.get_message(timeout=None)  # that we do
            yield b""
            asked = False
            while True:
                with _TRANSLATED:
                    message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=QUIET_S)
                    if message is None and asked:
                        raise StoreUnavailable("the server that was listened to has fallen silent")
                    asked = message is None
                    if asked:
                        await pubsub.ping()
                if message is not None and message["type"] == "message":
                    yield message["data"]
        finally:
            await pubsub.aclose()

    async def infos(self) -> Mapping[str, bytes]:
        """What the server says of itself."""
        return {"": await self.command("INFO")}

    async def retire(self) -> None:
        """End the connection once its calls have ended, and each that a later call opens; listeners are cut off."""
        self._retired = True
        await self._pool.disconnect()
        if self._owner is None or self._owner.done():
            await self._connection.disconnect(nowait=True)

    async def aclose(self) -> None:
        """End the connection; a later call opens a new one."""
        if self._owner is not None:
            self._owner.cancel()
            await asyncio.gather(self._owner, return_exceptions=True)
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
        """Make round trips as long as anybody waits. Those who queue behind one that fails fail with it."""
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

    def _end(self, calls: Sequence[_Call], error: StoreError) -> None:
        """Fail those that were under way, and those that waited and were not sent."""
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
        """One reply; an error that the server answers is a value, since more replies follow it."""
        try:
            return await self._connection.read_response()
        except redis_errors.ResponseError as error:
            if isinstance(error, _NOT_THE_ONE) or _code(error) in _ISOLATED:
                self._is_the_one = False
            return error

    async def _leave(self) -> None:
        """End all connections, listeners' too, unless that was just done: the next call asks for the name again."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._left_s >= LEAVE_EVERY_S:
            self._left_s = now_s
            await self._connection.disconnect(nowait=True)
            await self._pool.disconnect()


def _packed(commands: Sequence[Command]) -> bytes:
    """As redis-py packs them, by a parser's speed."""
    return b"".join([pack_command(command) for command in commands])  # type: ignore[arg-type]  # of any length


class _ScriptForgotten(StoreError):
    """The server does not know the script, and has done nothing."""


def _checked(reply: Any) -> Any:
    if isinstance(reply, redis_errors.NoScriptError):
        raise _ScriptForgotten(str(reply))
    if isinstance(reply, Exception):
        raise _failure(reply)
    return reply


def _failure(reply: Exception) -> StoreError:
    """What the server's error means."""
    text = _text(reply)
    if isinstance(reply, redis_errors.MovedError):  # which the library holds to be an AskError, too
        return Moved(text, reply.host, reply.port)
    if isinstance(reply, redis_errors.AskError):
        return Asked(text, reply.host, reply.port)
    if isinstance(reply, redis_errors.NoPermissionError) or "NOPERM " in text:  # also for what aborts a transaction
        return NotPermitted(text)
    if isinstance(reply, redis_errors.TryAgainError):
        return TryAgain(text)
    if isinstance(reply, redis_errors.ClusterDownError):
        return ClusterDown(text)
    return NotApplied(text) if isinstance(reply, _AWAY) or _code(reply) else StoreError(text)


def _code(error: Exception) -> str:
    """The word that says why a server cannot serve now; '' for any other error."""
    found = _NOT_NOW.search(str(error))
    return found[1] if found else ""


def _fail(call: _Call, error: StoreError) -> None:
    if not call.replies.done():
        call.replies.set_exception(error)


def _text(error: BaseException) -> str:
    return f"{type(error).__name__} {error}".strip()


class _Translated:
    """The one place where the library's errors become ours."""

    def __enter__(self) -> None:
        """Nothing to begin with."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, _AWAY):
            raise StoreUnavailable(_text(error)) from error
        if isinstance(error, redis_errors.NoPermissionError):
            raise NotPermitted(_text(error)) from error
        if isinstance(error, redis_errors.RedisError):
            raise StoreError(_text(error)) from error


_TRANSLATED = _Translated()


def pairs(flat: Sequence[Any]) -> Mapping[bytes, Any]:
    """A flat reply of names and values as a mapping.

    Raises:
        StoreError: it is none.
    """
    try:
        return dict(zip(flat[::2], flat[1::2], strict=True))
    except (TypeError, ValueError):
        raise StoreError("a reply of the store is no list of names and values") from None
