"""The bucket's promise, tested with random limits, traces and clocks.

In any span D the admitted cost is at most burst + rate * D. It holds for a clock that only goes forward; for one
that is set back and forward, D counts every forward movement of the clock: setting it back never admits anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import accumulate

from hypothesis import given, settings
from hypothesis import strategies as st

from shieldmw.core.bucket import FURTHEST_US, Charge, TakeRequest, statuses, take
from shieldmw.core.client import Client
from shieldmw.core.limits import US_PER_S, Limit

ALICE = Client("token", "alice", "token:alice")
START_US = 10**15

relaxed = settings(deadline=None)

limits = st.one_of(
    st.builds(
        Limit,
        st.just("ip"),
        amount=st.integers(1, 1_000_000),
        period_s=st.sampled_from([1, 10, 60, 3600, 86_400]),
        burst=st.integers(1, 50),
    ),
    st.sampled_from([Limit("ip", 1, 86_400, 1), Limit("ip", 1_000_000, 1, 1), Limit("ip", 1_000_000, 1, 10**6)]),
)


@st.composite
def traces(draw: st.DrawFn, forward_only: bool = True) -> tuple[Limit, list[tuple[int, int]]]:
    """A limit and steps of (microseconds since the step before, cost), crowded around the bucket's edges."""
    limit = draw(limits)
    around = st.sampled_from([0, 0, 0, 1, limit.unit_us - 1, limit.unit_us, limit.tau_us, limit.tau_us + 1])
    between = st.integers(0, 2 * limit.tau_us)
    steps = st.one_of(around, st.integers(0, 3 * limit.unit_us), between)
    if not forward_only:
        steps = st.one_of(steps, st.integers(-30 * US_PER_S, 30 * US_PER_S))
    costs = st.one_of(st.just(1), st.integers(0, limit.burst), st.just(limit.burst))
    return limit, draw(st.lists(st.tuples(steps, costs), min_size=1, max_size=40))


def admit(limit: Limit, trace: Iterable[tuple[int, int]]) -> list[int]:
    """What of each (now, cost) of the trace is admitted: its cost, or 0."""
    tat_us: int | None = None
    admitted = []
    for now_us, cost in trace:
        outcome = take((tat_us,), TakeRequest((Charge(ALICE, limit, cost),)), now_us)
        if outcome.allowed:
            tat_us = outcome.tats_us[0]
        admitted.append(cost if outcome.allowed else 0)
    return admitted


def timed(steps: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Steps with their times instead of the time since the step before."""
    nows = accumulate((step for step, _ in steps), initial=START_US)
    next(nows)
    return [(now_us, cost) for now_us, (_, cost) in zip(nows, steps, strict=True)]


def assert_promise(limit: Limit, spans_us: Sequence[int], admitted: Sequence[int]) -> None:
    """No window of the trace holds more than burst + rate * D; ``spans_us`` is how far each step reached forward."""
    for first in range(len(admitted)):
        elapsed_us = total = 0
        for index in range(first, len(admitted)):
            elapsed_us += spans_us[index] if index > first else 0
            total += admitted[index]
            over = (total - limit.burst) * limit.period_s * US_PER_S
            assert over <= elapsed_us * limit.amount, f"{total} units in {elapsed_us} us from step {first}"


@relaxed
@given(traces())
def test_no_span_admits_more_than_burst_plus_rate(trace: tuple[Limit, list[tuple[int, int]]]) -> None:
    """With a clock that only goes forward, any span D of any trace admits at most burst + rate * D."""
    limit, steps = trace
    assert_promise(limit, [step for step, _ in steps], admit(limit, timed(steps)))


@relaxed
@given(traces(forward_only=False))
def test_a_clock_that_jumps_admits_only_for_its_way_forward(trace: tuple[Limit, list[tuple[int, int]]]) -> None:
    """Where the clock jumps, D is the sum of its forward movements: going back gives nobody anything."""
    limit, steps = trace
    assert_promise(limit, [max(0, step) for step, _ in steps], admit(limit, timed(steps)))


@relaxed
@given(traces(forward_only=False))
def test_no_clock_locks_a_client_out(trace: tuple[Limit, list[tuple[int, int]]]) -> None:
    """However the clock jumped before, no wait is longer than it was set back beyond an empty bucket."""
    limit, steps = trace
    tat_us: int | None = None
    latest_us = START_US
    for now_us, cost in timed(steps):
        latest_us = max(latest_us, now_us)
        charges = (Charge(ALICE, limit, cost),)
        outcome = take((tat_us,), TakeRequest(charges), now_us)
        level = statuses(charges, outcome)[0]
        assert level.retry_after_us <= limit.tau_us + latest_us - now_us
        assert 0 <= level.full_after_us <= limit.tau_us + latest_us - now_us
        if outcome.allowed:
            tat_us = outcome.tats_us[0]


@relaxed
@given(traces())
def test_the_bucket_is_a_token_bucket(trace: tuple[Limit, list[tuple[int, int]]]) -> None:
    """Decision, remaining (rounded down) and wait (rounded up) are those of a token bucket in exact fractions."""
    limit, steps = trace
    tokens = Fraction(limit.burst)
    tat_us: int | None = None
    for (step, cost), (now_us, _) in zip(steps, timed(steps), strict=True):
        tokens = min(Fraction(limit.burst), tokens + Fraction(step, limit.unit_us))
        charges = (Charge(ALICE, limit, cost),)
        outcome = take((tat_us,), TakeRequest(charges), now_us)
        level = statuses(charges, outcome)[0]
        assert outcome.allowed is (cost <= tokens)
        if outcome.allowed:
            tokens -= cost
            tat_us = outcome.tats_us[0]
            assert level.retry_after_us == 0
        else:
            assert level.retry_after_us == -((tokens - cost) * limit.unit_us // 1)
        assert level.remaining == tokens // 1
        assert level.full_after_us == (limit.burst - tokens) * limit.unit_us


@relaxed
@given(traces())
def test_a_refusal_changes_nothing(trace: tuple[Limit, list[tuple[int, int]]]) -> None:
    """Leave all refused requests out of a trace, and the rest is admitted just the same."""
    limit, steps = trace
    requests = timed(steps)
    admitted = admit(limit, requests)
    passed = [request for request, cost in zip(requests, admitted, strict=True) if cost or not request[1]]
    assert admit(limit, passed) == [cost for _, cost in passed]


@st.composite
def refusals(draw: st.DrawFn) -> tuple[Limit, int, int]:
    """A limit, the debt of its bucket in microseconds, and a cost from 1 to the burst.

    A debt of more than the bucket holds is that of a longer limit, which a deploy or an emergency has shortened.
    """
    limit = draw(limits)
    debts_us = st.integers(0, limit.tau_us) | st.integers(0, max(2 * limit.tau_us, FURTHEST_US))
    return limit, draw(debts_us), draw(st.integers(1, limit.burst))


@relaxed
@given(refusals())
def test_the_wait_is_exact(refusal: tuple[Limit, int, int]) -> None:
    """A request that was refused passes after the wait it was told, and not a microsecond sooner."""
    limit, debt_us, cost = refusal
    charges = (Charge(ALICE, limit, cost),)
    stored = (START_US + debt_us,)
    outcome = take(stored, TakeRequest(charges), START_US)
    wait_us = statuses(charges, outcome)[0].retry_after_us
    if outcome.allowed:
        assert wait_us == 0
    else:
        assert not take(stored, TakeRequest(charges), START_US + wait_us - 1).allowed
        assert take(stored, TakeRequest(charges), START_US + wait_us).allowed


@relaxed
@given(st.lists(refusals(), min_size=1, max_size=5))
def test_charges_pass_together_or_not_at_all(refusals: list[tuple[Limit, int, int]]) -> None:
    """Several charges pass exactly where each alone would, and their refusal leaves every TAT as a look finds it."""
    stored = [START_US + debt_us for _, debt_us, _ in refusals]
    charges = tuple(Charge(ALICE, limit, cost) for limit, _, cost in refusals)
    looks = tuple(Charge(ALICE, limit, 0) for limit, _, _ in refusals)
    alone = [take((tat_us,), TakeRequest((charge,)), START_US) for tat_us, charge in zip(stored, charges, strict=True)]
    together = take(stored, TakeRequest(charges), START_US)
    assert together.allowed is all(outcome.allowed for outcome in alone)
    if together.allowed:
        assert together.tats_us == tuple(outcome.tats_us[0] for outcome in alone)
    else:
        assert together.tats_us == take(stored, TakeRequest(looks), START_US).tats_us == tuple(stored)


@relaxed
@given(limits, st.integers(0, 200))
def test_a_client_that_never_stops_asking_gets_the_whole_rate(limit: Limit, units: int) -> None:
    """After the burst, each unit's time brings one more: the promise is met in full, not undercut."""
    whole_burst = [(START_US, limit.burst)]
    then = [(START_US + index * limit.unit_us, 1) for index in range(1, units + 1)]
    assert sum(admit(limit, whole_burst + then)) == limit.burst + units
