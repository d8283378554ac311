"""Debts: if workers admit alone and charge later, every bucket ends as if the store had been queried."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldmw.core import bucket
from shieldmw.core.bucket import Charge, Charges, TakeRequest, worker_shares
from shieldmw.core.client import Client
from shieldmw.core.debts import Debt, Debts, deepest_us, settled_us
from shieldmw.core.limits import Limit

CLIENT = Client("ip", "203.0.113.7/32", "ip:203.0.113.7/32")
LIMIT = Limit("ip", 60, 60, 12)
CHARGES = (Charge(CLIENT, LIMIT),)
BUCKET = CHARGES[0].bucket
UNIT_US = LIMIT.unit_us
T0_US = 1_000_000_000_000

# Whose turn it is, how long after the one before, and whether it tries in vain to charge the store.
Turns = list[tuple[int, int, bool]]
turns = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3 * UNIT_US), st.booleans()), max_size=60)


class Alone:
    """Workers that keep the bucket each for itself, from a store's TAT on."""

    def __init__(self, workers: int, store_us: int | None) -> None:
        self.store_us = store_us
        self._tats_us = [store_us] * workers
        self._debts = [Debts(16) for _ in range(workers)]
        self._shares = worker_shares(CHARGES, workers)

    def ask(self, worker: int, now_us: int) -> bool:
        """Whether a worker lets a request pass."""
        outcome = bucket.take([self._tats_us[worker]], TakeRequest(self._shares), now_us)
        if outcome.allowed:
            self._tats_us[worker] = outcome.tats_us[0]
            self._debts[worker].add(CHARGES, self._shares, outcome)
        return outcome.allowed

    def tat_us(self, worker: int, now_us: int) -> int:
        """The bucket of one worker."""
        return max(now_us, self._tats_us[worker] or 0)

    def settle_in_vain(self, worker: int, now_us: int) -> None:
        """One worker does not reach the store."""
        self._debts[worker].restore(self._debts[worker].collect(now_us), now_us)

    def settle(self, now_us: int) -> None:
        """Each worker charges the store."""
        for debts in self._debts:
            for debt in debts.collect(now_us):
                self.store_us = settled_us(self.store_us, debt.owed_us(now_us), LIMIT, now_us)
            assert not debts


def drained(store_us: int | None, now_us: int) -> int:
    """How many requests the store's bucket still lets pass at once."""
    passed = 0
    while (outcome := bucket.take([store_us], TakeRequest(CHARGES), now_us)).allowed:
        store_us, passed = outcome.tats_us[0], passed + 1
    return passed


@given(used=st.integers(0, 12), steps=turns, rest_us=st.integers(0, 5 * UNIT_US))
def test_one_worker_leaves_the_bucket_that_it_kept(used: int, steps: Turns, rest_us: int) -> None:
    """To the microsecond, whatever was spent before, and however long it took."""
    alone = Alone(1, T0_US + used * UNIT_US)
    now_us = T0_US
    for _, after_us, in_vain in steps:
        now_us += after_us
        alone.ask(0, now_us)
        if in_vain:
            alone.settle_in_vain(0, now_us)
    now_us += rest_us
    alone.settle(now_us)
    assert max(now_us, alone.store_us or 0) == alone.tat_us(0, now_us)


@given(workers=st.integers(1, 4), used=st.integers(0, 12), steps=turns)
def test_a_fleet_admits_no_more_than_one_bucket(workers: int, used: int, steps: Turns) -> None:
    """Before, alone, and after it together: never more than what was left, and what came back."""
    alone = Alone(workers, T0_US + used * UNIT_US)
    now_us, passed = T0_US, 0
    for worker, after_us, in_vain in steps:
        now_us += after_us
        passed += alone.ask(worker % workers, now_us)
        if in_vain:
            alone.settle_in_vain(worker % workers, now_us)
    alone.settle(now_us)
    passed += drained(alone.store_us, now_us)
    assert passed <= LIMIT.burst - used + (now_us - T0_US) / UNIT_US


@given(workers=st.integers(2, 4), used=st.integers(0, 12), steps=turns)
def test_what_is_admitted_beyond_the_bucket_is_paid_back(workers: int, used: int, steps: Turns) -> None:
    """Workers that believe in a full bucket admit too much together; the store refuses until that has come back."""
    alone = Alone(workers, None)
    alone.store_us = T0_US + used * UNIT_US
    passed = sum(alone.ask(worker % workers, T0_US) for worker, *_ in steps)
    alone.settle(T0_US)
    later_us = T0_US + 2 * LIMIT.tau_us
    passed += drained(alone.store_us, later_us)
    assert passed <= LIMIT.burst - used + (later_us - T0_US) / UNIT_US


@given(stored_us=st.none() | st.integers(T0_US - 10, T0_US + bucket.FURTHEST_US), owed_us=st.integers(1, 10**9))
def test_settling_never_makes_a_bucket_fuller(stored_us: int | None, owed_us: int) -> None:
    """Also where a longer limit has charged it further ahead than debts would."""
    settled = settled_us(stored_us, owed_us, LIMIT, T0_US)
    assert settled >= max(stored_us or 0, T0_US)
    assert settled <= max(stored_us or 0, T0_US + deepest_us(LIMIT))


def test_a_fleet_owes_no_more_than_it_admitted() -> None:
    """Three workers spend two each, at once: six are left of twelve."""
    alone = Alone(3, None)
    assert [alone.ask(worker, T0_US) for worker in (0, 1, 2) * 2] == [True] * 6
    alone.settle(T0_US)
    assert drained(alone.store_us, T0_US) == 6


def clients(count: int) -> list[Charges]:
    """Charges of so many clients."""
    names = [f"203.0.113.{number}/32" for number in range(count)]
    return [(Charge(Client("ip", name, f"ip:{name}"), LIMIT, 2),) for name in names]


def test_what_is_owed_is_told_once() -> None:
    """All of it, and then no more."""
    debts = Debts(16)
    for charges in clients(5):
        debts.add(charges, charges, bucket.take([None], TakeRequest(charges), T0_US))
    told = debts.collect(T0_US)
    assert [(debt.charge.client.text, debt.owed_us(T0_US)) for debt in told] == [
        (f"203.0.113.{number}/32", 2 * UNIT_US) for number in range(5)
    ]
    assert not debts
    assert debts.collect(T0_US) == []


def test_a_look_owes_nothing() -> None:
    """Nor does what has come back since."""
    debts = Debts(16)
    look = (Charge(CLIENT, LIMIT, 0),)
    debts.add(look, look, bucket.take([None], TakeRequest(look), T0_US))
    assert not debts
    debts.add(CHARGES, CHARGES, bucket.take([None], TakeRequest(CHARGES), T0_US))
    assert debts.collect(T0_US + UNIT_US) == []
    assert not debts


def debt_of(workers: int, length_us: int) -> Debt:
    """One that is owed as a whole at T0."""
    return Debt(CHARGES[0], workers, length_us, T0_US + length_us, 1)


def test_what_is_owed_is_rounded_up() -> None:
    """A microsecond of a share of a third is a third of one."""
    assert debt_of(3, 1).owed_us(T0_US) == 1


def test_the_time_in_which_nobody_came_is_not_owed() -> None:
    """One an hour for three hours: three, whatever has come back since is charged all the same."""
    alone = Alone(1, None)
    for hour in range(3):
        alone.ask(0, T0_US + hour * 3600 * UNIT_US)
    (debt,) = alone._debts[0].collect(T0_US)
    assert debt.owed_us(T0_US) == 3 * UNIT_US


def test_what_was_charged_of_a_debt_is_not_owed_again() -> None:
    """Only what was admitted since, and later on what has not come back of that."""
    debt = debt_of(1, 5 * UNIT_US)
    assert debt.owed_us(T0_US, charged_us=3 * UNIT_US) == 2 * UNIT_US
    assert debt.owed_us(T0_US + 4 * UNIT_US, charged_us=3 * UNIT_US) == UNIT_US
    assert debt.owed_us(T0_US, charged_us=5 * UNIT_US) == 0


def test_a_bucket_is_overdrawn_by_one_bucket_at_most() -> None:
    """Whatever is owed; and that is paid back before anything passes again."""
    owed_us = debt_of(1, 1000 * UNIT_US).owed_us(T0_US)
    store_us = settled_us(None, owed_us, LIMIT, T0_US)
    assert store_us == T0_US + 2 * LIMIT.tau_us
    assert drained(store_us, T0_US + LIMIT.tau_us) == 0
    assert drained(store_us, T0_US + LIMIT.tau_us + UNIT_US) == 1


def test_the_longest_limit_is_not_overdrawn_beyond_what_is_exact() -> None:
    """A TAT must stay exact in a double."""
    longest = Limit("ip", 1, 250 * 365 * 86_400, 1)
    assert deepest_us(longest) == longest.tau_us


def test_what_came_meanwhile_is_owed_with_what_could_not_be_charged() -> None:
    """Three while the store is tried in vain, and two after them: one debt, of which the three may be charged."""
    alone = Alone(1, T0_US)
    for _ in range(3):
        alone.ask(0, T0_US)
    (debts,) = alone._debts
    (tried,) = debts.collect(T0_US)
    for _ in range(2):
        alone.ask(0, T0_US)
    debts.restore([tried], T0_US)
    (again,) = debts.collect(T0_US)
    assert again.number == tried.number
    assert again.owed_us(T0_US) == 5 * UNIT_US
    assert again.owed_us(T0_US, charged_us=tried.admitted_us) == 2 * UNIT_US


def test_a_debt_has_a_number_of_its_own() -> None:
    """What is admitted after a debt was charged is another one."""
    alone = Alone(1, T0_US)
    numbers = []
    for _ in range(3):
        alone.ask(0, T0_US)
        numbers += [debt.number for debt in alone._debts[0].collect(T0_US)]
    assert len(set(numbers)) == 3


workers_then = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3), st.booleans()), min_size=1, max_size=6)


@given(phases=workers_then)
def test_all_that_is_admitted_is_owed_however_many_workers_there_are(phases: list[tuple[int, int, bool]]) -> None:
    """Units admitted at one instant while the fleet grows and shrinks, some tried in vain: so many are owed."""
    debts, kept, admitted, number = Debts(16), list[Debt](), 0, 0
    for workers, units, in_vain in phases:
        shares = worker_shares(CHARGES, workers)
        for _ in range(units):
            number, admitted = number + 1, admitted + 1
            debts.add(CHARGES, shares, bucket.Outcome(True, T0_US, (T0_US + number * shares[0].step_us,)))
        if in_vain:
            kept += debts.collect(T0_US)
        else:
            debts.restore(kept, T0_US)
            kept = []
    debts.restore(kept, T0_US)
    (debt,) = debts.collect(T0_US)
    assert debt.owed_us(T0_US) == admitted * UNIT_US


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (2, 3)])
def test_what_is_restored_keeps_its_pace(before: int, after: int) -> None:
    """What was admitted since by the shares of another fleet is owed by the measure of the debt that it is added to."""
    debts = Debts(16)
    for workers in (before, after):
        shares = worker_shares(CHARGES, workers)
        debts.add(CHARGES, shares, bucket.Outcome(True, T0_US, (T0_US + shares[0].step_us,)))
        if workers == before:
            tried = debts.collect(T0_US)
    later_us = T0_US + UNIT_US // 2
    debts.restore(tried, later_us)
    (debt,) = debts.collect(later_us)
    left_us = sum([-(-(workers * UNIT_US - UNIT_US // 2) // workers) for workers in (before, after)])
    assert debt.workers == before
    assert 0 <= debt.owed_us(later_us) - left_us <= 1


@pytest.mark.parametrize(("before", "after"), [(2, 8), (8, 2), (3, 3)])
def test_what_is_taken_back_is_not_owed(before: int, after: int) -> None:
    """It is measured as it was added, by the number of workers when the debt began, whatever it is now."""
    debts, tat_us = Debts(4), None
    for workers in (before, after):
        shares = worker_shares(CHARGES, workers)
        outcome = bucket.take([tat_us], TakeRequest(shares), T0_US)
        debts.add(CHARGES, shares, outcome)
        tat_us = outcome.tats_us[0]
    debts.forgive(CHARGES)
    assert [debt.owed_us(T0_US) for debt in debts.collect(T0_US)] == [UNIT_US]
    assert not debts


def test_debts_are_bounded() -> None:
    """Those that were not charged for longest are forgiven."""
    debts = Debts(4)
    for charges in clients(100):
        debts.add(charges, charges, bucket.take([None], TakeRequest(charges), T0_US))
    left = [debt.charge.client.text for debt in debts.collect(T0_US)]
    assert 2 <= len(left) <= 4
    assert "203.0.113.99/32" in left
