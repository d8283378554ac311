"""``shieldmw env``: prints all settings, generated from the code."""

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


_HEADER = (
    "# Every setting of shieldmw with its default. Remove the # before those you change.",
    "# Load it in a shell (set -a; . ./shield.env; set +a), with systemd (EnvironmentFile=), docker run --env-file or",
    "# uvicorn --env-file. All of them read a value alike that has no spaces, no quotes and none of $ & ; #: so write",
    "# 10/second,300/minute, and rules in a file. Put other values in single quotes, except for docker: it keeps them.",
    "# Made with: shieldmw env --format file",
)


def env_file() -> Iterator[str]:
    """The settings as an environment file, each explained and commented out."""
    yield from _HEADER
    for variable, default, meaning in rows():
        yield ""
        yield f"# {meaning}"
        yield f"#{variable}={default}"


_FORMATS = {"markdown": markdown_table, "file": env_file}


@click.command()
@click.option(
    "--format",
    "name",
    type=click.Choice(list(_FORMATS)),
    default="markdown",
    show_default=True,
    help="markdown: a table, as in the README. file: one variable a line to edit and load, such as shield.env.",
)
def env(name: str) -> None:
    """Print every setting with its default and meaning."""
    for line in _FORMATS[name]():
        click.echo(line)
