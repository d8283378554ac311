"""Clients that are refused at about the same time share a refusal: the verdict is exact, the wait never too short."""

from __future__ import annotations

import gc

from hypothesis import example, given, settings
from hypothesis import strategies as st

from gate.doubles import (
    LeasingStore,
    LoopClock,
    facts,
    nth_address,
    packed,
    pass_time,
    plan_of,
    requester_at,
    run,
    worker,
)
from shieldmw.core.bucket import Outcome, Party, Term
from shieldmw.core.client import Identity
from shieldmw.core.decision import Decision, Reason, combine
from shieldmw.core.limits import Limit
from shieldmw.core.mode import Mode
from shieldmw.core.refusal_cache import DECISIONS_KEPT, LONGEST_GRAIN_US
from shieldmw.gate.limiter.known_tats import KnownTats

NOW_US = 10**12
ADDRESS, OTHER = packed("203.0.113.7"), packed("203.0.113.8")

LIMITS = st.builds(
    Limit,
    st.just("ip"),
    st.sampled_from([1, 2, 3, 7, 300, 1_000_000]),
    st.sampled_from([1, 3, 60, 3600]),
    st.sampled_from([1, 2, 10, 300]),
)


def grain_us(limit: Limit) -> int:
    """By less than this a wait may be longer than the true one."""
    return max(1, min(250_000, limit.unit_us // 10))


@settings(deadline=None, max_examples=400)
@given(LIMITS, st.integers(1, 10), st.floats(0, 1), st.floats(0, 1.2), st.integers(-2, 2), st.sampled_from(Mode))
@example(Limit("ip", 1, 3600, 1), 1, 1.0, 1.0, -1, Mode.NORMAL)
@example(Limit("ip", 1, 3600, 1), 1, 1.0, 1.0, 0, Mode.NORMAL)
@example(Limit("ip", 1_000_000, 1, 1), 1, 1.0, 0.0, 0, Mode.EMERGENCY)
def test_the_verdict_is_exact_and_the_wait_at_most_a_grain_longer(
    limit: Limit, cost: int, debt: float, later: float, off_us: int, mode: Mode
) -> None:
    """To the microsecond around the end of the wait, whatever it was that was remembered."""
    cost = min(cost, limit.burst)
    plan = plan_of(Term(Party.ADDRESS, limit, cost), mode=mode, live=True)
    requester, refusals = requester_at(plan), KnownTats()
    step_us = cost * limit.unit_us
    tat_us = NOW_US + limit.tau_us - step_us + 1 + round(debt * (step_us - 1))
    refusals.remember(requester, Outcome(False, NOW_US, (tat_us,)), NOW_US)
    wait_us = tat_us + step_us - limit.tau_us - NOW_US
    for now_us in (NOW_US, NOW_US + round(later * wait_us) + off_us):
        true = combine(plan.terms, Outcome(False, 0, (tat_us - now_us,)), ADDRESS, None, mode, live=True)
        found = refusals.find(requester, now_us)
        assert (found is not None) == (tat_us - now_us + step_us > limit.tau_us)
        if found is None:
            continue
        told = plan.refusals.decision(found, ADDRESS, None)
        longer_us = told.retry_after_us - true.retry_after_us
        assert 0 <= longer_us < grain_us(limit)
        assert told._replace(retry_after_us=0, outcome=None) == true._replace(retry_after_us=0, outcome=None)
        assert told.violated == true.violated
        (said,), (level,) = told.statuses, true.statuses
        assert said.full_after_us - level.full_after_us == longer_us
        assert said.remaining <= level.remaining
        again = plan.refusals.decision(found, ADDRESS, None)
        assert again == told
        assert again.rendered is told.rendered, "one answer for all"


@settings(deadline=None, max_examples=400)
@given(st.lists(st.tuples(LIMITS, st.integers(0, 3), st.floats(0, 2) | st.integers(-2, 2)), min_size=2, max_size=3))
@example([(Limit("ip", 1, 60, 1), 1, 1.0), (Limit("ip", 1, 60, 3), 2, 0)])
def test_of_several_limits_those_refuse_that_truly_do(some: list[tuple[Limit, int, float]]) -> None:
    """However near the others are to it: none is named that has enough left, and none is left out."""
    terms = [Term(Party.ADDRESS, limit, min(cost, limit.burst)) for limit, cost, _ in some]
    plan = plan_of(*terms)
    # A share of the bucket is used, or just so much that the cost fits, give or take some microseconds.
    full_after_us = tuple(
        round(used * term.limit.tau_us)
        if isinstance(used, float)
        else max(0, term.limit.tau_us - term.cost * term.limit.unit_us + used)
        for term, (_, _, used) in zip(terms, some, strict=True)
    )
    true = combine(terms, Outcome(False, 0, full_after_us), ADDRESS, None)
    if not true.violated:
        return
    tats_us = tuple([NOW_US + each for each in full_after_us])
    told = plan.refusals.decision(Outcome(False, NOW_US, tats_us), ADDRESS, None)
    assert (told.reason, told.violated) == (true.reason, true.violated)
    assert told.violated == true.violated
    for said, level in zip(told.statuses, true.statuses, strict=True):
        longer_us = said.retry_after_us - level.retry_after_us
        assert 0 <= longer_us < grain_us(level.limit)
        assert abs(said.full_after_us - level.full_after_us) < grain_us(level.limit)


def test_each_is_told_of_its_own_client_and_of_its_own_plan() -> None:
    """Clients who share a wait share its answer, and each decision names whoever asked; another mode shares nothing."""
    term = Term(Party.SUBJECT, Limit("token", 1, 60, 1))
    refused = Outcome(False, NOW_US, (NOW_US + 60_000_000,))
    normal, emergency = plan_of(term), plan_of(term, mode=Mode.EMERGENCY)
    alice, bob = Identity("alice"), Identity("bob")
    one, other = normal.refusals.decision(refused, ADDRESS, alice), normal.refusals.decision(refused, OTHER, bob)
    third = emergency.refusals.decision(refused, ADDRESS, alice)
    assert [(each.address, each.identity, each.mode) for each in (one, other, third)] == [
        (ADDRESS, alice, Mode.NORMAL),
        (OTHER, bob, Mode.NORMAL),
        (ADDRESS, alice, Mode.EMERGENCY),
    ]
    assert one.rendered is other.rendered
    assert one.rendered is not third.rendered


def test_no_more_than_so_many_are_kept() -> None:
    """However long those wait who are refused."""
    plan = plan_of(Term(Party.ADDRESS, Limit("ip", 10, 3600, 10)))

    def alive() -> int:
        gc.collect()
        return sum(type(found) is Decision for found in gc.get_objects())

    before = alive()
    for number in range(3 * DECISIONS_KEPT):
        plan.refusals.decision(Outcome(False, 0, (3_600_000_000 + number * LONGEST_GRAIN_US,)), ADDRESS, None)
    assert DECISIONS_KEPT // 2 <= alive() - before <= DECISIONS_KEPT


def test_a_flood_of_guests_shares_its_refusals() -> None:
    """Through the gate: those who are refused in the same moment are told the same, at once, each in its own name."""
    clock = LoopClock()
    one = worker(LeasingStore(clock), clock, ip_limit="2/minute")

    async def story() -> None:
        peers = [nth_address(number) for number in range(50)]
        began_us = clock.us()
        for seconds in (0.0, 0.0, 0.0, 0.0, 0.3, 0.3):
            await pass_time(seconds)
            for peer in peers:
                await one.gate.decide(facts(peer=peer))
        told = [one.gate.decide_now(facts(peer=peer)) for peer in peers]
        decisions = [decision for decision in told if isinstance(decision, Decision)]
        assert [decision.address for decision in decisions] == [packed(peer) for peer in peers]
        assert len({id(decision.rendered) for decision in decisions}) == 1
        decision = decisions[0]
        assert (decision.reason, decision.identity) == (Reason.QUOTA, None)
        assert 0 <= decision.retry_after_us - 29_400_000 < LONGEST_GRAIN_US
        await pass_time((began_us + 30_000_000 - 1 - clock.us()) / 1e6)
        last = one.gate.decide_now(facts(peer=peers[0]))
        assert isinstance(last, Decision)
        assert last.refused
        assert 1 <= last.retry_after_us <= LONGEST_GRAIN_US
        await pass_time(1e-6)
        assert not (await one.gate.decide(facts(peer=peers[0]))).refused

    run(story())
