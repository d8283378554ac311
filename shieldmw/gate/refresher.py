"""Repeats work in the background: periodically, soon after a request, and even if it fails."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from shieldmw.core.text import harmless

log = logging.getLogger(__name__)

# Default time for which a start waits for the first round.
FIRST_S = 1.0

# Minimum delay before a retry after a failure; ``least_s`` may be longer.
AGAIN_S = 0.5


class Refresher:
    """Calls ``work`` every ``interval_s``, sooner on request or after a failure, but at most every ``least_s``.

    Failures are logged when they begin and when they end, not each time.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[None]],
        *,
        interval_s: float,
        least_s: float,
        first_s: float = FIRST_S,
    ) -> None:
        self._name = name
        self._work = work
        self.interval_s = interval_s
        self.least_s = least_s
        self._first_s = first_s
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    async def start(self) -> None:
        """Start anew, and wait for the first round for at most ``first_s``; then it continues in the background."""
        await self.stop()
        first = asyncio.Event()
        self._task = asyncio.create_task(self._run(first), name=f"shieldmw {self._name}")
        try:
            async with asyncio.timeout(self._first_s):
                await first.wait()
        except TimeoutError:
            self._failed(TimeoutError(f"no answer in {self._first_s:g} s"))

    def refresh_soon(self) -> None:
        """Request a round now rather than at the end of the interval."""
        self._wanted.set()

    async def stop(self) -> None:
        """Stop; returns once a round under way is cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self, first: asyncio.Event) -> None:
        await self._once()
        first.set()
        while True:
            await asyncio.sleep(max(self.least_s, AGAIN_S) if self._failing else self.least_s)
            if not self._failing:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.interval_s - self.least_s):
                        await self._wanted.wait()
            self._wanted.clear()
            await self._once()

    async def _once(self) -> None:
        try:
            await self._work()
        except Exception as error:
            self._failed(error)
        else:
            if self._failing:
                log.warning("%s: refreshed again", self._name)
            self._failing = False

    def _failed(self, error: Exception) -> None:
        if not self._failing:
            log.warning("%s: cannot be refreshed, keeping what is known and retrying: %s", self._name, harmless(error))
        self._failing = True
