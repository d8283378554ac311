"""Heavy hitters: bounds that hold for any stream, in any batches and merges, and in constant memory."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from shieldmw.core.heavy_hitters import Counted, HeavyHitters, merged

# Few keys that are frequent, and many that are not.
keys = st.one_of(st.integers(0, 3), st.integers(0, 60))
batches = st.lists(st.lists(keys, max_size=40), max_size=12)


def summary_of(stream: list[list[int]], most: int) -> HeavyHitters[int]:
    """The summary of a stream, in these batches."""
    summary: HeavyHitters[int] = HeavyHitters(most)
    for batch in stream:
        summary.add(batch)
    return summary


def check_bounds(summary: HeavyHitters[int], stream: list[list[int]], most: int) -> None:
    """What a summary promises of the stream that it has counted."""
    exact = Counter(key for batch in stream for key in batch)
    total = exact.total()
    listed = {entry.key: entry for entry in summary.top(1000)}
    assert summary.total == total
    assert summary.error * (most + 1) <= total
    for key, times in exact.items():
        entry = listed.get(key, Counted(key, 0, summary.error))
        assert entry.least <= times <= entry.least + entry.error
        if times * most > total:
            assert key in listed
    assert set(listed) <= set(exact)


@given(batches, st.integers(1, 8))
def test_the_bounds_hold_for_any_stream(stream: list[list[int]], most: int) -> None:
    """Each count is at least the one shown, and at most that plus the error; frequent keys are always there."""
    check_bounds(summary_of(stream, most), stream, most)


@given(st.lists(batches, max_size=4), st.integers(1, 8))
def test_merged_summaries_keep_the_bounds(streams: list[list[list[int]]], most: int) -> None:
    """As if one summary had counted all streams."""
    whole = merged((summary_of(stream, most) for stream in streams), most)
    check_bounds(whole, [batch for stream in streams for batch in stream], most)


def test_the_most_frequent_come_first() -> None:
    """Exactly, while there is room for all."""
    summary = summary_of([[1, 2, 2], [3, 3, 3, 2, 3]], 10)
    assert summary.top(2) == [(3, 4, 0), (2, 3, 0)]


def test_a_flood_of_distinct_keys_hides_nobody_and_takes_no_room() -> None:
    """Two hundred thousand clients with a request each, and one with two in a thousand."""
    summary: HeavyHitters[int] = HeavyHitters(1000)
    for start in range(0, 200_000, 500):
        summary.add([*range(start, start + 499), -1])
        assert len(summary) <= 2000
    (first,) = summary.top(1)
    assert first.key == -1
    assert first.least <= 400 <= first.least + first.error
    assert summary.error <= 200_000 / 1000
