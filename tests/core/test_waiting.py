"""The arithmetic of the waiting room: positions, estimated waits and poll intervals."""

from __future__ import annotations

import pytest

from shieldmw.core.waiting import LONGEST_POLL_S, POLL_STRETCH, SHORTEST_POLL_S, place


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
    ("position", "calls_per_s", "wait_s"), [(100, 2.0, 50.0), (1, 0.1, 10.0), (100, 0.0, None), (100, -1.0, None)]
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
