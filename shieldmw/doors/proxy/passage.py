"""What an exchange and a WebSocket have in common: what they work with, and the ways in which they end."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from starlette.types import Receive, Scope, Send

from .connection import Connection
from .failures import ClientLeft, ProxyFailure
from .heads import Heads, RequestHead
from .http1 import ResponseReader
from .interruption import Interruption
from .watchlist import Watchlist


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Limits of an exchange in seconds: for the head of the response, once the request has been sent; for any pause;
    and in all (0: none). ``upload_bytes_per_s``: the lowest rate of a request's body in the long run (0: any)."""

    head_s: float
    idle_s: float
    total_s: float
    upload_bytes_per_s: int


@dataclass(frozen=True, slots=True)
class Terms:
    """What is the same for all passages of one event loop."""

    loop: asyncio.AbstractEventLoop
    heads: Heads
    limits: TimeLimits
    watchlist: Watchlist


class Client(NamedTuple):
    """The ASGI server's side of a request."""

    scope: Scope
    receive: Receive
    send: Send


class Passage(ABC):
    """One request on its way over ``connection``, and what comes back. It may be ended from outside, by a time limit or
    by the client that leaves: then its task is cancelled, and raises the reason."""

    __slots__ = (
        *("_connection", "_heads", "_interruption", "_is_answered", "_limits", "_loop", "_receive", "_request"),
        *("_scope", "_send", "_started_s", "_timer"),
    )

    def __init__(self, connection: Connection, request: RequestHead, client: Client, terms: Terms) -> None:
        self._connection = connection
        self._request = request
        self._scope, self._receive, self._send = client
        self._loop = terms.loop
        self._heads = terms.heads
        self._limits = terms.limits
        self._timer: asyncio.TimerHandle | None = None
        self._is_answered = False

    async def run(self, authority: bytes, on_head: Callable[[], None]) -> bool:
        """Do it. ``authority`` is the upstream's own Host; ``on_head`` is called once it answers.

        Returns whether the connection can carry another request; otherwise it has been ended.

        Raises:
            ProxyFailure: there was no response, or not the whole of it.
            ClientLeft: the client has left before the end.
        """
        self._interruption = Interruption(self._loop)
        self._started_s = self._loop.time()
        try:
            return await self._pass(authority, on_head)
        except OSError as error:  # servers raise it for a client that has left
            raise ClientLeft(str(error)) from None
        except asyncio.CancelledError:
            if (reason := self._interruption.reason()) is None:
                raise
            if isinstance(reason, ProxyFailure):
                reason.is_answered = self._is_answered
            raise reason from None
        except ProxyFailure as failure:
            failure.is_answered = self._is_answered
            raise
        finally:
            self._interruption.over()
            if self._timer is not None:
                self._timer.cancel()
            await self._leave()

    async def _pass_response_body(self, reader: ResponseReader) -> None:
        """Pass on the body of a response whose head has been sent."""
        connection, send = self._connection, self._send
        while True:
            body, is_complete = reader.take(), reader.is_complete
            if body or is_complete:
                await send({"type": "http.response.body", "body": body, "more_body": not is_complete})
                connection.progress_s = self._loop.time()
            if is_complete:
                return
            if not reader.buffered and not reader.is_complete:
                await connection.readable()

    @abstractmethod
    async def _pass(self, authority: bytes, on_head: Callable[[], None]) -> bool:
        """Do it; as ``run``, which translates what is raised."""

    @abstractmethod
    async def _leave(self) -> None:
        """It is over, however it has ended: leave no task, and no connection that cannot be used again."""
