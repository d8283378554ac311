"""Portions of one bucket on several workers: however they are spent, refunded or given back, it keeps its promise."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shieldmw.core.bucket import FURTHEST_US, Charge
from shieldmw.core.client import shared_client
from shieldmw.core.limits import Limit
from shieldmw.core.portion import AHEAD_US, LONGEST_SPREAD_US, Demand, HeldUnits, Portion, Spent, Turns, grant

NOW_US = 10**9
LONG_AGO_US = -(10**15)
DAILY = Limit("guests", 1, 86_400, 10)
WORKERS = 3
STORE_AHEAD_US = 77_777_777

relaxed = settings(deadline=None, max_examples=400)


@pytest.mark.parametrize(
    ("stored_units", "want", "least", "granted", "reason"),
    [
        (None, 3, 1, 3, "a missing bucket is full"),
        (0, 10, 1, 10, "all of it"),
        (0, 11, 1, 10, "what is there, if more is wanted"),
        (7, 5, 1, 3, "the rest"),
        (7, 5, 4, 0, "nothing, if the rest is of no use"),
        (10, 1, 1, 0, "nothing is left"),
        (15, 1, 1, 0, "overdrawn"),
        (20, 1, 1, 0, "overdrawn by as much as it holds"),
        (1000, 1, 1, 0, "further ahead than any bucket of a limit like this can be"),
        (-5, 10, 1, 10, "long full"),
    ],
)
def test_what_is_granted(stored_units: int | None, want: int, least: int, granted: int, reason: str) -> None:
    """As many units as are wanted and left; the TAT moves by them, and by nothing if there are none."""
    stored_us = None if stored_units is None else NOW_US + stored_units * DAILY.unit_us
    old_us = NOW_US + max(0, min(stored_units or 0, 2 * DAILY.burst)) * DAILY.unit_us
    portion = grant(stored_us, DAILY, want, least, NOW_US)
    assert portion == Portion(NOW_US, granted, old_us + granted * DAILY.unit_us), reason


@pytest.mark.parametrize(
    ("stored_us", "tat_us", "reason"),
    [
        (NOW_US + 3_600_000_000, NOW_US + 3_600_000_000, "charged by a limit that takes longer to fill"),
        (NOW_US + FURTHEST_US, NOW_US + FURTHEST_US, "as far ahead as counts"),
        (NOW_US + FURTHEST_US + 1, NOW_US + FURTHEST_US, "further"),
        (10**30, NOW_US + FURTHEST_US, "garbage"),
    ],
)
def test_nothing_is_granted_before_a_longer_limit_is_paid(stored_us: int, tat_us: int, reason: str) -> None:
    """A deploy or an emergency has shortened the limit: when a unit will be there is said truly, up to a day ahead."""
    assert grant(stored_us, Limit("guests", 100, 1, 100), 1, 1, NOW_US) == Portion(NOW_US, 0, tat_us), reason


@dataclass
class World:
    """A bucket, the true time, which the store's clock shows, and workers whose clocks show less."""

    limit: Limit
    now_us: int = NOW_US
    tat_us: int | None = None
    held: list[HeldUnits] = field(default_factory=list)
    admitted: list[int] = field(default_factory=list)
    spent: list[tuple[int, int, Spent]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.held = [HeldUnits(self.limit) for _ in range(WORKERS)]

    def ask(self, worker: int, want: int, late_us: int) -> None:
        """Ask for a portion, with an answer that takes so long."""
        portion = grant(self.tat_us, self.limit, want, 1, self.now_us)
        if portion.units:
            self.tat_us = portion.tat_us
        self.held[worker].add(portion, -STORE_AHEAD_US - late_us)

    def spend(self, worker: int, cost: int, times: int) -> None:
        """Some requests."""
        for _ in range(times):
            held, now_us = self.held[worker], self.now_us - STORE_AHEAD_US
            before = held.units(now_us), held.spent
            tat_us = held.spend(cost, now_us)
            if tat_us:
                held.undo(cost)
            assert (held.units(now_us), held.spent) == before
            spent = held.take(cost, now_us)
            assert not tat_us or spent[-1][2] == tat_us
            if spent:
                self.spent.append((worker, len(self.admitted), spent))
                self.admitted += [self.now_us] * cost

    def refund(self, which: int) -> None:
        """A request that was charged is not admitted after all."""
        if self.spent:
            worker, first, spent = self.spent.pop(which % len(self.spent))
            self.held[worker].refund(spent)
            units = sum(end_us - start_us for _, start_us, end_us in spent) // self.limit.unit_us
            self.admitted[first : first + units] = [0] * units

    def give_back(self, worker: int) -> None:
        """A worker gives up what it holds, and the store takes it back if nobody has charged the bucket since."""
        charge = Charge(shared_client("guests", self.limit.name), self.limit)
        unspent = self.held[worker].end(charge, self.now_us - STORE_AHEAD_US)
        if unspent is not None and unspent.ceiling_us == self.tat_us:
            self.tat_us -= unspent.give_us

    def wait(self, quarters: int) -> None:
        """Some quarters of a unit's time go by."""
        self.now_us += quarters * self.limit.unit_us // 4

    def assert_promise(self) -> None:
        """No window of the true time holds more than burst + rate * D."""
        times_us = sorted(at_us for at_us in self.admitted if at_us)
        for first, from_us in enumerate(times_us):
            for count, until_us in enumerate(times_us[first:], 1):
                assert count * self.limit.unit_us <= until_us - from_us + self.limit.tau_us


small = st.builds(Limit, st.just("guests"), st.integers(1, 5), st.sampled_from([1, 60]), st.integers(1, 12))
steps = st.one_of(
    st.tuples(st.just("ask"), st.integers(0, WORKERS - 1), st.integers(1, 12), st.sampled_from([0, 0, 300, 10**6])),
    st.tuples(st.just("spend"), st.integers(0, WORKERS - 1), st.sampled_from([1, 1, 1, 2, 3]), st.just(1)),
    st.tuples(st.just("spend"), st.integers(0, WORKERS - 1), st.sampled_from([1, 1, 2]), st.just(12)),
    st.tuples(st.just("refund"), st.integers(0, 50)),
    st.tuples(st.just("give_back"), st.integers(0, WORKERS - 1)),
    st.tuples(st.just("wait"), st.sampled_from([1, 2, 3, 4, 9, 50])),
)


# What a worker spends whose portion has been idle while the bucket refilled.
IDLE = ("spend", 0, 1, 12)


@relaxed
@given(limit=small, trace=st.lists(steps, min_size=5, max_size=60))
@example(Limit("guests", 1, 1, 4), [("ask", 0, 3, 0), ("wait", 50), ("ask", 1, 4, 0), ("spend", 1, 1, 12), IDLE])
def test_no_more_than_the_promise(limit: Limit, trace: list[tuple[Any, ...]]) -> None:
    """Whatever workers ask for, spend, refund and give back, in any order: at most burst + rate * D in any span D."""
    world = World(limit)
    for name, *values in trace:
        getattr(world, name)(*values)
    world.assert_promise()


@relaxed
@given(limit=small, units=st.integers(1, 12), costs=st.lists(st.integers(1, 4), max_size=12), data=st.data())
def test_what_is_refunded_can_be_spent_again(limit: Limit, units: int, costs: list[int], data: st.DataObject) -> None:
    """Nothing is lost: at one moment the units held and those spent are what was granted, with refunds in any order."""
    held = HeldUnits(limit)
    portion = grant(None, limit, units, 1, NOW_US)
    held.add(portion, 0)
    spent = [one for cost in costs if (one := held.take(cost, NOW_US))]
    for _ in range(data.draw(st.integers(0, len(spent)))):
        held.refund(spent.pop(data.draw(st.integers(0, len(spent) - 1))))
    used = sum(end_us - start_us for one in spent for _, start_us, end_us in one) // limit.unit_us
    assert held.units(NOW_US) == portion.units - used
    assert sum(held.spend(1, NOW_US) > 0 for _ in range(units + 1)) == portion.units - used


def test_units_refunded_in_any_order_come_back_once() -> None:
    """A piece that became one with the next is gone: a later refund of its units brings back only those."""
    held = HeldUnits(DAILY)
    held.add(Portion(0, 4, 4 * DAILY.unit_us), 0)

    def take(cost: int) -> Spent:
        spent = held.take(cost, LONG_AGO_US)
        assert spent
        return spent

    first, second = take(2), take(1)
    held.refund(first)
    third, fourth = take(1), take(2)
    held.refund(second)
    held.refund(fourth)
    held.refund(third)
    assert held.units(LONG_AGO_US) == 4


def test_a_cost_may_be_spread_over_pieces() -> None:
    """Units that were granted apart, with another worker's in between, pay for one request; too few pay for none."""
    held, tat_us = HeldUnits(DAILY), None
    for units, is_mine in ((2, True), (1, False), (1, True)):
        portion = grant(tat_us, DAILY, units, 1, NOW_US)
        tat_us = portion.tat_us
        if is_mine:
            held.add(portion, 0)
    assert held.spend(4, NOW_US) == 0
    spent = held.take(3, NOW_US)
    assert len(spent) == 2
    assert held.units(NOW_US) == 0
    held.refund(spent)
    assert held.units(NOW_US) == 3


def test_an_idle_portion_shrinks_as_the_bucket_refills() -> None:
    """The bucket's clock goes on: a unit that began in the past cannot be spent any more."""
    held = HeldUnits(DAILY)
    held.add(grant(None, DAILY, 4, 1, NOW_US), 0)
    assert [held.units(NOW_US + days * DAILY.unit_us) for days in range(6)] == [4, 3, 2, 1, 0, 0]
    later_us = NOW_US + 2 * DAILY.unit_us
    assert [held.spend(1, later_us) > 0 for _ in range(4)] == [True, True, False, False]


def test_a_refund_after_giving_back_brings_only_the_refunded_unit() -> None:
    """What was given back belongs to others, also if a request that was charged before is then refunded."""
    held = HeldUnits(DAILY)
    held.add(grant(None, DAILY, 5, 1, NOW_US), 0)
    spent = held.take(1, NOW_US)
    unspent = held.end(Charge(shared_client("guests", "guests"), DAILY), NOW_US)
    assert unspent is not None
    assert unspent.give_us == 4 * DAILY.unit_us
    held.refund(spent)
    assert held.units(NOW_US) == 1


def test_demand_is_what_was_asked_for_in_20_ms_granted_or_not() -> None:
    """Measured over the time since the last measurement; until it is due again, a surge counts at once."""
    demand, held = Demand(), HeldUnits(Limit("guests", 1000, 1, 1000))
    demand.measure(held, NOW_US)
    held.add(Portion(NOW_US, 30, NOW_US + 30_000), 0)
    held.take(30, NOW_US)
    demand.refused += 10
    assert demand.measure(held, NOW_US + 4 * AHEAD_US) == 10
    assert (held.spent, demand.refused) == (0, 0)
    demand.refused += 25
    assert demand.measure(held, NOW_US + 5 * AHEAD_US - 1) == 25
    assert demand.refused == 25
    assert demand.measure(held, NOW_US + 5 * AHEAD_US) == 25
    assert demand.measure(held, NOW_US + 6 * AHEAD_US) == 0


def test_refused_requests_have_turns_one_after_the_other() -> None:
    """Each after the units of those before it; later ones whole seconds from now, and none beyond the longest."""
    turns, free_us = Turns(400_000), NOW_US + 100_000
    waits_us = [turns.next(2, free_us, NOW_US) - NOW_US for _ in range(200)]
    assert waits_us[:5] == [100_000, 1_000_000, 2_000_000, 3_000_000, 4_000_000]
    assert max(waits_us) <= 100_000 + LONGEST_SPREAD_US + 1_000_000
    assert waits_us[-1] == max(waits_us)


def test_a_dear_request_pushes_the_others_no_further_than_the_longest_spread() -> None:
    """A unit may take an hour to refill: as soon as there is one again, the next wait is that for a unit."""
    turns, free_us = Turns(3_600 * 1_000_000), NOW_US + 100_000
    for _ in range(10):
        turns.next(5, free_us, NOW_US)
    later_us = free_us + LONGEST_SPREAD_US
    assert turns.next(1, later_us, later_us) == later_us
