"""A document that operators change, on this worker: read each second and when a change is announced."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic

from shieldmw.gate.refresher import Refresher
from shieldmw.store.port import C, Document, DocumentRegister, S, Stored

log = logging.getLogger(__name__)

# Interval between two polls.
POLL_S = 1.0


class VersionedWatch(ABC, Generic[C, S]):
    """Holds the document of the highest version that this worker has ever seen.

    Losing the store changes nothing; if the store has lost the document, it is restored. The owner sets ``on_change``,
    called when what is in force has changed. ``lost`` is logged of a version that the store had lost. ``has_read`` says
    whether the store has answered at all.
    """

    on_change: Callable[[], None]

    def __init__(self, register: DocumentRegister, kind: Document[C, S], now_s: Callable[[], float], lost: str) -> None:
        self.on_change = lambda: None
        self._register = register
        self._kind = kind
        self._now_s = now_s
        self._lost = lost
        self.state = kind.nothing
        self.has_read = False
        self.refresher = Refresher(kind.name, self.refresh, interval_s=POLL_S, least_s=POLL_S / 10)

    async def refresh(self) -> None:
        """Read the document; restore it if the store has lost it; end it at its end time."""
        asked_s, known = self._now_s(), self.state.version
        stored = await self._read()
        if stored.state.version < known:
            log.warning(self._lost, self.state.version)
            asked_s = self._now_s()
            stored = await self._register.restore_document(self._kind, self.state)
        self._adopt(stored, asked_s)
        if (ending := self._ending()) is not None:
            await self._set(ending, self.state.version)

    async def look(self) -> None:
        """Read the document without restoring or ending anything: for a process that is not a worker.

        Raises:
            StoreError: it could not be read; the known one stays.
        """
        asked_s = self._now_s()
        self._adopt(await self._register.document(self._kind), asked_s)

    def refresh_soon(self) -> None:
        """Read the document again now, since a change was announced."""
        self.refresher.refresh_soon()

    async def _set(self, change: C, expected_version: int | None) -> bool:
        """Change the document of the fleet; False if its version is not the expected one.

        Raises:
            StoreError: the store could not be changed; nothing has changed here.
        """
        asked_s = self._now_s()
        changed, stored = await self._register.set_document(
            self._kind, change, was=self.state, expected_version=expected_version
        )
        self._adopt(stored, asked_s, is_switched=changed)
        return changed

    async def _read(self) -> Stored[S]:
        return await self._register.document(self._kind)

    def _adopt(self, stored: Stored[S], asked_s: float, *, is_switched: bool = False) -> None:
        """Adopt the stored document if its version is higher. This worker has just set it if ``is_switched``."""
        self.has_read = True
        if stored.state.version > self.state.version:
            was, self.state = self.state, stored.state
            self._adopted(was)

    @abstractmethod
    def _adopted(self, was: S) -> None:
        """Apply a new state, and log it."""

    @abstractmethod
    def _ending(self) -> C | None:
        """The change that ends what is in force, if its end time has come."""
