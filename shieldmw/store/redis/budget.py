"""Time limits for the store. Delays of this process do not count against it: the reply may have arrived, unread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

# Lateness of a timer from which on the event loop counts as blocked.
LATE_S = 0.005

# Shortest delay: uvloop rounds delays to milliseconds, and with 0 the loop would spin.
TICK_S = 0.001


class Deadline:
    """Calls ``expired`` ``seconds`` after ``start``, unless ``stop`` comes first. If the event loop was late, the time
    is extended once by that delay, at most by ``seconds``.

    ``stop`` does not cancel the timer but leaves it for the next ``start``, so few of these need a new timer.
    """

    __slots__ = ("_at_s", "_expired", "_extended", "_seconds", "_timer")

    def __init__(self, seconds: float, expired: Callable[[], None]) -> None:
        self._seconds = seconds
        self._expired = expired
        self._at_s: float | None = None
        self._extended = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def running(self) -> bool:
        """Whether it was started, and neither stopped nor expired."""
        return self._at_s is not None

    def start(self) -> None:
        """Start, or start again."""
        self._at_s = asyncio.get_running_loop().time() + self._seconds
        self._extended = False
        if self._timer is None:
            self._arm(self._seconds)

    def stop(self) -> None:
        """Do not expire."""
        self._at_s = None

    def close(self) -> None:
        """Stop, and leave no timer behind."""
        self._at_s = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, delay_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._ring)

    def _ring(self) -> None:
        """Expire, or wait longer, if the timer was set by an earlier start or the loop was late."""
        self._timer = None
        if self._at_s is None:
            return
        late_s = asyncio.get_running_loop().time() - self._at_s
        if late_s < 0:
            self._arm(max(-late_s, TICK_S))
        elif late_s > LATE_S and not self._extended:
            self._extended = True
            more_s = min(late_s, self._seconds)
            self._at_s += late_s + more_s
            self._arm(more_s)
        else:
            self._at_s = None
            self._expired()


@asynccontextmanager
async def budget(seconds: float) -> AsyncGenerator[None]:
    """End the block when its ``Deadline`` expires.

    Raises:
        TimeoutError: the budget is used up.
    """
    async with asyncio.timeout(None) as limit:
        deadline = Deadline(seconds, lambda: limit.reschedule(asyncio.get_running_loop().time()))
        deadline.start()
        try:
            yield
        finally:
            deadline.close()
