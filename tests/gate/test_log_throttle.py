"""Throttled log lines: one line for many events."""

from __future__ import annotations

from shieldmw.gate.log_throttle import EVERY_S, LogThrottle


def test_the_first_event_is_due_at_once_and_the_rest_are_told_together() -> None:
    """A flood writes one line in ten seconds, and that line says how much it stands for."""
    now_s = 100.0
    throttle = LogThrottle(lambda: now_s)
    assert throttle.due("expired") == "expired: 1"
    assert [throttle.due("expired") for _ in range(3)] == [None, None, None]
    assert throttle.due("bad", "signature") is None
    now_s += EVERY_S - 0.001
    assert throttle.due("expired") is None
    now_s += 0.001
    assert throttle.due("expired") == "bad signature: 1, expired: 5"
    assert throttle.due("expired") is None


def test_totals_count_what_was_told_and_what_was_not() -> None:
    """A metric can read them at any time."""
    throttle = LogThrottle(lambda: 0.0)
    for _ in range(5):
        throttle.due("expired")
    throttle.due("unknown", "kid")
    assert throttle.totals == {("expired",): 5, ("unknown", "kid"): 1}
