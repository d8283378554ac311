"""Looking again for servers that may have changed, in the background of use: one look at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from shieldmw.errors import StoreError, StoreUnavailable


class Lookout:
    """Calls ``look`` each ``every_s`` while it is told of use, and sooner where it is told that something failed.

    ``look`` fails with ``StoreError``; then it is tried again, after ``least_s`` at the earliest.
    """

    def __init__(self, look: Callable[[], Awaitable[None]], *, every_s: float, least_s: float) -> None:
        self._look = look
        self._every_s = every_s
        self._least_s = least_s
        self._ended_s = float("-inf")
        self._looking: asyncio.Task[StoreError | None] | None = None

    def used(self) -> None:
        """What was found is in use: look again if the last time is long ago. Waits for nothing."""
        self._begin(self._every_s)

    def doubted(self) -> None:
        """What was found may no longer hold: look again soon. Waits for nothing."""
        self._begin(self._least_s)

    async def now(self) -> None:
        """Look and wait for the end; several who wait share one look.

        Raises:
            StoreError: nothing was found.
        """
        looking = self._begin(0)
        # Shielded: whoever goes away while waiting must not end it for the others.
        error = None if looking is None else await asyncio.shield(looking)
        if error is not None:
            raise type(error)(*error.args)

    async def aclose(self) -> None:
        """Look no longer."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
            self._looking = None

    def _begin(self, pause_s: float) -> asyncio.Task[StoreError | None] | None:
        """The look under way; a new one where there is none and the last one ended so long ago."""
        if self._looking is None and asyncio.get_running_loop().time() - self._ended_s >= pause_s:
            self._looking = asyncio.create_task(self._run(), name="shieldmw lookout")
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
