"""A circuit breaker for the store: after several failures in a row, only probes may call it.

``now_s`` is any clock that never steps.
"""

from __future__ import annotations

from dataclasses import dataclass

# What opens the breaker: this many failures in a row, or failures of half the calls in a window, if there were at least
# this many. And the interval between two probes while it is open.
FAILURES_IN_A_ROW = 5
CALLS_TO_JUDGE = 20
WINDOW_S = 1.0
PROBE_EVERY_S = 1.0


@dataclass(slots=True)
class Breaker:
    """Opens after 5 failures in a row, or when half of at least 20 calls in a second failed.

    While it is open, one probe a second may be made, and only one at a time. A probe that succeeds closes it.
    """

    is_open: bool = False
    _in_a_row: int = 0
    _calls: int = 0
    _failures: int = 0
    _window_start_s: float = 0.0
    _next_probe_s: float = 0.0
    _probing: bool = False

    def permits(self, now_s: float) -> bool:
        """Whether a call may be made now. If so, its result must be reported."""
        if not self.is_open:
            return True
        if self._probing or now_s < self._next_probe_s:
            return False
        self._probing = True
        self._next_probe_s = now_s + PROBE_EVERY_S
        return True

    def succeeded(self, now_s: float) -> bool:
        """Report that a call succeeded; returns whether that closed the breaker."""
        closed = self.is_open and self._probing
        if closed:
            self.is_open = self._probing = False
            self._calls = self._failures = 0
        self._in_a_row = 0
        self._count(now_s, failed=False)
        return closed

    def failed(self, now_s: float) -> bool:
        """Report that a call failed; returns whether that opened the breaker."""
        self._in_a_row += 1
        self._count(now_s, failed=True)
        self._probing = False
        self._next_probe_s = now_s + PROBE_EVERY_S
        if self.is_open:
            return False
        mostly = self._calls >= CALLS_TO_JUDGE and 2 * self._failures >= self._calls
        self.is_open = mostly or self._in_a_row >= FAILURES_IN_A_ROW
        return self.is_open

    def abandoned(self) -> None:
        """Report that the probe ended without a result, or was never made."""
        self._probing = False

    def _count(self, now_s: float, *, failed: bool) -> None:
        if now_s - self._window_start_s >= WINDOW_S:
            self._window_start_s = now_s
            self._calls = self._failures = 0
        self._calls += 1
        self._failures += failed
