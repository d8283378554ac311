"""``shieldmw top``: who is busiest, and on what, in a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from shieldmw.admin.client import AdminClient, AdminError
from shieldmw.core.text import counted, harmless

from .admin_client import admin_client
from .clients import next_step
from .mode import status_lines
from .numbers import Whole
from .options import URL

# Interval between two requests: workers report every five seconds.
EVERY_S = 2.0

_TITLES = {
    "addresses": "Addresses",
    "networks": "Networks",
    "subjects": "Members",
    "paths": "Paths",
    "user_agents": "User agents (estimated)",
}

# Longest name shown, in characters: a line of a table stays one line.
LONGEST_NAME = 60

Top = Mapping[str, Any]


@click.command()
@click.option(
    "--count",
    type=Whole(1, 50),
    default=10,
    show_default=True,
    help="How many of each kind by requests, and as many by refusals.",
)
@click.option("--once", is_flag=True, help="Print it once, and end.  [default if the output is no terminal]")
@URL
def top(count: int, once: bool, url: str) -> None:
    """Show the fleet and its busiest clients, networks, paths and user agents, with what was refused, until Ctrl-C.

    The numbers are requests of the last one to two minutes. Needs SHIELD_ADMIN_TOKEN, or SHIELD_VIEW_TOKEN, which
    shows clients only in part.
    """
    console = Console()
    with next_step(), admin_client(url, to_look=True) as client:
        if once or not console.is_terminal:
            console.print(_screen(client, count))
        else:
            with suppress(KeyboardInterrupt):
                _watch(client, count, console)


def _watch(client: AdminClient, count: int, console: Console) -> None:
    """Show the screen again and again. A server that does not answer for a while is no reason to end."""
    shown: RenderableType = ""
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            try:
                shown = _screen(client, count)
                live.update(shown, refresh=True)
            except AdminError as error:
                if not error.is_unanswered:
                    raise
                live.update(Group(Text(harmless(error), style="bold red"), shown), refresh=True)
            time.sleep(EVERY_S)


def _screen(client: AdminClient, count: int) -> Group:
    status, found = client.status(), client.top(count)
    lines = [Text(f"{label:<8}{harmless(text)}") for label, text in status_lines(status, client.place)]
    tables = [_table(title, found[kind], found["seconds"]) for kind, title in _TITLES.items() if found[kind]]
    return Group(*lines, Text(f"{'busy':<8}{_totals(found)}"), *tables)


def _totals(found: Top) -> str:
    share = f", {found['refused'] / found['requests']:.0%}" if found["requests"] else ""
    workers = counted(found["workers"], "worker")
    a_second = _rate(found["requests"], found["seconds"])
    return (
        f"{found['requests']:,} requests in {found['seconds']:.0f} s ({a_second} a second) on {workers}, "
        f"{found['refused']:,} refused{share}"
    )


def _rate(requests: int, seconds: float) -> str:
    return f"{requests / seconds:,.1f}" if seconds else "0.0"


def _table(title: str, entries: Sequence[Mapping[str, Any]], seconds: float) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(title, no_wrap=True, overflow="ellipsis", min_width=30, max_width=LONGEST_NAME)
    table.add_column("requests", justify="right")
    table.add_column("a second", justify="right")
    counts = [of for of in ("requests", "refused") if of in entries[0]]
    if "refused" in counts:
        table.add_column("refused", justify="right")
    for entry in entries:
        requests, *refused = [_number(entry, of) for of in counts]
        name = Text(harmless(entry["name"]) or "(none)")
        table.add_row(name, requests, _rate(entry["requests"], seconds), *refused)
    return table


def _number(entry: Mapping[str, Any], of: str) -> str:
    """The least, and the most if that is another number."""
    least, most = entry[of], entry[f"{of}_at_most"]
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
