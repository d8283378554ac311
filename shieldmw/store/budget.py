"""The budget of a call: bounds the wait for the store, not what this process was late by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# A timer that fires so late says that the event loop was kept from running: the reply may be there, unread.
LATE_S = 0.005


@asynccontextmanager
async def budget(seconds: float) -> AsyncIterator[None]:
    """Ends what is inside after ``seconds``; once, where the loop itself was late, by as much later.

    Raises:
        TimeoutError: the budget is spent.
    """
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + seconds
    async with asyncio.timeout(None) as limit:
        timer = loop.call_at(deadline_s, lambda: spent(deadline_s, patience=True))

        def spent(deadline_s: float, *, patience: bool) -> None:
            nonlocal timer
            late_s = loop.time() - deadline_s
            if patience and late_s > LATE_S:
                more_s = min(late_s, seconds)
                timer = loop.call_later(more_s, lambda: spent(loop.time(), patience=False))
            else:
                limit.reschedule(loop.time())

        try:
            yield
        finally:
            timer.cancel()
