"""This worker's own clock: microseconds that never step. What another clock says is moved onto it."""

from __future__ import annotations

from time import monotonic_ns


def now_us() -> int:
    """Microseconds since some moment before this worker began."""
    return monotonic_ns() // 1000
