"""The load of a worker's app, as reported to operators."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shieldmw.core.distinct import Distinct
from shieldmw.core.lane import Rank
from shieldmw.core.load import FRESH_S, WorkerLoad, asked_once, by_class, unseated
from shieldmw.core.seats import Audience, Fleet

NOBODY = Audience()


def load(at_s: float = 0.0, lately_ms: int = 2000) -> WorkerLoad:
    """A calm worker's report."""
    return WorkerLoad("w", "web-1", 1, at_s, 500, 3, 128, NOBODY, NOBODY, Audience(0, 1, 500), lately_ms)


@pytest.mark.parametrize(
    ("age_s", "fresh"), [(0, True), (FRESH_S, True), (FRESH_S + 0.1, False), (-1, True), (-FRESH_S - 0.1, False)]
)
def test_a_report_counts_for_some_seconds(age_s: float, fresh: bool) -> None:
    """One from the future was written by a clock that has stepped back since, or by somebody else."""
    assert load(at_s=1000.0).is_fresh(1000.0 + age_s) is fresh


def test_a_rate_is_of_the_last_seconds() -> None:
    """Nothing is divided by a time that has not passed yet."""
    assert load(lately_ms=2500).shed_per_s(500) == 200.0
    assert load(lately_ms=0).shed_per_s(500) == 0.0


def test_a_listener_that_several_workers_turned_away_counts_once() -> None:
    """In its class; what the seats are divided by is not what operators are told."""
    members = [
        replace(load(), unseated=(Distinct(), Distinct(2, hashes), Distinct(1, (9,)))) for hashes in ((1, 5), (5, 7))
    ]
    assert unseated(members) == Audience(0, 3, 1)
    fleet = Fleet(2, Audience(1, 10, 100), Audience(1, 14, 102), Audience(guests=50))
    assert asked_once(fleet, members) == Fleet(2, fleet.present, Audience(1, 13, 101), fleet.leased)
    assert asked_once(fleet, []).demand == fleet.present


def test_returning_guests_are_counted_as_guests() -> None:
    """An operator knows of three classes."""
    counts = [0] * len(Rank)
    counts[Rank.HOST], counts[Rank.MEMBER], counts[Rank.RETURNING_GUEST], counts[Rank.GUEST] = 1, 2, 30, 400
    assert by_class(counts) == Audience(1, 2, 430)
