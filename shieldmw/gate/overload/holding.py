"""Holds the answers of shed requests back for a moment: clients that ask again the moment they are answered would
spend on refusals what the app could use.

Nobody gets a task or a timer of their own: what is held lies in slots of time, and one timer empties them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import uniform

SLOT_S = 0.02

# Each answer is held for so much less or more, so that what was shed in one turn does not come back in one.
SPREAD = 0.25

# A refusal costs a worker about a tenth of a millisecond. Where more are held than are answered so often a second each
# is held longer, but only ``LONGER`` times: otherwise a large botnet spends on refusals what the app could use.
MOST_A_SECOND = 800
LONGER = 3

# Answers held at once; each keeps its request in memory. What comes beyond them is answered at once.
MOST_HELD = 4096


class Holding:
    """Answers held for about ``hold_s`` seconds, longer where many are; 0 holds none."""

    def __init__(self, hold_s: float, spread: Callable[[float, float], float] = uniform) -> None:
        self._hold_s = hold_s
        self._spread = spread
        self._slots: dict[int, list[asyncio.Future[None]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.held = 0

    async def stay(self) -> None:
        """Return when it is time to answer."""
        if not self._hold_s or self.held >= MOST_HELD:
            return
        loop = asyncio.get_running_loop()
        hold_s = min(max(self._hold_s, self.held / MOST_A_SECOND), self._hold_s * LONGER)
        due_s = loop.time() + hold_s * self._spread(1 - SPREAD, 1 + SPREAD)
        let_go = loop.create_future()
        self._slots.setdefault(int(due_s / SLOT_S), []).append(let_go)
        if self._timer is None:
            self._timer = loop.call_later(SLOT_S, self._let_go, loop)
        self.held += 1
        try:
            await let_go
        finally:
            self.held -= 1

    def _let_go(self, loop: asyncio.AbstractEventLoop) -> None:
        now = int(loop.time() / SLOT_S)
        for slot in [slot for slot in self._slots if slot <= now]:
            for held in self._slots.pop(slot):
                if not held.done():
                    held.set_result(None)
        self._timer = loop.call_later(SLOT_S, self._let_go, loop) if self._slots else None
