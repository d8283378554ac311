"""The store behind a circuit breaker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from shieldmw.core.bucket import Outcome, TakeRequest
from shieldmw.core.decision import OnStoreFailure
from shieldmw.core.portion import Portion, PortionRequest
from shieldmw.core.text import harmless
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock
from shieldmw.store.port import ChargeTaker, PartialFailure

from .breaker import Breaker

log = logging.getLogger(__name__)

T = TypeVar("T")


class BreakerStore:
    """The store behind a breaker. Each call is reported to the breaker once, even if many requests share it."""

    def __init__(self, store: ChargeTaker, on_failure: OnStoreFailure, clock: Clock = SYSTEM_CLOCK) -> None:
        self.on_failure = on_failure
        self._store = store
        self._now_s = clock.now_s
        self._breaker = Breaker()

    @property
    def is_away(self) -> bool:
        """Whether the breaker is open: only probes reach the store."""
        return self._breaker.is_open

    def may_be_asked(self) -> bool:
        """Whether a call may be made now. While the breaker is open, True permits one probe, which must be made."""
        return not self._breaker.is_open or self._breaker.permits(self._now_s())

    def take(self, requests: Sequence[TakeRequest]) -> Coroutine[Any, Any, Sequence[Outcome]]:
        """Make one call, for several requests."""
        return self._reported(self._store.take(requests))

    def portion(self, request: PortionRequest) -> Coroutine[Any, Any, Portion]:
        """Make one call, for a portion of a shared bucket."""
        return self._reported(self._store.portion(request))

    async def _reported(self, call: Coroutine[Any, Any, T]) -> T:
        """Make a call, and report to the breaker how it ended."""
        is_probe = self._breaker.is_open
        try:
            reply = await call
        except PartialFailure:
            # Some of the servers answer, and their clients should not suffer for the others.
            self._succeeded()
            raise
        except asyncio.CancelledError:
            # A cancelled request says nothing about the store, but must not block further probes.
            if is_probe:
                self._breaker.abandoned()
            raise
        except Exception as error:
            self._failed(error)
            raise
        self._succeeded()
        return reply

    async def aclose(self) -> None:
        """Close the connections, and end a permitted probe that may never have been made."""
        self._breaker.abandoned()
        await self._store.aclose()

    def _succeeded(self) -> None:
        if self._breaker.succeeded(self._now_s()):
            log.warning("the store answers again")

    def _failed(self, error: Exception) -> None:
        if self._breaker.failed(self._now_s()):
            log.warning("the store is away (%s): deciding '%s' until it answers", harmless(error), self.on_failure)
