"""Calls of the store's scripts are counted by how they ended."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

import shieldmw.store
from shieldmw.core.metrics import CallResult, Script
from shieldmw.errors import StoreError, StoreUnavailable
from shieldmw.store.counted import counted


def told(ends: BaseException | None) -> Counter[tuple[str, CallResult]]:
    """What is counted of a call that ends like this."""
    found: Counter[tuple[str, CallResult]] = Counter()

    async def script(name: str, keys: Sequence[str], arguments: Sequence[str | int | bytes]) -> object:
        if ends is not None:
            raise ends
        return [name, *keys, *arguments]

    def called(name: str, result: CallResult) -> None:
        found[name, result] += 1

    async def call() -> None:
        run = counted(script, called)
        if ends is None:
            assert await run("take", ["key"], [1, b"two"]) == ["take", "key", 1, b"two"]
            return
        with pytest.raises(type(ends)) as error:
            await run("take", ["key"], [])
        assert error.value is ends

    asyncio.run(call())
    return found


@pytest.mark.parametrize(
    ("ends", "result"),
    [
        (None, CallResult.OK),
        (StoreUnavailable("away"), CallResult.UNAVAILABLE),
        (StoreError("an odd answer"), CallResult.ERROR),
        (ValueError("a bug"), CallResult.ERROR),
        (asyncio.CancelledError(), CallResult.CANCELLED),
    ],
    ids=["ok", "unavailable", "error", "bug", "cancelled"],
)
def test_each_call_is_counted_once(ends: BaseException | None, result: CallResult) -> None:
    """And ends as it would have ended."""
    assert told(ends) == {("take", result): 1}


def test_every_script_has_a_series() -> None:
    """A call of one without would fail where it is counted."""
    files = Path(shieldmw.store.__file__).parent.glob("lua/*.lua")
    assert {file.stem for file in files} == {script.value for script in Script}
