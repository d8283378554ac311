"""Shared by both clients, through a worker and through the store: the actor, the errors and their words."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from typing import Any

import click

from .load import EXIT_WRONG_INPUT

# Longest time that an operator waits for an answer.
PATIENCE_S = 5.0

# Longest name of an actor, in characters; longer ones are cut.
LONGEST_ACTOR = 64


class WrongInput(click.ClickException):
    """The command cannot be carried out as it is written."""

    exit_code = EXIT_WRONG_INPUT


class Unanswered(click.ClickException):
    """No worker answered, or none can carry it out now. Access through the store may still work."""


def actor() -> str:
    """The login name of the operator, in ASCII."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        name = ""
    return ascii(name)[1:-1].strip()[:LONGEST_ACTOR].strip() or "unknown"


def somebody_else(current: Mapping[str, Any]) -> str:
    """The line for a change that came too late: what is in force instead, the mode or the limits, and who set it."""
    reason = f', "{current["reason"]}"' if current.get("reason") else ""
    who, version = current.get("actor") or "nobody", f"now version {current.get('version')}"
    unchanged = "Nothing was changed by this command"
    if "mode" in current:
        return f"someone else changed it: {who} set it to {current['mode']}{reason}, {version}. {unchanged}."
    return f"someone else changed them: {who}{reason}, {version}. {unchanged}: see 'shieldmw limits', then repeat it."


def is_unchanged(known: Mapping[str, Any], if_version: int | None) -> bool:
    """Whether what was read is what the operator means, as the store has it; only then a change that would change
    nothing can be left out."""
    return known["store"] == "up" and if_version in (None, known["version"])


def sentence(text: str) -> str:
    """The text with a full stop, unless it ends with a mark of its own."""
    return text if text.endswith((".", "?", "!")) else f"{text}."
