"""The scripts as files, and how their typed functions parse replies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from struct import unpack

import pytest

from shieldmw.core.bucket import Charge, Outcome, TakeRequest
from shieldmw.errors import StoreError
from shieldmw.store import scripts
from store.stores import one, run, slow_limit

SCRIPTS = sorted(entry.name for entry in files("shieldmw.store").joinpath("lua").iterdir())


def test_there_is_a_script() -> None:
    """The scripts are part of the installed package."""
    assert "take.lua" in SCRIPTS


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_plain_ascii(name: str) -> None:
    """A byte beyond ASCII would make its digest depend on who encodes it."""
    source = files("shieldmw.store").joinpath("lua", name).read_bytes()
    assert source.isascii()
    assert name.endswith(".lua")
    assert scripts.source(name.removesuffix(".lua")) == source.decode("ascii")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_what_it_is(name: str) -> None:
    """Its head names purpose, keys, arguments, reply and TTL."""
    head = scripts.source(name.removesuffix(".lua")).partition("\n\n")[0]
    assert head.startswith(f"-- {name.removesuffix('.lua')}: ")
    assert all(f"\n-- {word} " in head for word in ("KEYS", "ARGV", "returns", "TTL"))


def test_functions_of_one_name_are_copies() -> None:
    """A script cannot import, so some functions stand in several scripts; each of these says so in its head."""
    found: dict[str, dict[str, str]] = {}
    for name in SCRIPTS:
        source = scripts.source(name.removesuffix(".lua"))
        for function in re.finditer(r"^local function (\w+)\(.*?^end$", source, re.MULTILINE | re.DOTALL):
            found.setdefault(function[1], {})[name] = function[0]
    copied = {name: copies for name, copies in found.items() if len(copies) > 1}
    assert {name: set(copies) for name, copies in copied.items()} == {
        "only": {"change.lua", "claim.lua", "decided.lua", "mode.lua", "queue.lua", "seats.lua"},
        "whole": {"decided.lua", "mode.lua", "queue.lua"},
    }
    for name, copies in copied.items():
        assert len(set(copies.values())) == 1, name
        for script in copies:
            head = scripts.source(script.removesuffix(".lua")).partition("\n\n")[0]
            assert f"{name}() is a copy of the one in " in head, script


def test_keys_and_arguments_go_in_as_the_script_reads_them() -> None:
    """Each bucket once; two whole numbers for each request and four for each of its charges, in their order."""
    asked: list[tuple[str, Sequence[str], list[float]]] = []

    async def call(script: str, keys: Sequence[str], arguments: Sequence[str | int | bytes]) -> object:
        (packed,) = arguments
        assert isinstance(packed, bytes)
        asked.append((script, keys, list(unpack(f"<{len(packed) // 8}d", packed))))
        return [10, 7, 20, 30, -1, 40, 0]

    a, b = slow_limit(3, "a"), slow_limit(5, "b")
    requests = [TakeRequest((*one(a, 2), *one(b, 0)), 9), TakeRequest(one(b, 6)), TakeRequest(())]
    outcomes = run(scripts.take(call, requests, named))
    day_us = 86_400_000_000
    first, second = [1, day_us, 3 * day_us, 2], [2, day_us, 5 * day_us]
    assert asked == [("take", ["a", "b"], [2, 9, *first, *second, 0, 1, 0, *second, 6, 0, 0])]
    assert outcomes == [Outcome(True, 10, (20, 30), 7), Outcome(False, 10, (40,)), Outcome(True, 10, ())]


def named(charge: Charge) -> str:
    """A key that is the name of its limit."""
    return charge.limit.name


@pytest.mark.parametrize(
    "reply",
    [
        None,
        b"OK",
        1,
        [],
        [10, 0],  # a TAT is missing: Lua ends an array at nil
        [10, 0, 20, 30],  # one too many
        [10, 0, None],
        [10, 0, b"20"],
        [10, 0, 20.0],
        [10, True, 20],
        {"10": 0},
        [[10, 0, 20]],
        "x" * 10_000_000,
    ],
)
def test_a_reply_of_another_form_is_an_error(reply: object) -> None:
    """A StoreError that shows the reply, in few words."""

    async def call(script: str, keys: Sequence[str], arguments: Sequence[str | int | bytes]) -> object:
        return reply

    with pytest.raises(StoreError, match=r"take\.lua returned .*expected 3 whole numbers") as caught:
        run(scripts.take(call, [TakeRequest(one(slow_limit(3)))], named))
    assert len(str(caught.value)) < 300
