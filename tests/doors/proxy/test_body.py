"""How slowly a request's body may come: a rule without a clock."""

from __future__ import annotations

import pytest

from shieldmw.doors.proxy.body import Pace

# Seconds of waiting, and the bytes that then came.
Waited = list[tuple[float, int]]


def left_s(pieces: Waited, bytes_per_s: int = 500, longest_s: float = 30) -> float:
    pace = Pace(longest_s, bytes_per_s)
    for waited_s, size in pieces:
        pace.came(size, waited_s)
    return pace.left_s


@pytest.mark.parametrize(
    ("pieces", "expected_s", "why"),
    [
        ([], 30, "the first bytes may take their time"),
        ([(29, 1)], 1.002, "a byte does not earn another 30 seconds"),
        ([(1, 1)] * 29, 1.058, "nor do bytes now and then"),
        ([(20, 5000)], 20, "500 bytes earn a second"),
        ([(1, 500)] * 1000, 30, "at the lowest rate it may go on for ever"),
        ([(1, 400)] * 100, 10, "below it, it ends"),
        ([(0, 10_000_000)], 30, "a fast beginning does not pay for a long pause"),
        ([(0, 10_000_000), (25, 500)], 6, "one that is not too long is allowed"),
    ],
)
def test_waiting_is_paid_with_bytes(pieces: Waited, expected_s: float, why: str) -> None:
    """Seconds are spent by waiting, earned by bytes, and never saved beyond the first allowance."""
    assert left_s(pieces) == pytest.approx(expected_s), why


def test_without_a_rate_any_byte_allows_another_pause() -> None:
    """But nothing at all does not."""
    assert left_s([(299, 1)], 0, 300) == 300
    assert left_s([(200, 0)], 0, 300) == 100
