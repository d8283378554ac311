"""The settings as a table, for ``shieldmw env``, the README and ``examples/shield.env``."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from shieldmw.core.address import Networks
from shieldmw.core.paths import PathPattern

from .model import Settings
from .problems import variable

__all__ = ["default_text", "rows", "variable"]


def rows() -> Iterator[tuple[str, str, str]]:
    """The variable, default (as it would be written) and meaning of every setting."""
    for name, field in Settings.model_fields.items():
        yield variable(name), default_text(field.default), field.description or ""


def default_text(value: object) -> str:
    """A default as it would be written in the variable; empty if there is none."""
    match value:
        case None | Networks() | ():
            return ""
        case bool():
            return str(value).lower()
        case Enum():
            return str(value.value)
        case tuple():
            return ",".join(item.text if isinstance(item, PathPattern) else str(item) for item in value)
        case _:
            return str(value)
