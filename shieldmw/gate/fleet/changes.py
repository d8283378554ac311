"""Receives announcements of changes that other workers and operators make in the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from shieldmw.core.text import harmless
from shieldmw.errors import NotPermitted
from shieldmw.store.port import ChangeFeed

log = logging.getLogger(__name__)


class ChangeListener:
    """Passes on announced changes. Announcements are only hints: missed changes are found by polling."""

    AGAIN_S = 1.0  # pause before subscribing again

    def __init__(self, feed: ChangeFeed, heard: Callable[[str], None]) -> None:
        self._feed = feed
        self._heard = heard
        self._task: asyncio.Task[None] | None = None
        self._warned = False

    async def start(self) -> None:
        """Listen in the background."""
        self._task = asyncio.create_task(self._listen(), name="shieldmw changes")

    async def stop(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _listen(self) -> None:
        while True:
            try:
                async for change in self._feed.changes():
                    self._heard(change)
            except NotPermitted as error:
                if not self._warned:
                    log.warning("changes in the store are only polled: its user may not listen (%s)", harmless(error))
                self._warned = True
            except Exception as error:
                log.debug("changes in the store are not heard, only polled: %s", harmless(error))
            await asyncio.sleep(self.AGAIN_S)
