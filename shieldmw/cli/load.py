"""Shared by the commands: loads the settings, or prints what is wrong with them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Never

import click

from shieldmw.errors import SettingsError

if TYPE_CHECKING:
    from shieldmw.settings import Settings

EXIT_WRONG_INPUT = 2

# Budget of a call to the store, for a person who waits.
PATIENCE_MS = 2000


def patient(settings: Settings) -> Settings:
    """The settings for a person who waits: a command need not give up on a call to the store as fast as a request."""
    return settings.model_copy(update={"redis_timeout_ms": max(settings.redis_timeout_ms, PATIENCE_MS)})


def settings_or_exit() -> Settings:
    """The settings from the environment; if any is wrong, prints a line for each and exits with status 2."""
    from shieldmw.settings import Settings  # half of a command's start: not for --help

    try:
        return Settings.from_environ()
    except SettingsError as error:
        exit_with(error)


def exit_with(error: SettingsError) -> Never:
    """Print one line for each problem with the settings, and exit with status 2."""
    for line in error.problems:
        click.echo(f"shieldmw: {line}", err=True)
    sys.exit(EXIT_WRONG_INPUT)
