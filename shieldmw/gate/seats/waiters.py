"""Requests that wait for an answer which comes in the background: one call serves all of them."""

from __future__ import annotations

import asyncio
from itertools import islice


class Waiters:
    """Requests in the order in which they are woken: those that came ``first``, then the others."""

    def __init__(self) -> None:
        self._first: dict[asyncio.Future[None], None] = {}
        self._others: dict[asyncio.Future[None], None] = {}

    def __len__(self) -> int:
        return len(self._first) + len(self._others)

    async def wait(self, *, first: bool = False) -> None:
        """Wait to be woken."""
        waiting = self._first if first else self._others
        woken = asyncio.get_running_loop().create_future()
        waiting[woken] = None
        try:
            await woken
        finally:
            waiting.pop(woken, None)

    def wake(self, most: int | None = None) -> None:
        """Wake all, or at most ``most`` of them."""
        for waiting in (self._first, self._others):
            for woken in list(islice(waiting, most)):
                del waiting[woken]
                most = None if most is None else most - 1
                if not woken.done():
                    woken.set_result(None)
