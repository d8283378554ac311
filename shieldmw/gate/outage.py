"""The store, made safe to ask: within its budget, behind a breaker, with local buckets to fall back on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from shieldmw.core.bucket import Ask
from shieldmw.core.decision import OnStoreFailure
from shieldmw.errors import StoreError
from shieldmw.store.memory import MemoryBuckets

from .batch import Calls, Told
from .breaker import Breaker

log = logging.getLogger(__name__)


class GuardedStore:
    """Takes charges from the store, or while it is away as ``on_failure`` says.

    ``local`` buckets are kept warm: they remember what the store last said of each bucket, so
    that an outage does not fill anybody's bucket again.
    """

    def __init__(
        self,
        calls: Calls,
        local: MemoryBuckets,
        on_failure: OnStoreFailure,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._calls = calls
        self._local = local
        self._on_failure = on_failure
        self._now_s = now_s
        self._breaker = Breaker()

    async def take(self, ask: Ask) -> Told | None:
        """What becomes of the ask; None where the store is away and nothing stands in for it."""
        is_probe = self._breaker.is_open
        if not is_probe or self._breaker.permits(self._now_s()):
            try:
                told = await self._calls.take(ask)
            except StoreError as error:
                self._failed(error)
            except asyncio.CancelledError:
                # A caller that goes away counts as no failure, but must not hold up the probes.
                if is_probe:
                    self._breaker.abandoned()
                raise
            else:
                self._succeeded()
                if self._on_failure is OnStoreFailure.LOCAL:
                    self._local.remember(ask.charges, told.outcome)
                return told
        if self._on_failure is OnStoreFailure.LOCAL:
            return Told(self._local.take_now(ask.charges), None)
        return None

    @property
    def is_away(self) -> bool:
        """Whether the store is left alone, but for probes."""
        return self._breaker.is_open

    def forget(self) -> None:
        """Forget what the local buckets remember, because somebody's were made full again."""
        self._local.clear()

    async def aclose(self) -> None:
        """End the call under way."""
        await self._calls.aclose()

    def _succeeded(self) -> None:
        if self._breaker.succeeded(self._now_s()):
            log.warning("the store answers again")

    def _failed(self, error: StoreError) -> None:
        if self._breaker.failed(self._now_s()):
            log.warning("the store is away (%s): deciding '%s' until it answers", error, self._on_failure)
