"""Phases and paces as data: when each lane of a client sends."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from shieldmw.rehearsal.load.crowd import Ask, Client, Group, Pace, Phase, Story, due_times

CALM = Phase("calm", 5, {"guests": Pace(2)})
STORM = Phase("storm", 25, {"guests": Pace(2), "attacker": Pace(30, lanes=2)})


def times(*phases: Phase, group: str, lane: int = 0) -> list[float]:
    return list(due_times(phases, group, lane, Random(1)))


@pytest.mark.parametrize(
    ("group", "lane", "count", "first", "last", "reason"),
    [
        ("guests", 0, 60, 0.0, 30.0, "2/s for 30 s"),
        ("attacker", 0, 375, 5.0, 30.0, "silent in the calm; then half of 30/s for 25 s"),
        ("attacker", 1, 375, 5.0, 30.0, "the other half"),
        ("attacker", 2, 0, 0.0, 0.0, "there is no third lane"),
        ("members", 0, 0, 0.0, 0.0, "no pace, no request"),
    ],
)
def test_a_lane_asks_at_its_pace_in_each_phase(
    group: str, lane: int, count: int, first: float, last: float, reason: str
) -> None:
    """A group asks in those phases that give it a pace, as often as that pace says, and not beyond the end."""
    due = times(CALM, STORM, group=group, lane=lane)
    assert len(due) == count, reason
    assert due == sorted(due)
    assert all(first <= at < last for at in due)


def test_within_a_phase_the_intervals_are_even() -> None:
    """After the drawn first time, requests are due at exact intervals: the load is the stated one, not about it."""
    due = times(CALM, group="guests")
    assert [round(b - a, 9) for a, b in pairwise(due)] == [0.5] * 9


def test_clients_do_not_march_in_step() -> None:
    """Two clients with different random streams begin at different times."""
    one, two = (next(due_times([CALM], "guests", 0, Random(seed))) for seed in ("a", "b"))
    assert one != two


def test_a_story_knows_its_phase_and_its_lanes() -> None:
    """The phase at a time, the length of the whole, and how many requests a client has under way at most."""
    guests = Group("guests", (Client("a", "127.0.0.1", lambda _rng: Ask("/")),))
    story = Story((guests, Group("attacker", ()), Group("members", ())), (CALM, STORM))
    assert story.seconds == 30
    assert [story.phase_at(at).name for at in (0, 4.9, 5, 29.9, 99)] == [
        "calm",
        "calm",
        "storm",
        "storm",
        "storm",
    ]
    assert [story.lanes(group) for group in story.groups] == [1, 2, 0]


@pytest.mark.parametrize(("per_s", "lanes"), [(0, 1), (-1, 1), (1, 0)])
def test_a_pace_that_makes_no_sense_is_refused(per_s: float, lanes: int) -> None:
    """A pace is checked when it is built, and the message shows what was given."""
    with pytest.raises(ValueError, match=f"not {per_s}, {lanes}"):
        Pace(per_s, lanes)
