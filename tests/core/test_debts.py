"""Debts: what workers admit alone and charge later leaves every bucket as if the store had been asked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shieldmw.core import bucket
from shieldmw.core.bucket import Ask, Charge, shared
from shieldmw.core.client import Client
from shieldmw.core.debts import Debt, Debts, settled_us
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
        self._shares = shared(CHARGES, workers)

    def ask(self, worker: int, now_us: int) -> bool:
        """Whether a worker lets a request pass."""
        outcome = bucket.take([self._tats_us[worker]], Ask(self._shares), now_us)
        if outcome.allowed:
            self._tats_us[worker] = outcome.tats_us[0]
            self._debts[worker].add(CHARGES, self._shares, outcome)
        return outcome.allowed

    def tat_us(self, worker: int, now_us: int) -> int:
        """The bucket of one worker."""
        return max(now_us, self._tats_us[worker] or 0)

    def settle_in_vain(self, worker: int, now_us: int) -> None:
        """One worker does not reach the store."""
        self._debts[worker].restore(self._debts[worker].collect(16, now_us))

    def settle(self, now_us: int) -> None:
        """Each worker charges the store."""
        for debts in self._debts:
            for owed in debts.collect(16, now_us):
                self.store_us = settled_us(self.store_us, owed, now_us)
            assert not debts


def drained(store_us: int | None, now_us: int) -> int:
    """How many requests the store's bucket still lets pass at once."""
    passed = 0
    while (outcome := bucket.take([store_us], Ask(CHARGES), now_us)).allowed:
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


def test_a_fleet_owes_no_more_than_it_admitted() -> None:
    """Three workers spend two each, at once: six are left of twelve."""
    alone = Alone(3, None)
    assert [alone.ask(worker, T0_US) for worker in (0, 1, 2) * 2] == [True] * 6
    alone.settle(T0_US)
    assert drained(alone.store_us, T0_US) == 6


def test_what_is_owed_is_told_once() -> None:
    """Part by part, and then no more."""
    debts = Debts(16)
    for number in range(5):
        client = Client("ip", f"203.0.113.{number}/32", f"ip:203.0.113.{number}/32")
        charges = (Charge(client, LIMIT, 2),)
        debts.add(charges, charges, bucket.take([None], Ask(charges), T0_US))
    told = [owed for _ in range(3) for owed in debts.collect(2, T0_US)]
    assert [(owed.charge.client.text, owed.owed_us) for owed in told] == [
        (f"203.0.113.{number}/32", 2 * UNIT_US) for number in range(5)
    ]
    assert not debts
    assert debts.collect(2, T0_US) == []


def test_a_look_owes_nothing() -> None:
    """Nor does what has come back since."""
    debts = Debts(16)
    look = (Charge(CLIENT, LIMIT, 0),)
    debts.add(look, look, bucket.take([None], Ask(look), T0_US))
    assert not debts
    debts.add(CHARGES, CHARGES, bucket.take([None], Ask(CHARGES), T0_US))
    assert debts.collect(16, T0_US + UNIT_US) == []
    assert not debts


def test_what_is_owed_is_rounded_up() -> None:
    """A microsecond of a share of a third is a third of one."""
    assert Debt(CHARGES[0], 3 * UNIT_US, T0_US, T0_US + 1).owed(T0_US).owed_us == 1


def test_a_bucket_cannot_be_emptier_than_empty() -> None:
    """Whatever is owed."""
    debt = Debt(CHARGES[0], UNIT_US, T0_US, T0_US + 1000 * UNIT_US)
    assert settled_us(None, debt.owed(T0_US), T0_US) == T0_US + LIMIT.tau_us


def test_what_came_meanwhile_is_owed_with_what_could_not_be_charged() -> None:
    """Three while the store is tried in vain, and two after them."""
    alone = Alone(1, T0_US)
    for _ in range(3):
        alone.ask(0, T0_US)
    (debts,) = alone._debts
    collected = debts.collect(16, T0_US)
    for _ in range(2):
        alone.ask(0, T0_US)
    debts.restore(collected)
    assert [owed.owed_us for owed in debts.collect(16, T0_US)] == [5 * UNIT_US]


def test_debts_are_bounded() -> None:
    """Those that were not charged for longest are forgiven."""
    debts = Debts(4)
    for number in range(100):
        client = Client("ip", f"203.0.113.{number}/32", f"ip:203.0.113.{number}/32")
        charges = (Charge(client, LIMIT),)
        debts.add(charges, charges, bucket.take([None], Ask(charges), T0_US))
    left = [owed.charge.client.text for _ in range(4) for owed in debts.collect(16, T0_US)]
    assert 2 <= len(left) <= 4
    assert "203.0.113.99/32" in left
