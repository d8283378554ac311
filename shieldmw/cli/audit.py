"""``shieldmw audit``: what operators and the shield itself have changed."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import click

from shieldmw.core.text import harmless

from .clients import client
from .durations import clock
from .numbers import Whole
from .options import DIRECT, URL

# The end of a denial, in Unix seconds.
_UNTIL = re.compile(r"^until ([0-9]{1,11})$")


@click.command()
@click.option("--count", type=Whole(1, 1000), default=20, show_default=True, help="How many of the last changes.")
@URL
@DIRECT
def audit(count: int, url: str, direct: bool) -> None:
    """Show the last changes, newest first: when, who, what, from what to what, and why. The last 1,000 are kept.

    Needs SHIELD_ADMIN_TOKEN, or SHIELD_VIEW_TOKEN, which shows addresses only in part; with --direct the SHIELD_*
    variables of the workers instead.

    Example: shieldmw audit --count 50
    """
    with client(url, direct=direct, to_look=True) as fleet:
        entries = fleet.audit(count)
    for entry in entries:
        click.echo(harmless(_line(entry)))
    if not entries:
        click.echo("Nothing has been changed yet.", err=True)


def _line(entry: Mapping[str, Any]) -> str:
    """A change on one line."""
    was = f"{entry['from']} -> " if entry["from"] else ""
    now = _UNTIL.sub(lambda end: f"until {clock(int(end[1]), time.time())}", entry["to"])
    change = f": {was}{now}" if was or now else ""
    reason = f' "{entry["why"]}"' if entry["why"] else ""
    return f"{clock(entry['when'], time.time())}  {entry['who']}  {entry['what']}{change}{reason}"
