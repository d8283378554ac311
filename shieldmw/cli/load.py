"""Loads the settings for a command, or prints their errors and exits."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Never

import click

from shieldmw.core.text import harmless
from shieldmw.errors import SettingsError, StoreError

if TYPE_CHECKING:
    from shieldmw.settings import Settings

# Exit status for wrong settings or usage; Click's own.
EXIT_WRONG_INPUT = 2

# Time limit of a call to the store in a command, in milliseconds.
PATIENCE_MS = 2000


def patient(settings: Settings) -> Settings:
    """The same settings with a longer time limit for calls to the store, since no request waits for a command."""
    return settings.model_copy(update={"redis_timeout_ms": max(settings.redis_timeout_ms, PATIENCE_MS)})


def failure_line(url: str, error: StoreError) -> str:
    """A store's failure in words, to follow the name of the store in a line; without secrets."""
    text = harmless(error)
    if not text.startswith("AuthenticationError"):
        return f"does not answer: {text}"
    shows_one = "@" in url or "password=" in url
    return f"{'refused the password' if shows_one else 'wants a password'}: {text}"


def settings_or_exit() -> Settings:
    """The settings from the environment; if any is wrong, prints a line for each and exits with status 2."""
    from shieldmw.settings import Settings  # takes half of a command's start, which --help should not

    try:
        return Settings.from_environ()
    except SettingsError as error:
        exit_with(error)


def exit_with(error: SettingsError) -> Never:
    """Print one line for each problem with the settings, and exit with status 2."""
    for line in error.problems:
        click.echo(f"shieldmw: {line}", err=True)
    sys.exit(EXIT_WRONG_INPUT)
