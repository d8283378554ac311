"""Holds refusals of shed requests back for a moment: otherwise clients that retry as soon as they are answered would
spend time on refusals that the app could use.

No request gets a task or timer of its own: those held are grouped into time slots, and one timer empties them.
"""

from __future__ import annotations

import asyncio

from shieldmw.gate.clock import SYSTEM_CLOCK, Clock

# Length of a time slot.
SLOT_S = 0.02

# Part by which a hold is randomly shortened or lengthened, so that requests shed in one turn do not return in one.
SPREAD = 0.25

# Maximum number of refusals answered in a second: each costs a worker about a tenth of a millisecond, which the app
# could use. If more are held than that allows, as in a large botnet's flood, each is held longer, at most ``LONGER``
# times as long.
MOST_A_SECOND = 800
LONGER = 3

# Maximum number of answers held at once, since each keeps its request in memory. Any beyond that are answered at once.
MOST_HELD = 4096


class DelayedRefusals:
    """Holds answers for about ``hold_s`` seconds, longer if there are many; 0 holds none."""

    def __init__(self, hold_s: float, clock: Clock = SYSTEM_CLOCK) -> None:
        self._hold_s = hold_s
        self._random = clock.random
        self._slots: dict[int, list[asyncio.Future[None]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.held = 0

    async def stay(self) -> None:
        """Return when it is time to answer."""
        if not self._hold_s or self.held >= MOST_HELD:
            return
        loop = asyncio.get_running_loop()
        hold_s = min(max(self._hold_s, self.held / MOST_A_SECOND), self._hold_s * LONGER)
        due_s = loop.time() + hold_s * self._random.uniform(1 - SPREAD, 1 + SPREAD)
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
