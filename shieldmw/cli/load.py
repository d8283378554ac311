"""What commands share: the settings, or the lines that say what is wrong with them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Never

import click

from shieldmw.errors import SettingsError

if TYPE_CHECKING:
    from shieldmw.settings import Settings

EXIT_WRONG_INPUT = 2

# Budget of a call to the store, for a person.
PATIENCE_MS = 2000


def patient(settings: Settings) -> Settings:
    """The same for a person who waits: no reason to give a call to the store up as fast as a request must."""
    return settings.model_copy(update={"redis_timeout_ms": max(settings.redis_timeout_ms, PATIENCE_MS)})


def settings_or_exit() -> Settings:
    """The settings of the environment; else one line for each wrong one, and exit status 2."""
    from shieldmw.settings import Settings  # half of a command's start, so not before it is known what is asked

    try:
        return Settings.from_environ()
    except SettingsError as error:
        exit_with(error)


def exit_with(error: SettingsError) -> Never:
    """Print what is wrong with the settings, a line each, and exit with status 2."""
    for line in error.problems:
        click.echo(f"shieldmw: {line}", err=True)
    sys.exit(EXIT_WRONG_INPUT)
