"""Looking again for servers that may have changed, in the background of use: one look at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from shieldmw.errors import StoreError, StoreUnavailable

from .budget import Budget


class TopologyRefresher:
    """Calls ``look`` each ``every_s`` while it is told of use, and sooner where it is told that something failed.

    ``look`` fails with ``StoreError``; then it is tried again, after ``least_s`` at the earliest. It may take longer
    than anybody waits for it: that is ``within_s`` at most.
    """

    def __init__(self, look: Callable[[], Awaitable[None]], *, every_s: float, least_s: float, within_s: float) -> None:
        self._look = look
        self._within_s = within_s
        self._every_s = every_s
        self._least_s = least_s
        self._ended_s = float("-inf")
        self._looking: asyncio.Task[StoreError | None] | None = None

    def used(self) -> None:
        """What was found is in use: look again if the last time is long ago. Waits for nothing."""
        self._begin_after(self._every_s)

    def suspect(self) -> None:
        """What was found may no longer hold: look again soon. Waits for nothing."""
        self._begin_after(self._least_s)

    async def now(self) -> None:
        """Look and wait for the end; several who wait share one look.

        Raises:
            StoreError: nothing was found.
            StoreUnavailable: nor will it be in time.
        """
        looking = self._begin()
        try:
            async with Budget(self._within_s):
                # Shielded: a request that goes away while waiting must not end it for the others.
                error = await asyncio.shield(looking)
        except TimeoutError:
            raise StoreUnavailable("those that were asked where the store is have not answered yet") from None
        if error is not None:
            raise type(error)(*error.args)

    async def aclose(self) -> None:
        """Look no longer."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
            self._looking = None

    def _begin_after(self, pause_s: float) -> None:
        """Begin to look where the last look ended so long ago."""
        if asyncio.get_running_loop().time() - self._ended_s >= pause_s:
            self._begin()

    def _begin(self) -> asyncio.Task[StoreError | None]:
        """The look under way, or a new one."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._run(), name="shieldmw topology")
        return self._looking

    async def _run(self) -> StoreError | None:
        try:
            await self._look()
        except StoreError as error:
            return error
        except asyncio.CancelledError:
            return StoreUnavailable("closed")  # which is what those who wait are told
        finally:
            self._ended_s = asyncio.get_running_loop().time()
            self._looking = None
        return None
