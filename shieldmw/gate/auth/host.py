"""Calls the host app's own ``authenticate``. If it fails, the request is decided without it, not refused."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections import Counter
from typing import NamedTuple

from shieldmw.core.client import Identity
from shieldmw.core.facts import Authenticate
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock
from shieldmw.gate.log_throttle import LogThrottle

log = logging.getLogger(__name__)

# Longest wait for the host app.
TIMEOUT_S = 1.0


class HostAnswer(NamedTuple):
    """The identity that the host app returned. ``failed``: it returned nothing usable."""

    identity: Identity | None
    failed: bool = False


class Host:
    """Calls the host app, and contains its failures: no exception, no endless wait, no flood in the log."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._throttle = LogThrottle(clock.now_s)

    @property
    def failures(self) -> Counter[tuple[str, ...]]:
        """Failures since the start, by ``host_error``, ``host_timeout`` and ``host_type``."""
        return self._throttle.totals

    async def ask(self, authenticate: Authenticate) -> HostAnswer:
        """Call the host app for a request."""
        limit = asyncio.timeout(TIMEOUT_S)
        try:
            async with limit:
                answer: object = await authenticate()
        except Exception as error:
            if limit.expired():
                return self._failed("host_timeout", f"gave no answer in {TIMEOUT_S:g} s")
            # Only type and place: the message and the lines of a traceback may contain the credential.
            return self._failed("host_error", f"raised {type(error).__name__} ({_where(error)})")
        if answer is None or isinstance(answer, Identity):
            return HostAnswer(answer)
        return self._failed("host_type", f"returned a {type(answer).__name__} where an Identity or None is expected")

    def _failed(self, reason: str, what: str) -> HostAnswer:
        if counts := self._throttle.due(reason):
            log.error("the app's authenticate %s: requests are judged without it (%s)", what, counts)
        return HostAnswer(None, failed=True)


def _where(error: Exception) -> str:
    """The file and line where the error was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown place"
