"""The connection to one Redis or Valkey server: its scripts, transactions and messages.

``round_trips`` groups calls into round trips, ``protocol`` encodes commands and decodes replies, ``dialer`` connects.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from shieldmw.errors import StoreError, StoreUnavailable
from shieldmw.store.scripts import source

from .budget import budget
from .calls import Command
from .dialer import Dialer
from .failures import ScriptForgotten, failure_of, means_server_replaced, translated
from .round_trips import RoundTrips

# Shortest interval between two reconnects because the server reports that it cannot accept writes.
LEAVE_EVERY_S = 0.5

# Silence after which a subscriber pings the server; after the same time without an answer it disconnects.
QUIET_S = 5.0

# Sent to the node that a slot is moving to. It applies to the next command only, or to a whole transaction.
_ASKING: Command = ("ASKING",)


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
        self._dialer = Dialer(url)
        self._round_trips = RoundTrips(self._dialer.connect, timeout_s, self._error_of)
        self._left_s = float("-inf")
        self._leaving: asyncio.Task[None] | None = None
        self._digests: dict[str, bytes] = {}

    async def run(
        self, script: str, keys: Sequence[str], arguments: Sequence[str | int | bytes], *, asking: bool = False
    ) -> object:
        """Run a script by its digest; load it first if the server does not know it."""
        if script not in self._digests:
            await self._load(script)
        command: Command = ("EVALSHA", self._digests[script], len(keys), *keys, *arguments)
        try:
            return await self._one(command, asking)
        except ScriptForgotten:
            await self._load(script)
            return await self._one(command, asking)

    async def command(self, *command: str | int | bytes, asking: bool = False) -> Any:
        """Send one command, with ASKING before it if ``asking``."""
        return await self._one(command, asking)

    async def transaction(self, *commands: Command, asking: bool = False) -> list[Any]:
        """Send several commands as a transaction: all or none are carried out."""
        before = [_ASKING] if asking else []
        *queued, replies = await self._round_trips.call([*before, ("MULTI",), *commands, ("EXEC",)])
        for reply in (*queued, replies):
            _checked(reply)
        if not isinstance(replies, list):
            raise StoreError(f"EXEC is answered by {replies!r:.80}: expected a list of replies")
        return [_checked(reply) for reply in replies]

    async def messages(self, channel: str) -> AsyncGenerator[bytes, None]:
        """The messages of a channel; the first is empty, and sent once we are subscribed.

        Fails if we reconnect to another server, or if this one falls silent: the caller then subscribes again.
        """
        pubsub = self._dialer.pubsub()
        try:
            with translated():
                async with budget(self._timeout_s):
                    await pubsub.subscribe(channel)
                    await pubsub.get_message(timeout=None)  # the confirmation
            yield b""
            asked = False
            while True:
                with translated():
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
        """Cut off subscribers, and close the connection once its calls have ended; likewise any opened later."""
        self._round_trips.retire()
        await self._dialer.cut_off()

    async def aclose(self) -> None:
        """Close the connection; a later call opens a new one."""
        await self._round_trips.aclose()
        await self._dialer.cut_off()

    async def _load(self, script: str) -> None:
        self._digests[script] = await self.command("SCRIPT", "LOAD", source(script))

    async def _one(self, command: Command, asking: bool) -> Any:
        replies = await self._round_trips.call((_ASKING, command) if asking else (command,))
        return _checked(replies[-1])

    def _error_of(self, reply: str) -> StoreError:
        """The exception for an error that the server answers."""
        if means_server_replaced(reply):
            self._leave()
        return failure_of(reply)

    def _leave(self) -> None:
        """Close all connections, including subscribers', unless that was just done, so that the next call resolves the
        server's name again."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._left_s >= LEAVE_EVERY_S:
            self._left_s = now_s
            self._round_trips.leave()
            self._leaving = asyncio.create_task(self._dialer.cut_off(), name="shieldmw store")


def _checked(reply: Any) -> Any:
    if isinstance(reply, StoreError):
        raise reply
    return reply
