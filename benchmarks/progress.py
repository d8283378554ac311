"""Lines of progress, on stderr: stdout is for the tables."""

from __future__ import annotations

import time

import click


def say(text: str) -> None:
    """A line of progress."""
    click.echo(f"{time.strftime('%H:%M:%S')}  {text}", err=True)
