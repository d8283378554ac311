"""The store, made safe to ask: within its budget, behind a breaker, with local buckets to fall back on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from shieldmw.core.bucket import Charge, Outcome
from shieldmw.core.decision import OnStoreFailure
from shieldmw.errors import StoreError
from shieldmw.store.memory import MemoryBuckets
from shieldmw.store.port import Store

from .breaker import Breaker

log = logging.getLogger(__name__)


class GuardedStore:
    """Takes charges from the store, or while it is away as ``on_failure`` says.

    ``local`` buckets are kept warm: they remember what the store last said of each bucket, so
    that an outage does not fill anybody's bucket again.
    """

    def __init__(self, store: Store, local: MemoryBuckets, on_failure: OnStoreFailure) -> None:
        self._store = store
        self._local = local
        self._on_failure = on_failure
        self._breaker = Breaker()

    async def take(self, charges: Sequence[Charge]) -> Outcome | None:
        """The outcome of the charges; None where the store is away and nothing stands in for it."""
        is_probe = self._breaker.is_open
        if self._breaker.permits(time.monotonic()):
            try:
                outcome = await self._ask(charges, is_probe=is_probe)
            except StoreError as error:
                self._failed(error)
            else:
                self._succeeded()
                if self._on_failure is OnStoreFailure.LOCAL:
                    self._local.remember(charges, outcome)
                return outcome
        if self._on_failure is OnStoreFailure.LOCAL:
            return self._local.take_now(charges)
        return None

    @property
    def is_away(self) -> bool:
        """Whether the store is left alone, but for probes."""
        return self._breaker.is_open

    def forget(self) -> None:
        """Forget what the local buckets remember, because somebody's were made full again."""
        self._local.clear()

    async def aclose(self) -> None:
        """Give back the store's connections."""
        await self._store.aclose()

    async def _ask(self, charges: Sequence[Charge], *, is_probe: bool) -> Outcome:
        """One call; a caller that goes away counts as no failure, but must not hold up the probes."""
        try:
            return await self._store.take(charges)
        except asyncio.CancelledError:
            if is_probe:
                self._breaker.abandoned()
            raise

    def _succeeded(self) -> None:
        if self._breaker.succeeded(time.monotonic()):
            log.warning("the store answers again")

    def _failed(self, error: StoreError) -> None:
        if self._breaker.failed(time.monotonic()):
            log.warning("the store is away (%s): deciding '%s' until it answers", error, self._on_failure)
