"""Shared by the tests of the watches: a clock that is set by hand, a store that fails, and workers that watch it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from gate.doubles import clock_of
from shieldmw import Settings
from shieldmw.core.bucket import EPOCH_S
from shieldmw.core.mode import Mode, ModeChange
from shieldmw.core.overrides import Overrides
from shieldmw.core.rules import Scope
from shieldmw.errors import StoreError, StoreUnavailable
from shieldmw.gate.fleet.limits_watch import LimitsWatch
from shieldmw.gate.fleet.mode_watch import ModeWatch
from shieldmw.store.memory import MemoryStore
from shieldmw.store.port import C, Document, S, Stored

EMERGENCY = ModeChange(Mode.EMERGENCY, "ops", "attack", for_s=600)
NORMAL = ModeChange(Mode.NORMAL, "ops", "over")
STRICT = Overrides({"SHIELD_IP_LIMIT": "3/minute"})


@dataclass
class Clock:
    """A clock that is set by hand: the store's and the worker's differ by an offset."""

    now_s: float = EPOCH_S + 1_000_000.0
    worker_behind_s: float = EPOCH_S + 999_000.0

    def store_us(self) -> int:
        """The store's clock, as the store counts."""
        return int((self.now_s - EPOCH_S) * 1_000_000)

    def worker_s(self) -> float:
        """The worker's own, which began at another time."""
        return self.now_s - self.worker_behind_s


class FailingStore(MemoryStore):
    """A store that can be away, lose everything, and have what others wrote."""

    away = False
    foreign = False
    on_reply: Callable[[], None] = staticmethod(lambda: None)

    async def document(self, kind: Document[C, S]) -> Stored[S]:
        """It, if it can be read; the answer comes a turn later, as a real one does."""
        self._check()
        if self.foreign:
            raise StoreError("cannot be read")
        stored = await super().document(kind)
        await asyncio.sleep(0)
        self.on_reply()
        return stored

    async def set_document(
        self, kind: Document[C, S], change: C, *, was: S, expected_version: int | None
    ) -> tuple[bool, Stored[S]]:
        """Change it, if it is not away."""
        self._check()
        if self.foreign and expected_version is not None:
            raise StoreError("cannot be read")
        self.foreign = False
        return await super().set_document(kind, change, was=was, expected_version=expected_version)

    async def restore_document(self, kind: Document[C, S], state: S) -> Stored[S]:
        """Restore it, if it is not away."""
        self._check()
        return await super().restore_document(kind, state)

    def lose(self) -> None:
        """Come back empty."""
        self._documents = {}

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailable("away")


class ModeWorker:
    """A worker's mode over a store, and whether it was an emergency each time it was told of a change.

    ``ended`` is what the audit log has of an end, and why; ``lost`` what is logged of a lost version.
    """

    ended = ("normal", "its end time has come")
    lost = "the store had lost mode version 1: it is restored"

    def __init__(self, store: MemoryStore, clock: Clock) -> None:
        self.told: list[bool] = []
        self.watch = ModeWatch(store, clock_of(clock.worker_s))
        self.watch.on_change = lambda: self.told.append(self.is_on)

    @property
    def is_on(self) -> bool:
        """Whether there is an emergency."""
        return self.watch.mode is Mode.EMERGENCY

    async def turn(self, on: bool, expected_version: int | None = None) -> bool:
        """An operator declares an emergency of ten minutes, or ends it."""
        return await self.watch.set(EMERGENCY if on else NORMAL, expected_version)

    def tick(self) -> None:
        """Time passes."""
        self.watch.tick()


class LimitsWorker:
    """A worker's limits over a store, and whether they were strict each time it was told that they changed."""

    ended = ("as in the settings", "their end time has come")
    lost = "the store had lost limits version 1: they are restored"

    def __init__(self, store: MemoryStore, clock: Clock) -> None:
        self.told: list[bool] = []
        self.watch = LimitsWatch(store, Settings(), lambda: clock.now_s)
        self.watch.on_change = lambda: self.told.append(self.is_on)

    @property
    def amount(self) -> int:
        """The requests a minute of guests."""
        return self.watch.in_force.policy.limits(Scope.IP)[0].amount

    @property
    def is_on(self) -> bool:
        """Whether the limits are strict."""
        return self.amount == 3

    async def set(self, overrides: Overrides, for_s: int | None = None, expected_version: int | None = None) -> bool:
        """An operator's change."""
        return await self.watch.set(
            overrides, actor="ops", reason="flood", for_s=for_s, expected_version=expected_version
        )

    async def turn(self, on: bool, expected_version: int | None = None) -> bool:
        """An operator makes them strict for ten minutes, or as in the settings."""
        return await self.set(STRICT if on else Overrides(), 600 if on else None, expected_version)

    def tick(self) -> None:
        """Nothing: they end when they are refreshed."""
