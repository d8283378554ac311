"""Lease seats, the pure part: counted once wherever they are renewed, in constant memory; who may renew in a cut."""

from __future__ import annotations

import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldmw.core.leased import LONGEST_GAP_S, LeaseCounts, LeaseCut, rooms
from shieldmw.core.seats import COHORTS, Audience, Capacity

NOW_S = 1_800_000_000
LEASE_S = 30


@given(
    st.lists(st.tuples(st.integers(-5, 50), st.integers(1, 60)), max_size=60),
    st.lists(st.floats(0, 20), min_size=1, max_size=20),
)
def test_as_many_are_present_as_have_begun_and_not_ended(leases: list[tuple[int, int]], steps: list[float]) -> None:
    """Whenever one looks, in steps of any length."""
    counts = LeaseCounts(3)
    for from_s, length_s in leases:
        counts.add(NOW_S + from_s, NOW_S + max(1, from_s + length_s), NOW_S)
    now_s = float(NOW_S)
    for step_s in steps:
        now_s += step_s
        counts.advance(now_s)
        right = [max(0, from_s) <= int(now_s) - NOW_S < max(1, from_s + length_s) for from_s, length_s in leases]
        assert counts.present == sum(right)


@pytest.mark.parametrize("seed", range(20))
def test_a_client_that_moves_is_counted_once(seed: int) -> None:
    """Clients renew at any of three workers in the last third of a lease: the sum of what is counted stays the same."""
    dice = random.Random(seed)
    workers = [LeaseCounts(3) for _ in range(3)]
    ends: list[int] = []
    for _ in range(100):
        ends.append(NOW_S + dice.randint(2, LEASE_S))
        dice.choice(workers).add(NOW_S, ends[-1], NOW_S)
    for second in range(1, 200):
        now_s = NOW_S + second + dice.random() / 2
        for number, end_s in enumerate(ends):
            if end_s - LEASE_S / 3 <= now_s and (dice.random() < 0.3 or end_s == int(now_s) + 1):
                ends[number] = int(now_s) + LEASE_S
                dice.choice(workers).add(end_s, ends[number], now_s)
        for worker in workers:
            worker.advance(now_s)
        assert sum(worker.present for worker in workers) == 100
        assert all(worker.left(now_s) >= 0 for worker in workers)


def test_those_that_left_are_reported_for_a_while() -> None:
    """Until the worker where they may have renewed has reported them; not where as many came."""
    counts = LeaseCounts(3)
    for _ in range(10):
        counts.add(NOW_S, NOW_S + 5, NOW_S)
    for _ in range(4):
        counts.add(NOW_S + 5, NOW_S + 60, NOW_S + 1)
    assert [counts.left(NOW_S + after_s) for after_s in (4, 5, 7, 8)] == [0, 6, 6, 0]
    assert counts.present == 4


def test_who_came_before_the_others_left_does_not_take_their_place() -> None:
    """Where one came was reported then; that another left since may not be known yet where that one is now."""
    counts = LeaseCounts(3)
    for _ in range(3):
        counts.add(NOW_S, NOW_S + 3, NOW_S)
    for _ in range(3):
        counts.add(NOW_S + 2, NOW_S + 60, NOW_S + 1)
    assert [counts.left(NOW_S + after_s) for after_s in (1, 2, 3, 5, 6)] == [0, 0, 3, 3, 0]


def test_time_does_not_go_back_and_a_jump_ends_all() -> None:
    """A clock that is set back brings no lease back; one that jumps far ahead costs no loop."""
    counts = LeaseCounts(3)
    counts.add(NOW_S, NOW_S + 5, NOW_S)
    counts.advance(NOW_S + 6)
    counts.advance(NOW_S)
    assert counts.present == 0
    counts.add(NOW_S, NOW_S + 60, NOW_S)
    counts.advance(NOW_S + 10 * LONGEST_GAP_S)
    assert (counts.present, counts.left_s(NOW_S + 10 * LONGEST_GAP_S)) == (0, 0.0)


def test_a_million_leases_need_no_more_memory_than_ten() -> None:
    """What is kept depends on the length of the leases alone."""
    few, many = LeaseCounts(3), LeaseCounts(3)
    for second in range(90):
        for counts, each in ((few, 1), (many, 1000)):
            for _ in range(each):
                counts.add(NOW_S + second, NOW_S + second + LEASE_S, NOW_S + second)
    assert many.present == 1000 * few.present
    assert len(many._end) == len(few._end) <= 2 * LEASE_S
    assert sys.getsizeof(many._end) == sys.getsizeof(few._end)


# --- a cut ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capacity", "demand", "right"),
    [
        (Capacity(100, 100), Audience(), (100, 100)),
        (Capacity(100, 20), Audience(), (100, 20)),
        (Capacity(100, 50), Audience(5, 60, 90), (95, 35)),
        (Capacity(100, 50), Audience(5, 200, 90), (95, 0)),
        (Capacity(3, 3), Audience(5), (0, 0)),
    ],
)
def test_the_room_for_each_class(capacity: Capacity, demand: Audience, right: tuple[int, int]) -> None:
    """Hosts come before members and members before guests, those who still wait, too."""
    assert rooms(capacity, demand) == right


def test_a_cut_lets_as_many_cohorts_renew_as_there_is_room_for() -> None:
    """From how many there were when it began; a deeper cut lowers the level at once, others leaving raise it never."""
    cut = LeaseCut()
    cut.follow(100, 100, 0.0, LEASE_S, 0)
    assert (cut.level, cut.is_on, cut.part(80)) == (COHORTS, False, 80)
    levels = []
    for now_s, present, room in ((0, 100, 50), (5, 90, 50), (10, 80, 25), (15, 60, 50), (20, 50, 25)):
        cut.follow(present, room, now_s, LEASE_S, 0)
        levels.append(cut.level)
    assert levels == [64, 64, 32, 32, 32]
    assert (cut.is_on, cut.part(80)) == (True, 20)
    cut.follow(25, 25, 25.0, LEASE_S, 0)
    assert (cut.level, cut.is_on) == (COHORTS, False)


def test_a_cut_that_was_not_deep_enough_is_deepened_when_its_leases_have_ended() -> None:
    """Cohorts are not all of one size: those left may still be too many."""
    cut = LeaseCut()
    for now_s, present in ((0, 100), (29, 60), (30, 60)):
        cut.follow(present, 50, now_s, LEASE_S, 0)
    assert cut.level == 64 * 50 // 60


def test_a_few_too_many_begin_no_cut() -> None:
    """A full house looks overfull by a few, or for a moment: reports differ in age. A cut that has begun goes on."""
    cut = LeaseCut()
    for now_s, present in ((0.0, 103), (1.0, 110), (5.9, 110), (6.5, 103), (7.0, 104), (11.9, 104)):
        cut.follow(present, 100, now_s, LEASE_S, 3)
        assert not cut.is_on
    for now_s, present in ((12.0, 104), (13.0, 101)):
        cut.follow(present, 100, now_s, LEASE_S, 3)
        assert cut.is_on


def test_in_a_full_cut_nobody_renews() -> None:
    """Without room the level is 0, from the first moment."""
    cut = LeaseCut()
    cut.follow(100, 0, 0.0, LEASE_S, 0)
    assert (cut.level, cut.part(100)) == (0, 0)
