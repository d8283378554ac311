"""Calls to one server, grouped into round trips over one connection, each within a time limit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from shieldmw.errors import NotApplied, StoreError, StoreUnavailable

from .budget import Deadline
from .calls import Command
from .failures import text_of
from .protocol import Call, ReplyProtocol

# Maximum calls in one round trip, since the first waits for the last.
MOST_CALLS = 256


class RoundTrips:
    """Makes calls in round trips, one at a time. Calls that arrive during a round trip share the next one.

    Each round trip ends within ``timeout_s``, including connecting. No call is sent twice. A call that is cancelled
    while it waits is still sent, and its replies are dropped. If a round trip fails, the connection is closed; the
    calls that were sent fail, and those that wait fail with ``NotApplied``.

    ``connect`` opens a connection for a protocol. ``error_of`` makes an exception from an error reply; it is returned
    in the reply's place, since other replies follow.
    """

    def __init__(
        self,
        connect: Callable[[ReplyProtocol], Awaitable[None]],
        timeout_s: float,
        error_of: Callable[[str], StoreError],
    ) -> None:
        self._connect = connect
        self._error_of = error_of
        too_slow = f"no answer within {timeout_s * 1000:g} ms"
        # Runs while a round trip is under way.
        self._deadline = Deadline(timeout_s, lambda: self._fail(StoreUnavailable(too_slow)))
        self._waiting: list[Call] = []
        self._connecting: asyncio.Task[None] | None = None
        self._protocol: ReplyProtocol | None = None
        self._leaves = False
        self._retired = False

    def call(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        """The replies to commands that are sent together."""
        replies: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append(Call(commands, replies))
        if not self._deadline.running:
            self._begin()
        return replies

    def leave(self) -> None:
        """Close the connection after the round trip under way: the next one resolves the server's name again."""
        self._leaves = True

    def retire(self) -> None:
        """Close the connection once its calls have ended; likewise any that a later call opens."""
        self._retired = True
        if not self._deadline.running:
            self._close()

    async def aclose(self) -> None:
        """Close the connection, and fail the calls under way; a later call opens a new one."""
        connecting = self._connecting
        self._fail(StoreUnavailable("closed"))
        self._deadline.close()
        if connecting is not None:
            await asyncio.gather(connecting, return_exceptions=True)

    def _begin(self) -> None:
        """Begin a round trip with the calls that wait."""
        self._deadline.start()
        if self._protocol is None:
            self._connecting = asyncio.create_task(self._open(), name="shieldmw store")
        else:
            self._send(self._protocol)

    async def _open(self) -> None:
        """Connect, then send the waiting calls. If this is cancelled from outside, the deadline ends the round trip."""
        protocol = ReplyProtocol(answered=self._answered, failed=self._fail, error_of=self._error_of)
        failure: StoreError | None = None
        try:
            await self._connect(protocol)
        except StoreError as error:
            failure = error
        except Exception as error:  # a bug, here or in the library: callers must not wait forever
            failure = StoreError(text_of(error))
        self._connecting = None
        if failure is not None:
            self._fail_unsent(failure)
        else:
            self._protocol = protocol
            self._send(protocol)

    def _send(self, protocol: ReplyProtocol) -> None:
        calls, self._waiting = self._waiting[:MOST_CALLS], self._waiting[MOST_CALLS:]
        protocol.send(calls)

    def _answered(self) -> None:
        """End the round trip, and begin the next one."""
        self._deadline.stop()
        if self._leaves or (self._retired and not self._waiting):
            self._close()
        if self._waiting:
            self._begin()

    def _fail(self, error: StoreError) -> None:
        """End the round trip, and close the connection: its calls fail, and those that wait fail as not sent."""
        for call in self._close():
            call.fail(error)
        self._fail_unsent(StoreUnavailable(*error.args))

    def _fail_unsent(self, error: StoreError) -> None:
        """End the round trip, and fail the calls that wait."""
        self._deadline.stop()
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call.fail(NotApplied(*error.args) if isinstance(error, StoreUnavailable) else error)

    def _close(self) -> Sequence[Call]:
        """Close the connection, or stop connecting; returns the calls that were sent and not answered."""
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
        protocol, self._protocol = self._protocol, None
        self._leaves = False
        return protocol.close() if protocol is not None else ()
