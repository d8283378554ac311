"""The store, made safe to ask: within its budget, behind a breaker, with local buckets to fall back on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from shieldmw.core.bucket import Ask, Charges, Outcome, shared
from shieldmw.core.decision import OnStoreFailure
from shieldmw.errors import StoreError
from shieldmw.store.memory import MemoryBuckets
from shieldmw.store.port import TakenInPart

from .batch import Called, Calls, Told
from .breaker import Breaker

log = logging.getLogger(__name__)


class WatchedStore:
    """The store as it is called. The breaker hears of each call once, however many requests go with it."""

    def __init__(self, store: Called, on_failure: OnStoreFailure, now_s: Callable[[], float] = time.monotonic) -> None:
        self.on_failure = on_failure
        self._store = store
        self._now_s = now_s
        self._breaker = Breaker()

    @property
    def is_away(self) -> bool:
        """Whether the store is left alone, but for probes."""
        return self._breaker.is_open

    def may_be_asked(self) -> bool:
        """Whether to ask now; while the store is away that is the probe, and whoever hears yes must make it."""
        return not self._breaker.is_open or self._breaker.permits(self._now_s())

    async def take(self, asks: Sequence[Ask]) -> Sequence[Outcome]:
        """One call."""
        is_probe = self._breaker.is_open
        try:
            outcomes = await self._store.take(asks)
        except TakenInPart:
            # Some of its servers answer: to leave all of them alone would fail their clients too.
            self._succeeded()
            raise
        except asyncio.CancelledError:
            # Whoever goes away says nothing about the store, but must not hold up the probes.
            if is_probe:
                self._breaker.abandoned()
            raise
        except Exception as error:
            self._failed(error)
            raise
        self._succeeded()
        return outcomes

    async def aclose(self) -> None:
        """Give back connections. What was to be a probe may never have been called."""
        self._breaker.abandoned()
        await self._store.aclose()

    def _succeeded(self) -> None:
        if self._breaker.succeeded(self._now_s()):
            log.warning("the store answers again")

    def _failed(self, error: Exception) -> None:
        if self._breaker.failed(self._now_s()):
            log.warning("the store is away (%s): deciding '%s' until it answers", error, self.on_failure)


class GuardedStore:
    """Takes charges from the store, or while it is away as its ``on_failure`` says.

    ``calls`` are how the watched store is asked. ``local`` buckets are kept warm: they remember what the store
    last said of each bucket, so that an outage does not fill anybody's bucket again. They decide by this worker's
    share of each limit, since ``workers`` others, this one among them, may decide by theirs.
    """

    def __init__(self, store: WatchedStore, calls: Calls, local: MemoryBuckets, workers: Callable[[], int]) -> None:
        self._store = store
        self._calls = calls
        self._local = local
        self._workers = workers
        self._is_local = store.on_failure is OnStoreFailure.LOCAL

    async def take(self, ask: Ask) -> Told | None:
        """What becomes of the ask; None where the store is away and nothing stands in for it."""
        if self._store.may_be_asked():
            try:
                told = await self._calls.take(ask)
            except StoreError:
                pass  # the watched store has heard of it
            else:
                if self._is_local:
                    self._local.remember(ask.charges, told.outcome)
                return told
        return self._take_here(ask.charges) if self._is_local else None

    def _take_here(self, charges: Charges) -> Told:
        charges = shared(charges, self._workers())
        return Told(charges, self._local.take_now(charges), None)

    @property
    def is_away(self) -> bool:
        """Whether the store is left alone, but for probes."""
        return self._store.is_away

    def forget(self) -> None:
        """Forget what the local buckets remember, because somebody's were made full again."""
        self._local.clear()

    async def aclose(self) -> None:
        """End the call under way."""
        await self._calls.aclose()
