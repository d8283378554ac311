"""The settings as a table, for ``shieldmw env``, the README and ``examples/shield.env``; and their values as text."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from shieldmw.core.address import UNIX_PEER, Networks
from shieldmw.core.paths import PathPattern
from shieldmw.core.rules import Rule

from .model import Settings
from .problems import variable

__all__ = ["rows", "variable", "written"]


def rows() -> Iterator[tuple[str, str, str]]:
    """The variable, default (as it would be written, empty if there is none) and meaning of every setting."""
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else written(field.default)
        yield variable(name), default, field.description or ""


def written(value: object) -> str:
    """A value as it would be written in its variable; for a rule, its name."""
    match value:
        case Networks():
            words = [str(network) for network in value.networks]
            return ",".join([*words, UNIX_PEER] if value.unix else words)
        case tuple():
            return ",".join(written(item) for item in value)
        case bool():
            return str(value).lower()
        case PathPattern() | Rule():
            return value.text if isinstance(value, PathPattern) else value.name
    return str(value.value if isinstance(value, Enum) else value)
