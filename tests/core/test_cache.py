"""The bounded cache: never more entries than it has room for, and what was used last stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldmw.core.cache import BoundedCache

writes = st.tuples(st.just("put"), st.integers(0, 9), st.integers())
drops = st.tuples(st.just("drop"), st.integers(0, 9), st.just(0))
clears = st.tuples(st.just("clear"), st.just(0), st.just(0))
reads = st.tuples(st.just("get"), st.integers(0, 9), st.just(0))


@given(st.integers(2, 7), st.lists(st.one_of(writes, writes, writes, drops, reads, clears), max_size=60))
def test_it_is_a_mapping_that_keeps_what_was_used_last(most: int, steps: list[tuple[str, int, int]]) -> None:
    """After any steps it holds the half of its room that was last used, nothing that was not written, and no more."""
    cache: BoundedCache[int, int] = BoundedCache(most)
    written: dict[int, int] = {}
    used: list[int] = []
    for step, key, value in steps:
        if step == "put":
            cache.put(key, value)
            written[key] = value
        elif step == "drop":
            cache.drop(key)
            written.pop(key, None)
        elif step == "clear":
            cache.clear()
            written, used = {}, []
        found = cache.get(key)
        assert found in (None, written.get(key))
        used = [other for other in used if other != key] + ([key] if found is not None else [])
        assert len(cache) <= most
        assert {other: cache.get(other) for other in used[-(most // 2) :]} == {
            other: written[other] for other in used[-(most // 2) :]
        }
        used = [other for other in used if other not in used[-(most // 2) :]] + used[-(most // 2) :]


def test_what_is_asked_for_outlives_what_is_not() -> None:
    """Reading an entry keeps it, and it takes no second place."""
    cache: BoundedCache[str, int] = BoundedCache(4)
    cache.put("often", 1)
    for number in range(100):
        cache.put(f"once {number}", number)
        assert cache.get("often") == 1
    assert cache.get("once 1") is None


def test_a_flood_of_keys_leaves_the_size_as_it_is() -> None:
    """A hundred thousand distinct keys fill no more than the cache has room for."""
    cache: BoundedCache[int, None] = BoundedCache(100)
    for key in range(100_000):
        cache.put(key, None)
    assert 50 <= len(cache) <= 100


@pytest.mark.parametrize("most", [1, 0, -1])
def test_a_cache_without_room(most: int) -> None:
    """A cache that could hold no two generations is a mistake, and says so."""
    with pytest.raises(ValueError, match="at least 2 entries"):
        BoundedCache(most)
