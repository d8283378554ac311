"""Finds the exchanges that take their time, so that a quick one needs no timer: uvloop's cost as much as a parser."""

from __future__ import annotations

import asyncio
from typing import Protocol

# Exchanges are looked at after one to two such periods.
PERIOD_S = 0.05


class Watched(Protocol):
    """An exchange."""

    def look(self) -> None:
        """It has lasted for a while: from now on it watches itself."""


class Watchlist:
    """The exchanges of one event loop that have just begun."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._new: set[Watched] = set()
        self._older: set[Watched] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, exchange: Watched) -> None:
        """An exchange has begun."""
        self._new.add(exchange)
        if self._timer is None:
            self._timer = self._loop.call_later(PERIOD_S, self._tick)

    def remove(self, exchange: Watched) -> None:
        """An exchange has ended."""
        self._new.discard(exchange)
        self._older.discard(exchange)

    def _tick(self) -> None:
        slow, self._older, self._new = self._older, self._new, set()
        self._timer = self._loop.call_later(PERIOD_S, self._tick) if self._older else None
        for exchange in slow:
            exchange.look()
