"""``shieldmw reset``: gives a client that was refused its limits back in full."""

from __future__ import annotations

import click

from shieldmw.core.text import harmless

from .admin_client import admin_client
from .clients import next_step
from .options import REASON, URL


@click.command()
@click.argument("client")
@REASON
@URL
def reset(client: str, reason: str, url: str) -> None:
    """Make all buckets of CLIENT full again, on every worker: ip:203.0.113.7, or token:alice for a verified subject.

    Needs SHIELD_ADMIN_TOKEN. Exit status: 0 done, 1 not done, 2 wrong usage.

    Example: shieldmw reset ip:203.0.113.7 --reason "our studio"
    """
    with next_step(), admin_client(url, to_look=False) as workers:
        clients = workers.reset({"client": client, "reason": reason})
        for name in clients:
            click.echo(f"{'full':<8}{harmless(name)}, on every worker within a second")
        click.echo(f"{'asked':<8}{harmless(workers.place)}")
