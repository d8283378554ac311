"""The arithmetic of the waiting room: positions, estimated waits and poll intervals."""

from __future__ import annotations

import pytest

from shieldmw.core.waiting import AWAITED_S, LONGEST_POLL_S, MOST_POLLED, POLL_STRETCH, SHORTEST_POLL_S, Calls, place


@pytest.mark.parametrize(
    ("number", "called", "position"),
    [
        (1, 0, 1),  # the first
        (10, 0, 10),
        (10, 9, 1),  # next
        (10, 10, 1),  # called, but somebody else was quicker: still next
        (10, 500, 1),
        (1_000_000, 1, 999_999),
    ],
)
def test_positions(number: int, called: int, position: int) -> None:
    """Position 1 is next, and nobody is ever before that."""
    assert place(number, called, 0.0, 0.0).position == position


@pytest.mark.parametrize(
    ("position", "calls_per_s", "wait_s"),
    [
        (100, 2.0, 50.0),
        (1, 0.1, 10.0),
        (100, 0.0, None),
        (100, -1.0, None),
        (1800, 0.5, 3600.0),
        (1801, 0.5, None),
        (1, 5e-324, None),  # what is left of a pace after an hour without a call
    ],
)
def test_the_estimate(position: int, calls_per_s: float, wait_s: float | None) -> None:
    """The wait follows from the pace of calls; where nothing moves none is promised."""
    assert place(position, 0, calls_per_s, 0.0).wait_s == wait_s


def test_those_far_back_ask_less_often() -> None:
    """The poll interval grows with the position, from its shortest to its longest and no further."""
    polls = [place(position, 0, 0.0, 0.0).poll_s for position in (1, 10, POLL_STRETCH, 5000, 10**6, 10**9)]
    assert polls == sorted(polls)
    assert SHORTEST_POLL_S <= polls[0] < 1.01 * SHORTEST_POLL_S
    assert polls[2] == 2 * SHORTEST_POLL_S
    assert polls[-1] == polls[-2] == LONGEST_POLL_S


@pytest.mark.parametrize("position", [1, 500, 10**6])
def test_jitter_only_lengthens(position: int) -> None:
    """Those who were told together ask again up to a fifth apart, never sooner than told without jitter."""
    plain = place(position, 0, 0.0, 0.0).poll_s
    assert place(position, 0, 0.0, 0.5).poll_s == pytest.approx(1.1 * plain)
    assert plain < place(position, 0, 0.0, 0.999).poll_s < 1.2 * plain


def test_a_million_who_wait_ask_at_a_rate_a_fleet_can_bear() -> None:
    """The polls of a million people in line sum to less than ten thousand a second."""
    rate = sum(100 / place(position, 0, 0.0, 0.0).poll_s for position in range(1, 1_000_001, 100))
    assert rate < 10_000


# Each row: what a worker hears or sees, when, and how many wait then before a newcomer, who gets number 51.
WAITING = [
    ("heard", 40, 0.0, 10),  # called before this worker began
    ("heard", 43, 1.0, 7 + 3),
    ("came", 42, 1.5, 7 + 2),
    ("came", 7, 1.6, 7 + 2),  # called long ago
    ("heard", 43, 2.0, 7 + 2),
    ("came", 45, 2.5, 6 + 2),  # another worker called it
    ("came", 50, 2.6, 5 + 2),  # seated before it was called
    ("heard", 46, 3.0, 3 + 4),
    ("came", 44, 4.0, 3 + 3),
    ("heard", 46, 1.0 + AWAITED_S, 3 + 1),  # the first three are expected no longer
    ("came", 41, 1.5 + AWAITED_S, 3 + 1),
    ("heard", 50, 2.0 + AWAITED_S, 1 + 3),
    ("heard", 50, 3.0 + AWAITED_S, 3),
    ("heard", 50, 2.0 + 2 * AWAITED_S, 0),
]


def test_a_member_waits_until_a_while_after_its_call() -> None:
    """Neither those who came, on whatever worker, nor those who were called long ago are waited for."""
    calls = Calls()
    for what, number, now_s, waiting in WAITING:
        calls.heard(number, now_s) if what == "heard" else calls.came(number)
        assert calls.ahead_of(51, now_s) == waiting, (what, number, now_s)


def test_only_lower_numbers_come_first() -> None:
    """A member with a number waits for those that were, or will be, called before it, not with it."""
    calls = Calls()
    for called in (0, 2, 5):
        calls.heard(called, 1.0)
    assert [calls.ahead_of(number, 1.0) for number in (1, 2, 3, 5, 6, 9)] == [0, 0, 2, 2, 5, 8]


def test_a_higher_number_that_was_seated_early_is_nobody_fewer_to_wait_for() -> None:
    """Seats go to those behind as well, where they come first: a member in front still waits for all before it."""
    calls = Calls()
    calls.heard(0, 1.0)
    for number in (8, 3, 10):
        calls.came(number)
    assert [calls.ahead_of(number, 1.0) for number in (3, 5, 8, 9, 11)] == [2, 3, 6, 6, 7]
    calls.heard(9, 1.0)
    assert [calls.ahead_of(number, 1.0) for number in (10, 11)] == [7, 7]


# Each row: what a worker hears, of which number and when, and how many wait then before number 6, and before a newcomer
# with number 8.
POLLED = [
    ("heard", 5, 0.0, 5, 7),
    ("polled", 2, 6.0, 5, 7),  # it counts already
    ("polled", 4, 9.0, 5, 7),
    ("heard", 5, AWAITED_S, 2, 4),  # all others have given up
    ("polled", 2, 12.0, 2, 4),
    ("came", 4, 13.0, 1, 3),
    ("heard", 7, 14.0, 1, 1 + 2),
    ("polled", 2, 18.0, 1, 1 + 2),
    ("polled", 7, 20.0, 1, 1 + 2),
    ("heard", 7, 14.0 + AWAITED_S, 1, 2),
    ("heard", 7, 18.0 + AWAITED_S, 0, 1),
    ("heard", 7, 20.0 + AWAITED_S, 0, 0),
]


def test_a_called_member_that_polls_still_waits() -> None:
    """Its seat has gone to another that was called: it comes before those behind it for as long as it asks."""
    calls = Calls()
    calls.heard(0, 0.0)
    for what, number, now_s, *waiting in POLLED:
        if what == "came":
            calls.came(number)
        else:
            (calls.heard if what == "heard" else calls.polled)(number, now_s)
        assert [calls.ahead_of(6, now_s), calls.ahead_of(8, now_s)] == waiting, (what, number, now_s)


def test_the_members_remembered_because_they_polled_are_bounded() -> None:
    """A room in which all were called costs no more than that; those that are known can still be renewed."""
    calls = Calls()
    calls.heard(0, 0.0)
    calls.heard(2 * MOST_POLLED, 0.0)
    for number in range(1, 2 * MOST_POLLED):
        calls.polled(number, 5.0)
    calls.polled(1, 6.0)
    assert calls.ahead_of(2 * MOST_POLLED + 1, AWAITED_S) == MOST_POLLED
    assert calls.ahead_of(2 * MOST_POLLED + 1, 5.0 + AWAITED_S) == 1
