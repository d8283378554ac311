"""The clock of a worker: its functions have the same origin and rate."""

from __future__ import annotations

from shieldmw.gate.clock import SYSTEM_CLOCK, Clock


def test_seconds_and_microseconds_are_of_one_clock() -> None:
    """A time in seconds can be compared with one in microseconds that was read before or after it."""
    before_us = SYSTEM_CLOCK.now_us()
    now_s = SYSTEM_CLOCK.now_s()
    after_us = SYSTEM_CLOCK.now_us()
    assert before_us <= now_s * 1e6 <= after_us + 1


def test_each_clock_draws_its_own_numbers() -> None:
    """Two workers of one process do not spread their clients' waits alike."""
    assert Clock().random.random() != Clock().random.random()
