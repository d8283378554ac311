"""``shieldmw env``: all settings, from the code."""

from __future__ import annotations

from collections.abc import Iterator

import click

from shieldmw.settings import rows


def markdown_table() -> Iterator[str]:
    """The settings as the README's table."""
    yield "| variable | default | meaning |"
    yield "|---|---|---|"
    for variable, default, meaning in rows():
        shown = f"`{default}`" if default else ""
        yield f"| `{variable}` | {shown} | {meaning} |"


def env_file() -> Iterator[str]:
    """The settings as an environment file, each explained and commented out."""
    yield "# Every setting of shieldmw with its default. Remove the # before those you change."
    yield "# Made with: shieldmw env --format file"
    for variable, default, meaning in rows():
        yield ""
        yield f"# {meaning}"
        yield f"#{variable}={default}"


_FORMATS = {"markdown": markdown_table, "file": env_file}


@click.command()
@click.option(
    "--format",
    "name",
    type=click.Choice(sorted(_FORMATS)),
    default="markdown",
    show_default=True,
    help="A table, or a file of variables to edit.",
)
def env(name: str) -> None:
    """Print every setting with its default and meaning."""
    for line in _FORMATS[name]():
        click.echo(line)
