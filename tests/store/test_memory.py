"""The store of one process: bounded, on a given clock, and usable as the fallback of another store."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from shieldmw.core.bucket import Charge, Outcome, wait_us
from shieldmw.core.limits import US_PER_S, Limit
from shieldmw.store.memory import MemoryBuckets, MemoryStore, steady_now_us
from store.stores import SECRET, one, slow_limit, someone

START_US = 50_000_000_000_000


@dataclass
class Clock:
    """A clock that a test sets."""

    now_us: int = START_US

    def __call__(self) -> int:
        """The time."""
        return self.now_us


def store(clock: Clock, most_buckets: int = 1000) -> MemoryStore:
    """A store on that clock."""
    return MemoryStore(SECRET, most_buckets=most_buckets, now_us=clock)


@pytest.mark.parametrize(
    ("after_us", "allowed"),
    [
        (0, 0),
        (99_999, 0),  # not a microsecond too early
        (100_000, 1),
        (299_999, 2),
        (10**9, 3),  # full, and not fuller
    ],
)
def test_a_bucket_refills_by_the_clock(after_us: int, allowed: int) -> None:
    """An empty bucket of ten a second has so many units again after a while."""
    clock = Clock()
    memory = store(clock)
    limit = Limit("ip", 10, 1, 3)
    assert memory.take_now(one(limit, 3)).allowed
    clock.now_us += after_us
    taken = [memory.take_now(one(limit)).allowed for _ in range(5)]
    assert taken == [True] * allowed + [False] * (5 - allowed)


def test_the_wait_is_true_also_after_the_limit_was_longer() -> None:
    """A deploy, or an emergency, has shortened the limit of a bucket: a client that waits as long as it was told
    passes."""
    clock = Clock()
    buckets = MemoryBuckets(now_us=clock)
    longer, shorter = (Charge(someone(), Limit("ip", *rate)) for rate in ((1000, 3600, 1000), (10, 1, 10)))
    for _ in range(500):
        assert buckets.take_now((longer,)).allowed
    refused = buckets.take_now((shorter,))
    assert wait_us((shorter,), refused) == 500 * longer.limit.unit_us - 9 * shorter.limit.unit_us
    clock.now_us += wait_us((shorter,), refused)
    assert buckets.take_now((shorter,)).allowed


def test_memory_is_bounded() -> None:
    """Any number of clients leaves only so many buckets, those charged last."""
    memory = store(Clock(), most_buckets=10)
    for number in range(1000):
        assert memory.take_now(one(slow_limit(1), client=someone(f"client {number}"))).allowed
    assert len(memory) == 10
    assert memory.refused_now(one(slow_limit(1), client=someone("client 999"))) is not None
    assert memory.refused_now(one(slow_limit(1), client=someone("client 0"))) is None


def test_refusals_and_looks_make_no_buckets() -> None:
    """What changes nothing takes no memory and pushes nobody out."""
    memory = store(Clock(), most_buckets=2)
    assert memory.take_now(one(slow_limit(1))).allowed
    for number in range(100):
        bob = someone(f"bob {number}")
        assert not memory.take_now(one(slow_limit(1), 2, bob)).allowed
        assert memory.take_now(one(slow_limit(1), 0, bob)).allowed
        assert memory.refused_now(one(slow_limit(1), 1, bob)) is None
    assert len(memory) == 1
    assert memory.refused_now(one(slow_limit(1))) is not None


@pytest.mark.parametrize(
    ("ahead_units", "left"),
    [
        (0, 3),  # full there: full here
        (1, 2),
        (3, 0),
    ],
)
@pytest.mark.parametrize("skew_us", [-3_600 * US_PER_S, 0, 3_600 * US_PER_S])
def test_another_stores_bucket_is_remembered_on_the_own_clock(ahead_units: int, left: int, skew_us: int) -> None:
    """A bucket stands here as it stands there, however far the two clocks are apart."""
    memory = store(Clock())
    limit = Limit("ip", 1, 60, 3)
    there_us = START_US + skew_us
    memory.remember(one(limit), Outcome(True, there_us, (there_us + ahead_units * limit.unit_us,)))
    taken = [memory.take_now(one(limit)).allowed for _ in range(4)]
    assert taken == [True] * left + [False] * (4 - left)


def test_garbage_that_another_store_reported_refuses_for_two_buckets() -> None:
    """It may be gone there; so far ahead can debts move a TAT, no further."""
    clock = Clock()
    memory = store(clock)
    limit = Limit("ip", 10, 1, 10)
    memory.remember(one(limit), Outcome(False, 0, (86_400 * US_PER_S,)))
    clock.now_us += limit.tau_us + limit.unit_us - 1
    assert not memory.take_now(one(limit)).allowed
    clock.now_us += 1
    assert memory.take_now(one(limit)).allowed


def test_remembering_several_buckets_keeps_them_apart() -> None:
    """Each charge's TAT goes to its own bucket; full ones take no memory."""
    memory = store(Clock())
    charges = tuple(Charge(someone(), slow_limit(1, name)) for name in ("a", "b", "c"))
    unit_us = charges[0].limit.unit_us
    memory.remember(charges, Outcome(False, START_US, (START_US, START_US + unit_us, START_US)))
    assert len(memory) == 1
    assert [memory.refused_now((charge,)) is None for charge in charges] == [True, False, True]


def test_the_default_clock_never_steps() -> None:
    """Microseconds since 2025 that never go back."""
    now_us = steady_now_us()
    times = [now_us() for _ in range(1000)]
    assert times == sorted(times)
    assert times[0] > 0
