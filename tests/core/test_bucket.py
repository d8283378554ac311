"""The bucket, as tables of (now, cost) -> decision with a reason for each row. Times are microseconds."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from shieldmw.core.bucket import EPOCH_S, Charge, LimitStatus, Outcome, TakeRequest, joined, statuses, take
from shieldmw.core.client import Client
from shieldmw.core.limits import Limit

ALICE = Client("token", "alice", "token:alice")
S = 1_000_000
DAY = 86_400 * S


class Bucket:
    """One bucket as a store keeps it: the TAT is written when a charge passes, and only then."""

    def __init__(self, limit: Limit, tat_us: int | None = None) -> None:
        self.limit = limit
        self.tat_us = tat_us

    def take(self, now_us: int, cost: int = 1) -> tuple[bool, LimitStatus]:
        charges = (Charge(ALICE, self.limit, cost),)
        outcome = take((self.tat_us,), TakeRequest(charges), now_us)
        if outcome.allowed:
            self.tat_us = outcome.tats_us[0]
        return outcome.allowed, statuses(charges, outcome)[0]


Row = tuple[int, int, bool, int, int, str]

TRACES = [
    pytest.param(
        Limit("ip", amount=10, period_s=1, burst=3),
        [
            (0, 1, True, 2, 0, "a bucket never seen is full"),
            (0, 1, True, 1, 0, "still inside the burst"),
            (0, 1, True, 0, 0, "the last unit of the burst"),
            (0, 1, False, 0, 100_000, "burst + 1 at one instant is refused; a unit takes 100 ms"),
            (0, 3, False, 0, 300_000, "three units take three times as long"),
            (99_999, 1, False, 0, 1, "a microsecond early is early"),
            (100_000, 1, True, 0, 0, "one unit has come back"),
            (100_000, 0, True, 0, 0, "cost 0 only looks, even at an empty bucket"),
            (250_000, 1, True, 0, 0, "1.5 units had come back, and one is left over by half"),
            (299_999, 1, False, 0, 1, "the half is not lost, but not yet whole"),
            (300_000, 1, True, 0, 0, "the other half has come back"),
            (600_000, 3, True, 0, 0, "full again after exactly tau: the whole burst at once"),
            (900_000, 3, True, 0, 0, "and full again"),
        ],
        id="burst-3-at-10-a-second",
    ),
    pytest.param(
        Limit("ip", amount=1, period_s=1, burst=1),
        [
            (5 * S, 1, True, 0, 0, "the only unit"),
            (5 * S, 1, False, 0, S, "nothing left, a whole second to wait"),
            (6 * S - 1, 1, False, 0, 1, "a microsecond early"),
            (6 * S, 1, True, 0, 0, "on time"),
        ],
        id="burst-1",
    ),
    pytest.param(
        Limit("ip", amount=1, period_s=86_400, burst=1),
        [
            (7, 1, True, 0, 0, "today's unit"),
            (8, 1, False, 0, DAY - 1, "the wait is exact to the microsecond"),
            (7 + DAY - 1, 1, False, 0, 1, "a microsecond before tomorrow"),
            (7 + DAY, 1, True, 0, 0, "tomorrow"),
        ],
        id="1-a-day",
    ),
    pytest.param(
        Limit("ip", amount=1_000_000, period_s=1, burst=1_000_000),
        [
            (0, 1_000_000, True, 0, 0, "a million at once"),
            (0, 1, False, 0, 1, "and one more after a microsecond"),
            (1, 1, True, 0, 0, "which has come back"),
            (11, 11, False, 10, 1, "ten microseconds give ten, not eleven"),
            (11, 10, True, 0, 0, "ten they give"),
        ],
        id="1000000-a-second",
    ),
    pytest.param(
        Limit("ip", amount=3, period_s=1, burst=2),
        [
            (0, 1, True, 1, 0, "a third of a second is 333334 us, rounded up"),
            (1, 1, True, 0, 0, "remaining rounds down: 1.000003 units were there"),
            (333_333, 1, False, 0, 1, "a third of a second rounded down would have let it pass"),
            (333_334, 1, True, 0, 0, "rounded up it passes"),
            (333_335, 0, True, 0, 0, "a look between two units: 0.000003 units remain, shown as 0"),
        ],
        id="a-unit-that-is-no-whole-number-of-microseconds",
    ),
    pytest.param(
        Limit("ip", amount=60, period_s=60, burst=5),
        [
            (0, 5, True, 0, 0, "the burst"),
            (50 * 365 * DAY, 5, True, 0, 0, "fifty idle years save up the burst"),
            (50 * 365 * DAY, 1, False, 0, S, "and no more"),
        ],
        id="a-long-idle-time",
    ),
]


@pytest.mark.parametrize(("limit", "rows"), TRACES)
def test_a_trace_of_requests_is_decided_row_by_row(limit: Limit, rows: list[Row]) -> None:
    """Each request of the trace gets the decision, the remaining units and the wait that its reason names."""
    bucket = Bucket(limit)
    for now_us, cost, allowed, remaining, retry_after_us, reason in rows:
        decided, level = bucket.take(now_us, cost)
        assert (decided, level.remaining, level.retry_after_us) == (allowed, remaining, retry_after_us), reason


@pytest.mark.parametrize(
    ("amount", "period_s", "burst"),
    [
        pytest.param(1, 86_400, 1, id="the-slowest-and-smallest"),
        pytest.param(7, 60, 13, id="a-unit-that-is-rounded-up"),
        pytest.param(300, 60, 300, id="the-default"),
        pytest.param(1, 1, 1000, id="a-burst-far-above-the-rate"),
        pytest.param(1_000_000, 1, 40, id="a-burst-far-below-the-rate"),
        pytest.param(100, 1, 40, id="the-limit-of-which-throttled-py-lets-200-pass"),
    ],
)
def test_capacity_is_the_burst_exactly(amount: int, period_s: int, burst: int) -> None:
    """However many ask at one instant, exactly the burst passes."""
    bucket = Bucket(Limit("ip", amount, period_s, burst))
    assert sum(bucket.take(123)[0] for _ in range(burst + 200)) == burst


@pytest.mark.parametrize(
    ("cost", "allowed"),
    [
        pytest.param(0, True, id="cost-0-only-looks"),
        pytest.param(1, True, id="cost-1"),
        pytest.param(5, True, id="the-whole-burst-passes-at-once"),
        pytest.param(6, False, id="burst-plus-1-does-not"),
        pytest.param(10**18, False, id="nor-does-an-absurd-cost"),
    ],
)
def test_costs_around_the_burst(cost: int, allowed: bool) -> None:
    """A full bucket admits every cost up to its burst, and takes nothing for a higher one."""
    bucket = Bucket(Limit("ip", 10, 1, 5))
    assert bucket.take(0, cost)[0] is allowed
    assert bucket.take(0, 0)[1].remaining == (5 - cost if allowed else 5)


@pytest.mark.parametrize(
    ("stored_us", "full_after_us"),
    [
        pytest.param(None, 0, id="no-tat-is-a-full-bucket"),
        pytest.param(0, 0, id="a-tat-long-past-is-a-full-bucket"),
        pytest.param(1000 * S, 0, id="a-tat-of-now-is-a-full-bucket"),
        pytest.param(1000 * S + 1, 1, id="a-microsecond-ahead-counts"),
        pytest.param(1000 * S + 3 * S, 3 * S, id="tau-ahead-is-an-empty-bucket"),
        pytest.param(1000 * S + 3 * S + 1, 3 * S + 1, id="beyond-tau-is-overdrawn"),
        pytest.param(1000 * S + 3600 * S, 3600 * S, id="by-a-longer-limit-by-all-of-it"),
        pytest.param(1000 * S + DAY, DAY, id="up-to-a-day"),
        pytest.param(1000 * S + DAY + 1, DAY, id="by-a-day-at-most"),
        pytest.param(10**18, DAY, id="so-is-a-tat-from-a-clock-gone-mad"),
        pytest.param(-(10**18), 0, id="one-before-2025-is-no-fuller-than-full"),
    ],
)
def test_a_stored_tat_is_clamped_between_full_and_overdrawn(stored_us: int | None, full_after_us: int) -> None:
    """Whatever the store holds, a bucket is never fuller than full, and never waits longer than a day to be so."""
    charges = (Charge(ALICE, Limit("ip", 1, 1, 3), 0),)
    outcome = take((stored_us,), TakeRequest(charges), 1000 * S)
    assert outcome == Outcome(True, 1000 * S, (1000 * S + full_after_us,))
    assert statuses(charges, outcome)[0].full_after_us == full_after_us


def test_the_bucket_of_a_slow_limit_may_be_overdrawn_by_as_much_as_it_holds() -> None:
    """Also where that takes more than a day: it is what an outage may leave behind."""
    limit = Limit("ip", 1, 86_400, 3)
    charges = (Charge(ALICE, limit, 0),)
    for ahead_us in (2 * limit.tau_us, 2 * limit.tau_us + 1):
        assert take((ahead_us,), TakeRequest(charges), 0).tats_us == (2 * limit.tau_us,)


def test_the_last_digit_of_a_tat_counts() -> None:
    """In the year 2300 a TAT, sixteen digits long, is still exact to the microsecond."""
    now_us = (int(datetime(2300, 1, 1, tzinfo=UTC).timestamp()) - EPOCH_S) * S + 1
    assert now_us + DAY < 2**53, "or Lua's doubles could not hold it"
    bucket = Bucket(Limit("ip", 86_399, 86_400, 1))
    bucket.take(now_us)
    assert bucket.tat_us == now_us + 1_000_012, "86400 s / 86399 is 1000011.57 us, rounded up"
    assert bucket.take(now_us + 1_000_011)[1].retry_after_us == 1
    assert bucket.take(now_us + 1_000_012)[0]


def test_time_is_counted_from_2025() -> None:
    """TATs count from 2025-01-01, in Python as in Lua."""
    assert datetime.fromtimestamp(EPOCH_S, UTC) == datetime(2025, 1, 1, tzinfo=UTC)


WIDE = Limit("wide", 10, 1, 10)
NARROW = Limit("narrow", 1, 1, 2)


@pytest.mark.parametrize(
    ("costs", "spent", "allowed", "retry_after_us"),
    [
        pytest.param((1, 1), (0, 0), True, (0, 0), id="both-have-room"),
        pytest.param((10, 2), (0, 0), True, (0, 0), id="to-the-brim"),
        pytest.param((10, 2), (0, 1), False, (0, S), id="the-second-refuses-for-both"),
        pytest.param((10, 1), (1, 0), False, (S // 10, 0), id="the-first-refuses-for-both"),
        pytest.param((1, 1), (10, 2), False, (S // 10, S), id="both-refuse"),
        pytest.param((0, 1), (10, 2), False, (0, S), id="a-look-is-no-reason-for-a-refusal"),
    ],
)
def test_several_charges_are_all_or_nothing(
    costs: tuple[int, int], spent: tuple[int, int], allowed: bool, retry_after_us: tuple[int, int]
) -> None:
    """Charges taken together all pass or none does, and each status says whether its own bucket was the reason."""
    charges = (Charge(ALICE, WIDE, costs[0]), Charge(ALICE, NARROW, costs[1]))
    stored_us = (50 + spent[0] * WIDE.unit_us, 50 + spent[1] * NARROW.unit_us)
    outcome = take(stored_us, TakeRequest(charges), 50)
    assert outcome.allowed is allowed
    if not allowed:
        assert outcome.tats_us == stored_us, "a refusal changes no TAT"
    assert tuple(level.retry_after_us for level in statuses(charges, outcome)) == retry_after_us


def test_as_many_tats_as_charges() -> None:
    """A store that mixes up its answers is found out at once."""
    with pytest.raises(ValueError, match="zip"):
        take((None,), TakeRequest((Charge(ALICE, WIDE), Charge(ALICE, NARROW))), 0)


def test_parts_are_told_by_one_clock() -> None:
    """Each node has its own: what counts is how far a TAT is from the time at its node."""
    parts = [Outcome(True, 100, (150, 170)), Outcome(False, 5000, (5030,))]
    assert joined(parts) == Outcome(False, 100, (150, 170, 130))
    assert joined(parts[:1]) == parts[0]
