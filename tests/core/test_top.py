"""The busiest of a fleet: what workers counted apart, merged, with bounds that hold."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from shieldmw.core.heavy_hitters import HeavyHitters
from shieldmw.core.top import FRESH_S, Bounds, Entry, Kind, Ranking, Tally, TopReport, fleet_top

NOTHING = Ranking({})


def ranking(keys: list[str], most: int, listed: int) -> Ranking:
    """What a worker reports of these keys, which it counts with room for few."""
    hitters: HeavyHitters[str] = HeavyHitters(most)
    for start in range(0, len(keys), 7):
        hitters.add(keys[start : start + 7])
    found = hitters.top(listed)
    unlisted = hitters.error + (found[-1].least if len(found) < len(hitters) else 0)
    return Ranking({entry.key: entry.least for entry in found}, hitters.error, unlisted)


def report(paths: Ranking, refused: Ranking = NOTHING, total: int = 0, worker: str = "one") -> TopReport:
    """A worker's report, with paths alone."""
    of = dict.fromkeys(Kind, NOTHING)
    return TopReport(worker, 0.0, 60.0, Tally(total, {**of, Kind.PATH: paths}), Tally(0, {**of, Kind.PATH: refused}))


streams = st.lists(st.lists(st.sampled_from("abcdefghijkl"), max_size=60), max_size=4)


@given(streams, st.integers(1, 6), st.integers(1, 5))
def test_every_count_lies_within_its_bounds(parts: list[list[str]], most: int, listed: int) -> None:
    """Also of names that some workers have not listed, or have forgotten."""
    exact = Counter(key for part in parts for key in part)
    found = fleet_top([report(ranking(part, most, listed)) for part in parts], 100)
    for name, (least, at_most), _ in found.of[Kind.PATH]:
        assert least <= exact[name] <= at_most


@given(streams)
def test_with_room_for_all_the_counts_are_exact(parts: list[list[str]]) -> None:
    """The most frequent first, as in one count of everything."""
    exact = Counter(key for part in parts for key in part)
    found = fleet_top([report(ranking(part, 100, 100)) for part in parts], 100).of[Kind.PATH]
    assert {name: requests for name, requests, _ in found} == {key: (times, times) for key, times in exact.items()}
    assert [requests.least for _, requests, _ in found] == sorted(exact.values(), reverse=True)


def test_the_most_refused_are_there_however_few_their_requests() -> None:
    """Among the first by requests or by refusals; both numbers of each."""
    one = report(Ranking({"/": 900, "/feed": 500, "/login": 40}), Ranking({"/login": 39}), 1440)
    two = report(Ranking({"/": 100, "/login": 2}), Ranking({"/login": 1}), 102, "two")
    found = fleet_top([one, two], 1)
    assert (found.workers, found.seconds, found.requests, found.refused) == (2, 60.0, 1542, 0)
    assert found.of[Kind.PATH] == [
        Entry("/", Bounds(1000, 1000), Bounds(0, 0)),
        Entry("/login", Bounds(42, 42), Bounds(40, 40)),
    ]


def test_a_fleet_without_workers_has_no_busiest() -> None:
    """An empty table, not an error."""
    found = fleet_top([], 10)
    assert (found.workers, found.requests, dict(found.of)) == (0, 0, {kind: [] for kind in Kind})


def test_a_report_is_fresh_for_a_while() -> None:
    """Neither an old one nor one from the future counts."""
    own = report(NOTHING)
    assert own.is_fresh(FRESH_S)
    assert not own.is_fresh(FRESH_S + 1)
    assert not own.is_fresh(-FRESH_S - 1)
