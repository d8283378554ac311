"""Limits: the notation, its errors and the whole microseconds behind it."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shieldmw.core.limits import AGGREGATE_FACTOR, US_PER_S, Limit, aggregate, parse_limits

MINUTE, HOUR, DAY = 60, 3600, 86_400


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        pytest.param("300/minute", [("x", 300, MINUTE, 300)], id="the-usual-form"),
        pytest.param("300 per minute", [("x", 300, MINUTE, 300)], id="per-is-a-slash"),
        pytest.param(" 300 / minute ", [("x", 300, MINUTE, 300)], id="spaces-around-everything"),
        pytest.param("300/MINUTE", [("x", 300, MINUTE, 300)], id="case-does-not-matter"),
        pytest.param("1/second", [("x", 1, 1, 1)], id="second"),
        pytest.param("5 per 10 second", [("x", 5, 10, 5)], id="several-periods"),
        pytest.param("5 per 10 seconds", [("x", 5, 10, 5)], id="several-periods-in-the-plural"),
        pytest.param("5/2 hours", [("x", 5, 2 * HOUR, 5)], id="plural"),
        pytest.param("1/day", [("x", 1, DAY, 1)], id="the-slowest-that-is-tested-everywhere"),
        pytest.param("1/month", [("x", 1, 30 * DAY, 1)], id="a-month-is-thirty-days"),
        pytest.param("1000000/second", [("x", 1_000_000, 1, 1_000_000)], id="the-highest-rate"),
        pytest.param("10/second; 300/minute", [("x", 10, 1, 10), ("x-2", 300, MINUTE, 300)], id="two-limits"),
        pytest.param("10/second,300/minute", [("x", 10, 1, 10), ("x-2", 300, MINUTE, 300)], id="or-with-a-comma"),
        pytest.param(
            "1/second; 2/minute; 3/hour",
            [("x", 1, 1, 1), ("x-2", 2, MINUTE, 2), ("x-3", 3, HOUR, 3)],
            id="three-limits-are-numbered",
        ),
        pytest.param("off", [], id="off"),
        pytest.param(" OFF ", [], id="off-however-written"),
    ],
)
def test_the_notation(text: str, limits: list[tuple[str, int, int, int]]) -> None:
    """The notation of the limits library gives these names, amounts, periods and bursts."""
    parsed = parse_limits(text, name="x")
    assert [(limit.name, limit.amount, limit.period_s, limit.burst) for limit in parsed] == limits


def test_a_burst_of_its_own() -> None:
    """A burst beside a single limit replaces the burst that is the limit's amount."""
    (limit,) = parse_limits("300/minute", name="ip", burst=20)
    assert limit == Limit("ip", amount=300, period_s=60, burst=20)


NOTATION = "write it like '300/minute'"


@pytest.mark.parametrize(
    ("text", "burst", "right"),
    [
        pytest.param("", None, NOTATION, id="nothing"),
        pytest.param("  ", None, NOTATION, id="spaces"),
        pytest.param("300", None, NOTATION, id="no-period"),
        pytest.param("/minute", None, NOTATION, id="no-amount"),
        pytest.param("300/fortnight", None, NOTATION, id="an-unknown-period"),
        pytest.param("300/s", None, NOTATION, id="an-abbreviation"),
        pytest.param("-1/second", None, NOTATION, id="a-negative-amount"),
        pytest.param("1.5/second", None, NOTATION, id="half-a-request"),
        pytest.param("1/second;", None, NOTATION, id="a-dangling-separator"),
        pytest.param("1/second x", None, NOTATION, id="something-after-it"),
        pytest.param("off; 1/second", None, NOTATION, id="off-and-yet-not"),
        pytest.param("٣/second", None, NOTATION, id="digits-of-another-script"),
        pytest.param("9" * 5000 + "/second", None, NOTATION, id="a-number-that-python-refuses-to-read"),
        pytest.param("0/minute", None, "use at least 1", id="zero-is-no-way-to-turn-a-path-off"),
        pytest.param("1000001/second", None, "above 1000000/second, the highest rate", id="one-above-the-highest-rate"),
        pytest.param("300/minute", 0, "use at least 1", id="a-burst-of-zero"),
        pytest.param("300/minute", -5, "use at least 1", id="a-negative-burst"),
        pytest.param("1/day", 36_601, "use a smaller one", id="a-hundred-years-to-fill"),
        pytest.param("1/second; 2/minute", 5, "remove it, or keep one limit", id="a-burst-beside-several-limits"),
        pytest.param("off", 5, "remove it", id="a-burst-beside-off"),
    ],
)
def test_what_is_no_limit_is_told_what_would_be(text: str, burst: int | None, right: str) -> None:
    """Each error says what would be right, in one line."""
    with pytest.raises(ValueError, match=r".") as caught:
        parse_limits(text, name="x", burst=burst)
    assert right in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_longest_bucket_just_fits() -> None:
    """A bucket that takes a hundred years to fill is the longest there can be."""
    (limit,) = parse_limits("1/day", name="x", burst=36_600)
    assert limit.tau_us == 36_600 * DAY * US_PER_S


@pytest.mark.parametrize(
    ("amount", "period_s", "unit_us"),
    [
        pytest.param(1, 1, 1_000_000, id="one-a-second"),
        pytest.param(3, 1, 333_334, id="a-third-is-rounded-up"),
        pytest.param(7, 60, 8_571_429, id="a-seventh-of-a-minute-is-rounded-up"),
        pytest.param(300, 60, 200_000, id="an-even-division-is-exact"),
        pytest.param(999_999, 1, 2, id="just-below-the-highest-rate-rounds-to-half-of-it"),
        pytest.param(1_000_000, 1, 1, id="the-highest-rate-is-exact"),
        pytest.param(1, 86_400, 86_400_000_000, id="one-a-day"),
    ],
)
def test_the_time_of_a_unit_never_rounds_down(amount: int, period_s: int, unit_us: int) -> None:
    """A unit takes whole microseconds, rounded up, so that rounding never admits more."""
    limit = Limit("x", amount, period_s, burst=5)
    assert (limit.unit_us, limit.tau_us) == (unit_us, 5 * unit_us)
    assert limit.rate_per_s == US_PER_S / unit_us


@settings(deadline=None)
@given(amount=st.integers(1, 1_000_000), period_s=st.integers(1, 100_000), burst=st.integers(1, 10_000))
def test_no_limit_is_faster_than_written(amount: int, period_s: int, burst: int) -> None:
    """Rounded to microseconds a limit's rate is at most what was written, and less than a microsecond off."""
    limit = Limit("x", amount, period_s, burst)
    exact_us = Fraction(period_s * US_PER_S, amount)
    assert exact_us <= limit.unit_us < exact_us + 1


@settings(deadline=None)
@given(amount=st.integers(1, 1_000_000), period_s=st.integers(1, 100_000), burst=st.integers(1, 10_000))
def test_a_site_has_at_most_four_times_the_limit(amount: int, period_s: int, burst: int) -> None:
    """The aggregate of a /56 holds four bursts and comes back at most four times as fast, under a name of its own."""
    limit = Limit("ip", amount, period_s, burst)
    site = aggregate(limit)
    assert (site.name, site.period_s, site.burst) == ("ip-prefix", period_s, AGGREGATE_FACTOR * burst)
    assert site.amount <= AGGREGATE_FACTOR * amount
    assert site.amount == AGGREGATE_FACTOR * amount or site.rate_per_s == US_PER_S, "capped by the highest rate only"


def test_the_longest_bucket_has_an_aggregate() -> None:
    """Every limit that can be written has an aggregate, so none fails at the first IPv6 request instead."""
    assert aggregate(Limit("ip", 1_000_000, 1, burst=10**15)).burst == 4 * 10**15


def test_a_limit_cannot_be_changed() -> None:
    """A limit is a value."""
    limit = Limit("x", 1, 1, 1)
    with pytest.raises(FrozenInstanceError):
        limit.burst = 2  # type: ignore[misc]
