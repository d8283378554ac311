"""Members that came with a change of the mode: how many of them leave on each worker, if they are too many."""

from __future__ import annotations

from random import Random

import pytest

from shieldmw.gate.seats.late import GROWTH, MOST_PARTS, Late


def begun(seed: int = 0) -> Late:
    """A worker's late members after a change."""
    late = Late(Random(seed))
    late.begin(1000, seats=10)
    return late


@pytest.mark.parametrize(("too_many", "workers"), [(1, 20), (7, 3), (50, 20), (200, 200)])
def test_the_first_parts_sum_to_about_as_many_as_are_too_many(too_many: int, workers: int) -> None:
    """Fractions are rounded at random, so that one too many is not one on every worker."""
    parts = [begun(seed).part(too_many, workers, 1) for seed in range(workers)]
    assert abs(sum(parts) - too_many) <= max(2, too_many / 10)


def test_a_worker_alone_knows_how_many_are_too_many() -> None:
    """It need not wait for the reports of others."""
    late = begun()
    assert [late.part(3, 1, 1), late.part(2, 1, 1)] == [3, 2]


def test_only_the_first_report_of_a_round_takes_a_part() -> None:
    """Later ones may not show yet whom the others have sent away; in the next round the part is larger."""
    late = begun()
    assert [late.part(100, 10, round_) for round_ in (1, 1, 1, 2, 2)] == [10, 0, 0, 10 * GROWTH, 0]


def test_a_round_whose_first_report_shows_nobody_too_many_is_passed() -> None:
    """Those that are too many later in it have no part before the next one, as on every other worker."""
    late = begun()
    assert [late.part(0, 10, 1), late.part(100, 10, 1), late.part(100, 10, 2)] == [0, 0, 10]


def test_it_ends_once_nobody_is_too_many_or_none_is_left() -> None:
    """Those that stay are seated like all others; so are all if other members are too many, for instance in a cut."""
    late = begun()
    for round_ in range(1, MOST_PARTS):
        late.part(100, 10, round_)
        late.end(100)
        assert late.since_ms == 1000
    late.part(100, 10, MOST_PARTS)
    late.end(100)
    assert late.since_ms is None
    late.begin(2000, seats=10)
    late.end(0)
    assert late.since_ms is None


def test_a_second_change_makes_nobody_less_late() -> None:
    """An operator corrects the number of seats: those that came with the first change still leave first."""
    late = begun()
    late.begin(2000, seats=10)
    assert late.since_ms == 1000


@pytest.mark.parametrize(
    ("reports", "spared"),
    [
        ([], True),
        ([(900, 10), (950, 10), (1000, 15)], True),  # the last one counts those late already
        ([(900, 10), (950, 11), (1000, 11)], False),
        ([(900, 11), (950, 10)], True),
    ],
)
def test_others_are_spared_if_all_had_a_seat_before(reports: list[tuple[int, int]], spared: bool) -> None:
    """As of the last report before the change: later ones may count newcomers whom others admitted meanwhile."""
    late = Late(Random(0))
    for now_ms, favoured in reports:
        late.reported(now_ms, favoured)
    late.begin(1000, seats=10)
    assert late.spare_others == spared
    late.end(0)
    assert not late.spare_others
