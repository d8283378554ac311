"""The breaker: tables of calls and times, and whether the store may be called."""

from __future__ import annotations

import pytest

from shieldmw.gate.limiter.breaker import Breaker

# ok, fail, gone (its caller went away): how a call ended; yes, no: whether one is permitted.
Event = str

CLOSED_TABLES: list[tuple[str, list[tuple[float, Event]], bool]] = [
    ("nothing happened", [], False),
    ("4 failures in a row", [(0, "fail")] * 4, False),
    ("5 failures in a row", [(0, "fail")] * 5, True),
    ("5 in a row, however slowly", [(n * 100.0, "fail") for n in range(5)], True),
    ("a success starts the row again", [(0.0, "fail")] * 4 + [(0.0, "ok")] + [(0.0, "fail")] * 4, False),
    ("half of 20 in a second", [(0.5, "fail"), (0.5, "ok")] * 9 + [(0.9, "ok"), (0.9, "fail")], True),
    ("half of only 18 calls", [(0.5, "fail"), (0.5, "ok")] * 9, False),
    ("9 of 20 are less than half", [(0.5, "fail"), (0.5, "ok")] * 8 + [(0.5, "ok")] * 3 + [(0.5, "fail")], False),
    (
        "half of 20, but the second began anew in between",
        [(0.5, "fail"), (0.5, "ok")] * 9 + [(1.6, "ok"), (1.6, "fail")],
        False,
    ),
    ("callers who went away are no failures", [(0, "gone")] * 50, False),
]


@pytest.mark.parametrize(("reason", "events", "opens"), CLOSED_TABLES, ids=[row[0] for row in CLOSED_TABLES])
def test_it_opens_after_five_in_a_row_or_half_of_twenty(
    reason: str, events: list[tuple[float, Event]], opens: bool
) -> None:
    """A row of failures opens it, and so does a second in which half of many calls failed."""
    breaker = Breaker()
    told = [play(breaker, at_s, event) for at_s, event in events]
    assert breaker.is_open is opens, reason
    assert told.count(True) == (1 if opens else 0), "it says once that it opened"
    assert breaker.permits(1000.0)


def play(breaker: Breaker, at_s: float, event: Event) -> bool | None:
    """Tell the breaker; or ask it, for yes and no."""
    if event == "ok":
        return breaker.succeeded(at_s)
    if event == "fail":
        return breaker.failed(at_s)
    if event == "gone":
        breaker.abandoned()
        return None
    assert breaker.permits(at_s) is (event == "yes"), at_s
    return None


def opened_at_zero() -> Breaker:
    """A breaker that five failures opened."""
    breaker = Breaker()
    for _ in range(5):
        breaker.failed(0.0)
    return breaker


OPEN_TABLES: list[tuple[str, list[tuple[float, Event]], bool]] = [
    ("no call at all in the first second", [(0.0, "no"), (0.5, "no"), (0.999, "no")], True),
    ("then one, and only one at a time", [(1.0, "yes"), (1.0, "no"), (5.0, "no"), (99.0, "no")], True),
    ("a probe that failed: another second", [(1.0, "yes"), (1.05, "fail"), (2.04, "no"), (2.05, "yes")], True),
    ("a probe that succeeded closes it", [(1.0, "yes"), (1.01, "ok"), (1.01, "yes"), (1.01, "yes")], False),
    ("a probe nobody waited for does not block for ever", [(1.0, "yes"), (1.0, "gone"), (2.0, "yes")], True),
    (
        "a cancelled probe is a probe: the next comes a second later",
        [(1.0, "yes"), (1.0, "gone"), (1.001, "no"), (1.5, "no"), (2.0, "yes")],
        True,
    ),
    ("after it closed the old failures are forgotten", [(1.0, "yes"), (1.0, "ok")] + [(1.0, "fail")] * 4, False),
    ("but five new ones open it again", [(1.0, "yes"), (1.0, "ok")] + [(1.0, "fail")] * 5, True),
]


@pytest.mark.parametrize(("reason", "events", "stays_open"), OPEN_TABLES, ids=[row[0] for row in OPEN_TABLES])
def test_while_open_it_permits_one_probe_a_second(
    reason: str, events: list[tuple[float, Event]], stays_open: bool
) -> None:
    """An open breaker lets one call through each second, one at a time, until one succeeds."""
    breaker = opened_at_zero()
    for at_s, event in events:
        play(breaker, at_s, event)
    assert breaker.is_open is stays_open, reason


def test_it_says_once_that_it_closed() -> None:
    """Only the success that closed it is news."""
    breaker = opened_at_zero()
    assert breaker.permits(1.0)
    assert breaker.succeeded(1.0) is True
    assert breaker.succeeded(1.0) is False
