"""Outside text is shown as it is if printable, and otherwise as escapes; numbers come with their noun."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldmw.core.text import counted, harmless

SHOWN = [
    ("a flood from 203.0.113.0/24", "a flood from 203.0.113.0/24"),
    ("Flut, 洪水, 🌊", "Flut, 洪水, 🌊"),
    ("\x1b]0;owned\x07\x1b[2J", r"\x1b]0;owned\x07\x1b[2J"),
    ("all is well\r\nmode normal", r"all is well\r\nmode normal"),
    ("\x9b31m", r"\x9b31m"),  # the same as ESC [, in one character
    ("\u202egnp.exe", r"\u202egnp.exe"),
    ("one\u2028two", r"one\u2028two"),
    (None, "None"),
]


@pytest.mark.parametrize(("text", "shown"), SHOWN)
def test_what_is_shown(text: object, shown: str) -> None:
    """Printable text is untouched; each other character is its escape."""
    assert harmless(text) == shown


@given(st.text())
def test_it_is_one_printable_line(text: str) -> None:
    """Whatever comes, nothing is left that a terminal would obey."""
    assert harmless(text).isprintable()


@pytest.mark.parametrize(
    ("number", "shown"), [(0, "0 workers"), (1, "1 worker"), (2, "2 workers"), (1_200_000, "1,200,000 workers")]
)
def test_a_number_with_its_noun(number: int, shown: str) -> None:
    """Only 1 has the singular."""
    assert counted(number, "worker") == shown
