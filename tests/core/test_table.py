"""The bounded table: never more than so many entries, and the least recently written go first."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldmw.core.table import Table

writes = st.tuples(st.just("put"), st.integers(0, 9), st.integers())
drops = st.tuples(st.just("drop"), st.integers(0, 9), st.just(0))
clears = st.tuples(st.just("clear"), st.just(0), st.just(0))
reads = st.tuples(st.just("get"), st.integers(0, 9), st.just(0))


@given(st.integers(1, 5), st.lists(st.one_of(writes, writes, writes, drops, reads, clears), max_size=60))
def test_a_table_is_a_mapping_of_its_newest_entries(most: int, steps: list[tuple[str, int, int]]) -> None:
    """After any steps the table holds the most recently written entries, and reading one does not make it newer."""
    table: Table[int, int] = Table(most)
    model: OrderedDict[int, int] = OrderedDict()
    for step, key, value in steps:
        if step == "put":
            table.put(key, value)
            model[key] = value
            model.move_to_end(key)
            while len(model) > most:
                model.popitem(last=False)
        elif step == "drop":
            table.drop(key)
            model.pop(key, None)
        elif step == "clear":
            table.clear()
            model.clear()
        assert table.get(key) == model.get(key)
        assert len(table) == len(model) <= most
    assert {key: table.get(key) for key in range(10)} == {key: model.get(key) for key in range(10)}


def test_writing_an_entry_again_makes_it_the_newest() -> None:
    """What is written again outlives what was written once, and takes no second place."""
    table: Table[str, int] = Table(2)
    table.put("often", 1)
    table.put("once", 2)
    table.put("often", 3)
    table.put("new", 4)
    assert (table.get("often"), table.get("once"), table.get("new")) == (3, None, 4)


def test_a_flood_of_keys_leaves_the_size_as_it_is() -> None:
    """A hundred thousand distinct keys fill no more than the table has room for."""
    table: Table[int, None] = Table(100)
    for key in range(100_000):
        table.put(key, None)
    assert len(table) == 100


@pytest.mark.parametrize("most", [0, -1])
def test_a_table_without_room(most: int) -> None:
    """A table that could hold nothing is a mistake, and says so."""
    with pytest.raises(ValueError, match="at least 1 entry"):
        Table(most)
