"""The store behind a circuit breaker."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from shieldmw.core.bucket import Outcome, TakeRequest
from shieldmw.core.decision import OnStoreFailure
from shieldmw.core.text import harmless
from shieldmw.store.port import PartialFailure

from .batch import Called
from .breaker import Breaker

log = logging.getLogger(__name__)


class BreakerStore:
    """The store behind a breaker. A call is reported to the breaker once, however many requests share it."""

    def __init__(self, store: Called, on_failure: OnStoreFailure, now_s: Callable[[], float] = time.monotonic) -> None:
        self.on_failure = on_failure
        self._store = store
        self._now_s = now_s
        self._breaker = Breaker()

    @property
    def is_away(self) -> bool:
        """Whether the breaker is open: only probes reach the store."""
        return self._breaker.is_open

    def may_be_asked(self) -> bool:
        """Whether to ask now; while the breaker is open, True permits one probe, which the caller must make."""
        return not self._breaker.is_open or self._breaker.permits(self._now_s())

    async def take(self, requests: Sequence[TakeRequest]) -> Sequence[Outcome]:
        """One call."""
        is_probe = self._breaker.is_open
        try:
            outcomes = await self._store.take(requests)
        except PartialFailure:
            # Some of its servers answer: to leave all of them alone would fail their clients too.
            self._succeeded()
            raise
        except asyncio.CancelledError:
            # A request that goes away says nothing about the store, but must not hold up the probes.
            if is_probe:
                self._breaker.abandoned()
            raise
        except Exception as error:
            self._failed(error)
            raise
        self._succeeded()
        return outcomes

    async def aclose(self) -> None:
        """Close the connections. A permitted probe may never have been made."""
        self._breaker.abandoned()
        await self._store.aclose()

    def _succeeded(self) -> None:
        if self._breaker.succeeded(self._now_s()):
            log.warning("the store answers again")

    def _failed(self, error: Exception) -> None:
        if self._breaker.failed(self._now_s()):
            log.warning("the store is away (%s): deciding '%s' until it answers", harmless(error), self.on_failure)
