"""The audience: many raw sockets in one process, half of them members with tokens, half guests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, cast

from benchmarks.audience_app import LIVE_PATH, WELCOME
from shieldmw.rehearsal.load.tokens import Issuer

# Listeners that connect at once: enough to keep the worker busy, few enough that none waits long.
_AT_ONCE: Final = 64
_BEGIN_WITHIN_S: Final = 30.0
_TAIL: Final = 400


@dataclass(frozen=True, slots=True)
class Seeker:
    """A client that wants to listen: its address, and its token (None for a guest)."""

    source: str
    token: str | None

    def request(self, host: str) -> bytes:
        """The request as bytes."""
        lines = [f"GET {LIVE_PATH} HTTP/1.1", f"Host: {host}", "Accept: text/event-stream"]
        if self.token is not None:
            lines.append(f"Authorization: Bearer {self.token}")
        return "\r\n".join([*lines, "", ""]).encode()


class Listener(asyncio.Protocol):
    """One connection: whether it got a seat, whether it was told why it was evicted, and when it ended."""

    __slots__ = ("_request", "_tail", "_transport", "began", "ended_s", "member", "seated", "shed")

    def __init__(self, request: bytes, *, member: bool) -> None:
        self.member = member
        self.began: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.seated = self.shed = False
        self.ended_s: float | None = None
        self._request = request
        self._tail = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one, but does not subclass it
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Update the state of this listener."""
        self._tail = (self._tail + data)[-_TAIL:]
        if not self.seated and WELCOME in self._tail:
            self.seated = True
            self._has_begun()
        self.shed = self.shed or b"event: shed" in self._tail
        refused = not self.seated and b" 503 " in data.split(b"\r\n", 1)[0]
        if refused or self._tail.endswith(b"\r\n0\r\n\r\n"):
            self.leave()

    def connection_lost(self, exc: Exception | None) -> None:
        """The server closed it, or we did."""
        self._ended()

    def leave(self) -> None:
        """Close the connection."""
        self._ended()
        if self._transport is not None:
            self._transport.close()

    def _ended(self) -> None:
        if self.ended_s is None:
            self.ended_s = time.monotonic()
            self._has_begun()

    def _has_begun(self) -> None:
        if not self.began.done():
            self.began.set_result(None)


class Crowd:
    """All listeners of one worker."""

    def __init__(self, host: str, port: int, members: Sequence[Seeker], guests: Sequence[Seeker]) -> None:
        self._host, self._port = host, port
        self._seekers = {True: members, False: guests}
        self._listeners: dict[Seeker, Listener] = {}

    def listening(self, *, member: bool | None = None) -> int:
        """The number of listeners that have a seat now."""
        return sum(
            entry.seated and entry.ended_s is None and member in (None, entry.member)
            for entry in self._listeners.values()
        )

    def gone(self, *, member: bool) -> list[Listener]:
        """Listeners that have been seated and have ended."""
        return [
            entry
            for entry in self._listeners.values()
            if entry.seated and entry.ended_s is not None and entry.member is member
        ]

    async def come(self, progress: Callable[[int, int], None]) -> float:
        """Connect all listeners that are not connected, members and guests alternating; returns the seconds it took."""
        wanted = [seeker for pair in zip(*self._seekers.values(), strict=True) for seeker in pair]
        coming = iter([seeker for seeker in wanted if not self._is_here(seeker)])
        started_s = time.monotonic()

        async def lane() -> None:
            for seeker in coming:
                await self._seat(seeker)

        lanes = asyncio.gather(*(lane() for _ in range(_AT_ONCE)))
        while not lanes.done():
            await asyncio.wait([lanes], timeout=2)
            progress(self.listening(), len(wanted))
        await lanes
        return time.monotonic() - started_s

    async def until_at_most(self, count: int, within_s: float) -> bool:
        """Wait until no more than ``count`` listen; False if that takes longer."""
        until_s = time.monotonic() + within_s
        while self.listening() > count:
            if time.monotonic() > until_s:
                return False
            await asyncio.sleep(0.05)
        return True

    async def leave(self) -> None:
        """Disconnect everybody."""
        for entry in self._listeners.values():
            entry.leave()
        await asyncio.sleep(0.5)
        self._listeners.clear()

    def _is_here(self, seeker: Seeker) -> bool:
        entry = self._listeners.get(seeker)
        return entry is not None and entry.ended_s is None

    async def _seat(self, seeker: Seeker) -> None:
        loop = asyncio.get_running_loop()
        listener = Listener(seeker.request(self._host), member=seeker.token is not None)
        self._listeners[seeker] = listener
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(_BEGIN_WITHIN_S):
                await loop.create_connection(lambda: listener, self._host, self._port, local_addr=(seeker.source, 0))
                await listener.began
            return
        listener.leave()


def members(count: int, issuer: Issuer) -> list[Seeker]:
    """Members: a subject each, behind a few addresses."""
    return [Seeker(f"127.0.3.{1 + n % 8}", issuer.token(f"member-{n:05}")) for n in range(count)]


def guests(count: int) -> list[Seeker]:
    """Guests: an address each. All of 127.0.0.0/8 is this machine."""
    return [Seeker(f"127.1.{n // 250}.{1 + n % 250}", None) for n in range(count)]
