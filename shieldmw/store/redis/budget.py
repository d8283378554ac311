"""The time budget of a call: bounds the wait for the store, not counting delays of this process itself."""

from __future__ import annotations

import asyncio
from types import TracebackType

# Lateness of a timer from which on the event loop counts as blocked: the reply may have arrived, unread.
LATE_S = 0.005


class Budget:
    """Ends the block after ``seconds``. If the loop itself was late, the block gets that much longer, once.

    A class rather than a generator, for speed: it wraps every call to the store.

    Raises:
        TimeoutError: the budget is used up.
    """

    __slots__ = ("_deadline_s", "_limit", "_loop", "_seconds", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def __aenter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = asyncio.timeout(None)
        await self._limit.__aenter__()
        self._deadline_s = self._loop.time() + self._seconds
        self._timer = self._loop.call_at(self._deadline_s, self._spent)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        await self._limit.__aexit__(kind, error, trace)

    def _spent(self) -> None:
        late_s = self._loop.time() - self._deadline_s
        if late_s > LATE_S:
            self._timer = self._loop.call_later(min(late_s, self._seconds), self._end)
        else:
            self._end()

    def _end(self) -> None:
        self._limit.reschedule(self._loop.time())
