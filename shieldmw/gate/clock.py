"""The clock and the source of randomness of a worker. For the store's clock, see ``ModeWatch``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random


@dataclass(frozen=True, slots=True)
class Clock:
    """The clock of one worker, and its source of randomness. Tests replace it with one that they set.

    ``now_us`` and ``now_s`` are monotonic and have the same origin; ``unix_s`` is Unix time, which may step.
    ``random`` is for jitter, never for secrets. Code that reads the time for each request stores the function itself.
    """

    now_us: Callable[[], int] = lambda: time.monotonic_ns() // 1000
    now_s: Callable[[], float] = time.monotonic
    unix_s: Callable[[], float] = time.time
    random: Random = field(default_factory=Random)


SYSTEM_CLOCK = Clock()


def utc(unix_s: float) -> str:
    """A time as text, in whole seconds (RFC 3339): ``2026-11-28T02:00:00Z``."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s))
