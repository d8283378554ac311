"""Guests who were refused are refused again by one decision for many: exact, never short in wait, and bounded."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gate.doubles import LeasingStore, LoopClock, facts, pass_time, run, worker
from shieldmw.core.bucket import Charge, Charges, Outcome
from shieldmw.core.client import Client
from shieldmw.core.decision import Decision, Reason, combine
from shieldmw.core.limits import Limit
from shieldmw.core.mode import Mode
from shieldmw.core.rules import Access, RouteRules
from shieldmw.gate.limiter.refusals import DECISIONS_KEPT, LONGEST_GRAIN_US, MOST_ROUTE_RULES, RefusedGuests

GUEST = Client("ip", "203.0.113.7/32", "ip:203.0.113.7/32")
NOW_US = 10**12
S = 1_000_000


def charges(limit: Limit, cost: int = 1, client: Client = GUEST) -> Charges:
    return (Charge(client, limit, cost),)


LIMITS = st.builds(
    Limit,
    st.just("ip"),
    st.sampled_from([1, 2, 3, 7, 300, 1_000_000]),
    st.sampled_from([1, 3, 60, 3600]),
    st.sampled_from([1, 2, 10, 300]),
)


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
    of, charged, route_rules = facts(), charges(limit, cost), RouteRules(live=True, limits=(limit,), cost=cost)
    step_us = cost * limit.unit_us
    tat_us = NOW_US + limit.tau_us - step_us + 1 + round(debt * (step_us - 1))
    guests = RefusedGuests()
    guests.remember(of, route_rules, mode, charged, tat_us)
    wait_us = tat_us + step_us - limit.tau_us - NOW_US
    for now_us in (NOW_US, NOW_US + round(later * wait_us) + off_us):
        true = combine(charged, Outcome(False, 0, (tat_us - now_us,)), None, None, mode, live=True)
        told = guests.find(of, route_rules, mode, now_us)
        assert (told is not None) == (tat_us - now_us + step_us > limit.tau_us)
        if told is None:
            continue
        longer_us = told.retry_after_us - true.retry_after_us
        assert 0 <= longer_us < max(1, min(LONGEST_GRAIN_US, limit.unit_us // 10))
        assert told._replace(retry_after_us=0, outcome=None) == true._replace(retry_after_us=0, outcome=None)
        assert told.violated == true.violated
        (said,), (level,) = told.levels, true.levels
        assert 0 <= said.full_after_us - level.full_after_us == longer_us
        assert said.remaining <= level.remaining
        again = guests.find(of, route_rules, mode, now_us)
        assert again == told
        assert again is not None
        assert again.kept is told.kept, "one answer for all"


@pytest.mark.parametrize(
    ("route_rules", "mode"),
    [
        (RouteRules(cost=2), Mode.NORMAL),
        (RouteRules(live=True), Mode.NORMAL),
        (RouteRules(access=Access.MEMBERS), Mode.NORMAL),
        (RouteRules(limits=(Limit("rule", 1, 60, 1),)), Mode.NORMAL),
        (RouteRules(), Mode.EMERGENCY),
    ],
)
def test_other_route_rules_and_modes_share_nothing(route_rules: RouteRules, mode: Mode) -> None:
    """Who was refused on some is not known on others; who was refused on both hears of each what is true of it."""
    guests = RefusedGuests()
    one, other = Limit("ip", 1, 60, 3), Limit("ip", 2, 60, 5)
    guests.remember(facts(), RouteRules(), Mode.NORMAL, charges(one), NOW_US + one.tau_us)
    assert guests.find(facts(), route_rules, mode, NOW_US) is None
    guests.remember(facts(peer="203.0.113.8"), route_rules, mode, charges(other), NOW_US + other.tau_us)
    assert guests.find(facts(), route_rules, mode, NOW_US) is None
    guests.remember(facts(), route_rules, mode, charges(other), NOW_US + other.tau_us)
    for of, in_mode, limit in ((RouteRules(), Mode.NORMAL, one), (route_rules, mode, other)):
        told = guests.find(facts(), of, in_mode, NOW_US)
        assert told is not None
        assert (told.mode, told.live) == (in_mode, of.live)
        assert [level.limit for level in told.levels] == [limit]
        assert told.retry_after_us == limit.unit_us


def test_each_is_told_of_its_own_client() -> None:
    """Guests who share a wait share its answer, and each decision names whoever asked."""
    guests, limit = RefusedGuests(), Limit("ip", 1, 60, 1)
    crowd = [Client("ip", f"203.0.113.{number}/32", f"ip:203.0.113.{number}/32") for number in range(9)]
    for number, client in enumerate(crowd):
        who, tat_us = facts(peer=f"203.0.113.{number}"), NOW_US + limit.tau_us
        guests.remember(who, RouteRules(), Mode.NORMAL, charges(limit, client=client), tat_us)
    told = [guests.find(facts(peer=f"203.0.113.{number}"), RouteRules(), Mode.NORMAL, NOW_US) for number in range(9)]
    assert [decision and decision.charges for decision in told] == [charges(limit, client=client) for client in crowd]
    assert len({id(decision.kept) for decision in told if decision}) == 1


@pytest.mark.parametrize(
    "other",
    [
        facts(peer="203.0.113.8"),
        facts(peer=None),
        facts()._replace(forwarded=("203.0.113.7",)),
        facts()._replace(forwarded=("",)),
    ],
)
def test_nobody_else_is_refused(other: Any) -> None:
    """A guest is its peer and its proxy header, each line of it."""
    guests, limit = RefusedGuests(), Limit("ip", 1, 60, 1)
    guests.remember(facts(), RouteRules(), Mode.NORMAL, charges(limit), NOW_US + limit.tau_us)
    assert guests.find(facts(path="/other"), RouteRules(), Mode.NORMAL, NOW_US) is not None
    assert guests.find(other, RouteRules(), Mode.NORMAL, NOW_US) is None
    guests.clear()
    assert guests.find(facts(), RouteRules(), Mode.NORMAL, NOW_US) is None


def test_a_flood_leaves_no_more_than_so_much() -> None:
    """Guests, terms and decisions are bounded; those who were refused last are known."""
    guests, limit = RefusedGuests(most_guests=100), Limit("ip", 10, 3600, 10)
    crowd = [facts(peer=str(number)) for number in range(5000)]
    for of in crowd:
        guests.remember(of, RouteRules(), Mode.NORMAL, charges(limit), NOW_US + limit.tau_us)
        assert guests.find(of, RouteRules(), Mode.NORMAL, NOW_US) is not None
    known = [guests.find(of, RouteRules(), Mode.NORMAL, NOW_US) is not None for of in crowd[::-1]]
    assert 50 <= sum(known) <= 100

    before = sum(type(found) is Decision for found in gc.get_objects())
    for number in range(3 * DECISIONS_KEPT):
        wait_us = number * (LONGEST_GRAIN_US // 10)
        guests.remember(crowd[0], RouteRules(), Mode.NORMAL, charges(limit), NOW_US + limit.tau_us - wait_us)
        guests.find(crowd[0], RouteRules(), Mode.NORMAL, NOW_US)
        guests.find(crowd[0], RouteRules(), Mode.NORMAL, NOW_US - 10 * wait_us)
    after = sum(type(found) is Decision for found in gc.get_objects())
    assert after - before <= DECISIONS_KEPT

    guests = RefusedGuests()
    some = [RouteRules(cost=cost) for cost in range(1, 2 * MOST_ROUTE_RULES)]
    for route_rules in some:
        guests.remember(crowd[0], route_rules, Mode.NORMAL, charges(limit), NOW_US + limit.tau_us)
    found = [guests.find(crowd[0], route_rules, Mode.NORMAL, NOW_US) is not None for route_rules in some]
    assert sum(found) == MOST_ROUTE_RULES


def test_a_flood_of_guests_shares_its_decisions() -> None:
    """Through the gate: those who are refused in the same moment are told the same, at once, each in its own name."""
    clock = LoopClock()
    one = worker(LeasingStore(clock), clock, ip_limit="2/minute")

    async def story() -> None:
        peers = [f"198.18.0.{number}" for number in range(50)]
        began_us = clock.us()
        for seconds in (0.0, 0.0, 0.0, 0.0, 0.3, 0.3):
            await pass_time(seconds)
            for peer in peers:
                await one.gate.decide(facts(peer=peer))
        told = [one.gate.decide_now(facts(peer=peer)) for peer in peers]
        decisions = [decision for decision in told if isinstance(decision, Decision)]
        assert len({id(decision.kept) for decision in decisions}) == 1
        assert [decision.charges[0].client.text for decision in decisions] == [f"{peer}/32" for peer in peers]
        decision = decisions[0]
        assert (decision.reason, decision.address, decision.identity) == (Reason.QUOTA, None, None)
        assert 0 <= decision.retry_after_us - 29_400_000 < LONGEST_GRAIN_US
        await pass_time((began_us + 30_000_000 - 1 - clock.us()) / 1e6)
        last = one.gate.decide_now(facts(peer=peers[0]))
        assert isinstance(last, Decision)
        assert last.refused
        assert 1 <= last.retry_after_us <= LONGEST_GRAIN_US
        await pass_time(1e-6)
        assert not (await one.gate.decide(facts(peer=peers[0]))).refused

    run(story())
