"""What both ways to the switch share, through a worker and straight to the store: who asks, and how it may fail."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from typing import Any

import click

from .load import EXIT_WRONG_INPUT

# A person waits, and would rather know.
PATIENCE_S = 5.0

LONGEST_ACTOR = 64


class WrongInput(click.ClickException):
    """What was asked cannot be done as it is written."""

    exit_code = EXIT_WRONG_INPUT


class Unanswered(click.ClickException):
    """No worker answered, or one that could not do it now. Another way may be open."""


def actor() -> str:
    """The login name of the operator, in characters that a header can carry."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        name = ""
    return ascii(name)[1:-1].strip()[:LONGEST_ACTOR].strip() or "unknown"


def somebody_else(current: Mapping[str, Any]) -> str:
    """The line for a change that came too late: what is in force instead, and by whose word."""
    reason = f', "{current["reason"]}"' if current.get("reason") else ""
    return (
        f"someone else changed it: {current.get('actor') or 'nobody'} set it to {current.get('mode')}{reason}, "
        f"now version {current.get('version')}. Nothing was changed by this command."
    )
