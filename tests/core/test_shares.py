"""Shares of a limit: several workers that decide by their shares keep the limit's promise together."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from shieldmw.core.bucket import Charge, TakeRequest, statuses, take, worker_shares
from shieldmw.core.client import Client
from shieldmw.core.limits import LONGEST_TAU_US, US_PER_S, Limit, aggregate, share

ALICE = Client("token", "alice", "token:alice")
START_US = 10**15

relaxed = settings(deadline=None)


@st.composite
def limits(draw: st.DrawFn, most_burst: int = LONGEST_TAU_US) -> Limit:
    """Any limit that there can be."""
    period_s = draw(st.one_of(st.sampled_from([1, 60, 86_400]), st.integers(1, 10**9)))
    amount = draw(st.one_of(st.integers(1, 100), st.integers(1, period_s * US_PER_S)))
    unit_us = -(-period_s * US_PER_S // amount)
    most = min(most_burst, LONGEST_TAU_US // unit_us)
    return Limit("ip", amount, period_s, draw(st.one_of(st.integers(1, min(100, most)), st.integers(1, most))))


# Such as are met, whose edges are met often too.
small_limits = st.builds(
    Limit,
    st.just("ip"),
    amount=st.integers(1, 50),
    period_s=st.sampled_from([1, 7, 60]),
    burst=st.integers(1, 50),
)
workers_of_a_fleet = st.one_of(st.integers(1, 64), st.integers(1, 10**7))


def charged(limit: Limit, workers: int, cost: int = 1) -> tuple[Charge, ...]:
    """The charges of a request, against a share."""
    return worker_shares((Charge(ALICE, limit, cost),), workers)


@relaxed
@given(limits(), workers_of_a_fleet, st.integers(0, LONGEST_TAU_US))
@example(Limit("ip", 1, 250 * 365 * 86_400, 1), 2, 1)  # a bucket that fills as slowly as one can
@example(Limit("ip", US_PER_S, 1, LONGEST_TAU_US), 10**7, LONGEST_TAU_US)
def test_every_limit_can_be_shared(limit: Limit, workers: int, cost: int) -> None:
    """Nothing is raised, and what fits into a whole bucket fits into a share."""
    for whole in (limit, aggregate(limit)):
        charges = charged(whole, workers, min(cost, whole.burst))
        mine = charges[0].limit
        assert (mine.name, mine.amount) == (whole.name, whole.amount)
        assert 1 <= mine.burst == mine.tau_us // mine.unit_us
        assert whole.tau_us <= mine.tau_us <= LONGEST_TAU_US
        assert take([None], TakeRequest(charges), START_US).allowed


@relaxed
@given(limits(), st.integers(0, 100))
def test_who_is_alone_has_the_whole(limit: Limit, cost: int) -> None:
    """One worker's share is the limit, and its charges are the same object."""
    cost = min(cost, limit.burst)
    assert share(limit, 1, cost) == limit
    charges = (Charge(ALICE, limit, cost),)
    assert worker_shares(charges, 1) is charges


def test_what_a_share_is() -> None:
    """A quarter of 300 a minute is 300 in four minutes, 75 at once; half of five at once is two."""
    assert share(Limit("ip", 300, 60, 300), 4) == Limit("ip", 300, 240, 75)
    mine = share(Limit("ip", 5, 60, 5), 2)
    assert (mine.amount, mine.period_s, mine.burst, mine.unit_us, mine.tau_us) == (5, 120, 2, 24_000_000, 60_000_000)
    assert share(Limit("ip", 5, 60, 5), 8) == Limit("ip", 5, 480, 1)
    assert share(Limit("ip", 300, 60, 300), 4, cost=100).burst == 100


@st.composite
def fleets(draw: st.DrawFn) -> tuple[Limit, int, int, int, list[tuple[int, int]]]:
    """A limit, workers, a cost, what is left of all buckets' time, and steps of (microseconds, who is asked)."""
    limit = draw(small_limits)
    workers = draw(st.integers(1, 8))
    around = st.sampled_from([0, 0, 0, 1, limit.unit_us, workers * limit.unit_us - 1, workers * limit.unit_us])
    steps = st.one_of(around, st.integers(0, 2 * limit.tau_us))
    trace = draw(st.lists(st.tuples(steps, st.integers(0, workers - 1)), min_size=1, max_size=60))
    cost = draw(st.sampled_from([1, 1, limit.burst, draw(st.integers(1, limit.burst))]))
    return limit, workers, cost, draw(st.integers(0, limit.tau_us)), trace


@relaxed
@given(fleets())
def test_all_shares_together_are_the_limit(fleet: tuple[Limit, int, int, int, list[tuple[int, int]]]) -> None:
    """In any span D all workers together admit at most the larger of burst and workers * cost, and rate * D."""
    limit, workers, cost, debt_us, trace = fleet
    charges = charged(limit, workers, cost)
    tats_us = [START_US + debt_us] * workers
    now_us, seen = START_US, []
    for step_us, who in trace:
        now_us += step_us
        outcome = take([tats_us[who]], TakeRequest(charges), now_us)
        if outcome.allowed:
            tats_us[who] = outcome.tats_us[0]
            seen.append(now_us)
    for first, since_us in enumerate(seen):
        for last, until_us in enumerate(seen[first:], first):
            admitted = cost * (last - first + 1)
            assert (admitted - max(limit.burst, workers * cost)) * limit.unit_us <= until_us - since_us


@relaxed
@given(small_limits, st.lists(st.integers(1, 64), min_size=1, max_size=5), st.integers(0, 10**9), st.integers(1, 50))
def test_a_refusal_by_a_share_tells_the_wait(limit: Limit, fleet: list[int], debt: int, cost: int) -> None:
    """Whatever the bucket owed when the store went away, and however many workers there are by now: it is exact."""
    stored = [START_US + debt % (limit.tau_us + 1)]
    for workers in fleet:
        charges = charged(limit, workers, min(cost, limit.burst))
        outcome = take(stored, TakeRequest(charges), START_US)
        (level,) = statuses(charges, outcome)
        assert level.limit is charges[0].limit
        assert (level.retry_after_us > 0) is not outcome.allowed
        if not outcome.allowed:
            wait_us = level.retry_after_us
            assert not take(stored, TakeRequest(charges), START_US + wait_us - 1).allowed
            assert take(stored, TakeRequest(charges), START_US + wait_us).allowed


@relaxed
@given(small_limits, st.integers(1, 64), st.integers(0, 50))
def test_what_was_left_of_the_bucket_is_shared(limit: Limit, workers: int, left: int) -> None:
    """A TAT of the store's means the same here: of what it left in the bucket each worker has its part."""
    left, workers = min(left, limit.burst), min(workers, limit.burst)
    stored = [START_US + limit.tau_us - left * limit.unit_us]
    charges = charged(limit, workers, 0)
    (level,) = statuses(charges, take(stored, TakeRequest(charges), START_US))
    assert level.remaining == left // workers
