"""Shared refusals: each equals the client's own, except that its wait may be longer by up to one grain."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.addresses import packed
from shieldmw.core.bucket import Charge, Outcome, Party, TakeRequest, Term, take
from shieldmw.core.client import Client, Identity
from shieldmw.core.decision import Decision, Verdict, combine
from shieldmw.core.limits import LONGEST_TAU_US, Limit
from shieldmw.core.mode import Mode
from shieldmw.core.refusal_cache import DECISIONS_KEPT, LONGEST_GRAIN_US, RefusalCache

NOW_US = 10**12
V4 = packed("203.0.113.7")
ALICE = Identity("alice")
CLIENT = Client("ip", "203.0.113.7/32", "ip:203.0.113.7/32")
LIMIT = Limit("ip", 5, 60, 5)  # a unit takes 12 s: the grain is the longest


def grain_us(limit: Limit) -> int:
    """By how much a wait for this limit may be late, less one microsecond."""
    return max(1, min(LONGEST_GRAIN_US, limit.unit_us // 10))


def terms_of(*limits: Limit) -> tuple[Term, ...]:
    return tuple(Term(Party.ADDRESS, limit) for limit in limits)


def refused(limit: Limit, wait_us: int) -> Outcome:
    """A bucket that has a unit after this wait."""
    return Outcome(False, NOW_US, (NOW_US + limit.tau_us - limit.unit_us + wait_us,))


def decision(refusals: RefusalCache, outcome: Outcome) -> Decision:
    return refusals.decision(outcome, V4, None)


limits = st.builds(
    Limit,
    st.just("x"),
    amount=st.integers(1, 5000),
    period_s=st.sampled_from([1, 60, 86_400]),
    burst=st.integers(1, 20),
).filter(lambda limit: limit.tau_us <= LONGEST_TAU_US)


@st.composite
def charged(draw: st.DrawFn) -> tuple[Limit, int, int]:
    """A limit, a cost, and how full its bucket is; often at the very edge of what refuses, some are overdrawn."""
    limit = draw(limits)
    cost = draw(st.integers(0, limit.burst))
    edge_us = limit.tau_us - cost * limit.unit_us
    debt_us = draw(
        st.one_of(
            st.integers(0, 2 * limit.tau_us),
            st.integers(-2, 2).map(lambda off_us: min(max(0, edge_us + off_us), 2 * limit.tau_us)),
        )
    )
    return limit, cost, debt_us


@settings(deadline=None, max_examples=600)
@given(st.lists(charged(), min_size=1, max_size=4), st.integers(0, 10**6))
def test_a_shared_refusal_is_late_by_a_grain_at_most(asked: list[tuple[Limit, int, int]], now_us: int) -> None:
    """Never earlier than the exact one; and violated are exactly the limits that refuse, whatever else is charged."""
    named = [(Limit(f"x-{number}", *limit_of(limit)), cost, debt) for number, (limit, cost, debt) in enumerate(asked)]
    charges = tuple(Charge(CLIENT, limit, cost) for limit, cost, _ in named)
    outcome = take([now_us + debt_us for _, _, debt_us in named], TakeRequest(charges), now_us)
    if outcome.allowed:
        return
    terms = tuple(Term(Party.ADDRESS, limit, cost) for limit, cost, _ in named)
    refusals = RefusalCache(terms, Mode.NORMAL, live=False)
    exact = combine(charges, outcome, V4, None)
    for _ in range(2):
        told = decision(refusals, outcome)
        late_us = told.retry_after_us - exact.retry_after_us
        assert 0 <= late_us < max(grain_us(limit) for limit, cost, _ in named if cost)
        assert late_us < LONGEST_GRAIN_US
        assert told.violated == exact.violated != ()
        assert (told.verdict, told.reason, told.charges) == (exact.verdict, exact.reason, terms)
        for level, exact_level in zip(told.statuses, exact.statuses, strict=True):
            assert abs(level.full_after_us - exact_level.full_after_us) < grain_us(level.limit)
        later = [now_us + debt_us for _, _, debt_us in named]
        assert take(later, TakeRequest(charges), now_us + told.retry_after_us).allowed


def limit_of(limit: Limit) -> tuple[int, int, int]:
    """All of a limit but its name."""
    return limit.amount, limit.period_s, limit.burst


def test_it_is_the_client_s_own() -> None:
    """Address and identity are its own, mode and seat those of the plan."""
    refusals = RefusalCache(terms_of(LIMIT), Mode.EMERGENCY, live=True)
    guest = refusals.decision(refused(LIMIT, 1), V4, None)
    alice = refusals.decision(refused(LIMIT, 1), None, ALICE)
    assert (guest.address, guest.identity) == (V4, None)
    assert (alice.address, alice.identity) == (None, ALICE)
    for told in (guest, alice):
        assert type(told) is Decision
        assert (told.verdict, told.mode, told.live) == (Verdict.REFUSED, Mode.EMERGENCY, True)
        assert (told.place, told.signed_ticket) == (None, None)


@pytest.mark.parametrize(
    ("waits_us", "together"),
    [
        pytest.param((1, LONGEST_GRAIN_US), True, id="of-one-grain"),
        pytest.param((LONGEST_GRAIN_US, LONGEST_GRAIN_US + 1), False, id="of-two"),
        pytest.param((7_000_001, 7_000_001 + LONGEST_GRAIN_US), False, id="a-grain-later"),
    ],
)
@pytest.mark.parametrize("more", [(), (Limit("wide", 1000, 60, 1000),)], ids=["one-limit", "two-limits"])
def test_clients_of_about_the_same_wait_share_an_answer(
    waits_us: tuple[int, int], together: bool, more: tuple[Limit, ...]
) -> None:
    """What is rendered for one is there for all: they have the same slot for it, and the same rounded outcome."""
    refusals = RefusalCache(terms_of(LIMIT, *more), Mode.NORMAL, live=False)
    outcomes = [refused(LIMIT, wait_us) for wait_us in waits_us]
    outcomes = [outcome._replace(tats_us=(*outcome.tats_us, *[NOW_US] * len(more))) for outcome in outcomes]
    first, second = (decision(refusals, outcome) for outcome in outcomes)
    assert first.rendered == []
    assert (first.rendered is second.rendered) is together
    assert (first.outcome is second.outcome) is together


def test_time_makes_no_other_answer() -> None:
    """It is the wait that counts, not when it is asked for."""
    refusals = RefusalCache(terms_of(LIMIT), Mode.NORMAL, live=False)
    early = refused(LIMIT, 5)
    late = early._replace(now_us=early.now_us + 10**9, tats_us=(early.tats_us[0] + 10**9,))
    assert decision(refusals, early).rendered is decision(refusals, late).rendered


def test_plans_share_nothing() -> None:
    """Each plan has answers of its own."""
    first, second = (RefusalCache(terms_of(LIMIT), Mode.NORMAL, live=False) for _ in range(2))
    assert decision(first, refused(LIMIT, 5)).rendered is not decision(second, refused(LIMIT, 5)).rendered


@pytest.mark.parametrize("count", [1, 2])
def test_memory_is_bounded(count: int) -> None:
    """However many waits there are, no more refusals than that are kept, and those used last."""
    wide = Limit("ip", 1, 86_400, 1)
    refusals = RefusalCache(terms_of(*[wide] * count), Mode.NORMAL, live=False)

    def told(grains: int) -> Decision:
        (tat_us,) = refused(wide, grains * LONGEST_GRAIN_US).tats_us
        return decision(refusals, Outcome(False, NOW_US, (tat_us,) * count))

    first = told(1)
    for grains in range(2, 2 * DECISIONS_KEPT):
        told(grains)
    assert len(refusals._decisions) <= DECISIONS_KEPT
    assert told(2 * DECISIONS_KEPT - 1).rendered is told(2 * DECISIONS_KEPT - 1).rendered
    assert told(1).rendered is not first.rendered
