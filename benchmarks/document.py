"""Writes results between two marks of a document: ``<!-- name -->`` … ``<!-- end -->``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import click

_END: Final = "<!-- end -->"


def write_into(path: Path, name: str, text: str) -> None:
    """Replace what is between the marks ``name``."""
    require_marks(path, [name])
    pattern = _section(name)
    document = path.read_text("utf-8")
    path.write_text(pattern.sub(lambda _: f"<!-- {name} -->\n{text}\n{_END}", document), "utf-8")


def require_marks(path: Path, names: Iterable[str]) -> None:
    """Check that there is a place for the result before measuring for half an hour.

    Raises:
        click.ClickException: the document lacks a mark.
    """
    document = path.read_text("utf-8")
    missing = [name for name in names if not _section(name).search(document)]
    if missing:
        raise click.ClickException(f"{path} lacks " + ", ".join(f"<!-- {name} --> … {_END}" for name in missing))


def _section(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(f"<!-- {name} -->") + ".*?" + re.escape(_END), re.DOTALL)
