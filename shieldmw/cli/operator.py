"""Shared by both clients of the switch, through a worker and through the store: the actor and the errors."""

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
    """The line for a change that came too late: the mode that is in force instead, and the actor who set it."""
    reason = f', "{current["reason"]}"' if current.get("reason") else ""
    return (
        f"someone else changed it: {current.get('actor') or 'nobody'} set it to {current.get('mode')}{reason}, "
        f"now version {current.get('version')}. Nothing was changed by this command."
    )
