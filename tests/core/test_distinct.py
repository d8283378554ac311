"""Listeners that several workers have turned away count once."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldmw.core.distinct import KEPT, Distinct, together

HASHES = st.sets(st.integers(0, 2**64 - 1), max_size=2 * KEPT)


def crowd(count: int, seed: int) -> list[int]:
    """Listeners, by their hashes."""
    dice = random.Random(seed)
    return [dice.getrandbits(64) for _ in range(count)]


def reports_of(workers: Sequence[set[int]]) -> list[Distinct]:
    """What the workers report."""
    return [Distinct.of(seen) for seen in workers]


@given(HASHES, HASHES)
def test_a_report_has_the_smallest(some: set[int], others: set[int]) -> None:
    """In ascending order, of both collections."""
    others -= some
    report = Distinct.of(some, others)
    assert report.count == len(some) + len(others)
    assert list(report.smallest) == [value >> 32 for value in sorted(some | others)[:KEPT]]


def test_hashes_that_are_not_uniform_are_kept_too() -> None:
    """If all of them are large, or all but one."""
    large = {2**64 - 1 - number for number in range(10 * KEPT)}
    assert len(Distinct.of(large).smallest) == KEPT
    assert Distinct.of(large, {5}).smallest[0] == 0


@pytest.mark.parametrize("workers", [1, 2, 4, 50])
def test_few_listeners_are_counted_exactly(workers: int) -> None:
    """However often each of them asks, and whichever workers."""
    dice = random.Random(workers)
    listeners = crowd(KEPT - 1, seed=1)
    asked: list[set[int]] = [set() for _ in range(workers)]
    for listener in listeners:
        for _ in range(3):
            dice.choice(asked).add(listener)
    assert together(reports_of(asked)) == len(listeners)


def test_few_of_each_worker_are_counted_exactly_however_many_there_are() -> None:
    """All of their hashes are known."""
    asked = [set(crowd(KEPT, seed=worker)) for worker in range(20)]
    assert together(reports_of(asked)) == 20 * KEPT


def test_hashes_with_the_same_bits_are_no_error() -> None:
    """Two of many listeners may share them, and a foreign report may be full of them."""
    twins = Distinct.of({1 << 40, (1 << 40) + 1} | set(crowd(KEPT, seed=3)))
    assert KEPT <= together([twins, twins]) <= 2 * (KEPT + 2)
    assert together([Distinct(99, (1,) * KEPT)]) == 99


def test_none_is_none() -> None:
    """Without workers, and of workers that turned nobody away."""
    assert together([]) == 0
    assert together([Distinct(), Distinct()]) == 0


def test_what_one_worker_has_seen_is_counted_exactly() -> None:
    """However many they are: only what several have seen is estimated."""
    assert together([Distinct.of(set(crowd(12_345, seed=2))), Distinct()]) == 12_345


@pytest.mark.parametrize("count", [100, 1_000, 50_000])
def test_many_listeners_at_all_workers_are_estimated(count: int) -> None:
    """On average right, and never less than one worker has seen, nor more than all of them together."""
    estimates = []
    for seed in range(30):
        listeners = crowd(count, seed)
        asked = [set(listeners[: count // 2 + 1]), set(listeners), set(listeners[count // 3 :])]
        estimates.append(together(reports_of(asked)))
        assert max(map(len, asked)) <= estimates[-1] <= sum(map(len, asked))
    assert abs(sum(estimates) / len(estimates) / count - 1) < 0.12


def test_different_listeners_are_not_taken_for_the_same() -> None:
    """Four workers with others each."""
    estimates = [
        together(reports_of([set(crowd(5_000, seed=4 * run + worker)) for worker in range(4)])) for run in range(30)
    ]
    assert max(estimates) <= 20_000
    assert abs(sum(estimates) / len(estimates) / 20_000 - 1) < 0.12
