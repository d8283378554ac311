"""Keeps the list of servers to call up to date: one refresh at a time, in the background, while they are in use."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from shieldmw.errors import StoreError, StoreUnavailable

from .budget import budget


class TopologyRefresher:
    """Calls ``refresh`` every ``every_s`` while the servers are in use, and sooner after a failure.

    If ``refresh`` fails, with ``StoreError``, it is tried again after ``least_s`` at the earliest. It may take longer
    than callers wait for it, which is ``within_s`` at most.
    """

    def __init__(
        self, refresh: Callable[[], Awaitable[None]], *, every_s: float, least_s: float, within_s: float
    ) -> None:
        self._refresh = refresh
        self._within_s = within_s
        self._every_s = every_s
        self._least_s = least_s
        self._ended_s = float("-inf")
        self._refreshing: asyncio.Task[StoreError | None] | None = None

    def used(self) -> None:
        """Note that the servers are in use: refresh if ``every_s`` has passed. Does not wait."""
        self._begin_after(self._every_s)

    def suspect(self) -> None:
        """Note that the servers may have changed: refresh soon. Does not wait."""
        self._begin_after(self._least_s)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Call ``suspect`` if the block fails because a server is away."""
        try:
            yield
        except StoreUnavailable:
            self.suspect()
            raise

    async def now(self) -> None:
        """Refresh, and wait for the result; concurrent callers share one.

        Raises:
            StoreError: nothing was found.
            StoreUnavailable: it takes too long.
        """
        refreshing = self._begin()
        try:
            async with budget(self._within_s):
                # Shielded: a request that is cancelled while waiting must not end it for the others.
                error = await asyncio.shield(refreshing)
        except TimeoutError:
            raise StoreUnavailable("the servers that know where the store is have not answered in time") from None
        if error is not None:
            raise type(error)(*error.args)

    async def aclose(self) -> None:
        """End the refresh under way."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
            self._refreshing = None

    def _begin_after(self, pause_s: float) -> None:
        """Start a refresh if the last one ended at least ``pause_s`` ago."""
        if asyncio.get_running_loop().time() - self._ended_s >= pause_s:
            self._begin()

    def _begin(self) -> asyncio.Task[StoreError | None]:
        """The refresh under way, or a new one."""
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._run(), name="shieldmw topology")
        return self._refreshing

    async def _run(self) -> StoreError | None:
        try:
            await self._refresh()
        except StoreError as error:
            return error
        except asyncio.CancelledError:
            return StoreUnavailable("closed")  # for callers that wait for it
        finally:
            self._ended_s = asyncio.get_running_loop().time()
            self._refreshing = None
        return None
