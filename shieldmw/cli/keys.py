"""``shieldmw keys``: issue, list and revoke API keys in the shared store."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click

from shieldmw.core.api_keys import ApiKey, ApiKeyTable, digest
from shieldmw.core.client import Identity, ListenerClass
from shieldmw.core.text import harmless
from shieldmw.errors import StoreError
from shieldmw.gate.clock import utc
from shieldmw.settings.problems import not_shared
from shieldmw.store.opener import store_opener
from shieldmw.store.port import Store

from .load import patient, settings_or_exit
from .operator import WrongInput

T = TypeVar("T")

# Prefix of every key, by which scanners and people recognise a leaked one.
KEY_PREFIX = "shk_"


@click.group()
def keys() -> None:
    """Issue, list and revoke API keys in the store of SHIELD_REDIS_URL.

    New keys work, and revoked ones stop, within a second on every worker.
    """


@keys.command()
@click.argument("subject")
@click.option(
    "--class",
    "listener_class",
    type=click.Choice([str(name) for name in ListenerClass]),
    default=str(ListenerClass.MEMBER),
    show_default=True,
    help="The class of clients with the key.",
)
def new(subject: str, listener_class: str) -> None:
    """Issue a key for SUBJECT. It is shown once and kept only as a keyed digest."""
    try:
        identity = Identity(subject, ListenerClass(listener_class))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="SUBJECT") from None
    key = KEY_PREFIX + secrets.token_urlsafe(32)

    async def issue(store: Store) -> ApiKey:
        table = await _table(store)
        issued = ApiKey(digest(key, table.digest_key), identity, int(time.time()))
        await store.add_api_key(issued)
        return issued

    issued = _with_store(issue)
    click.echo(key)
    click.echo(f"Key {issued.id} for {subject!r} ({listener_class}). It will not be shown again.", err=True)


@keys.command("list")
def list_() -> None:
    """List issued keys: id, class, when, subject."""
    table = _with_store(_table)
    for entry in sorted(table.entries.values(), key=lambda entry: entry.created_s):
        identity = entry.identity
        created = utc(entry.created_s)
        click.echo(f"{harmless(entry.id)}  {identity.listener_class:<6}  {created}  {identity.subject!r}")
    if not table.entries:
        click.echo("No keys have been issued.", err=True)


@keys.command()
@click.argument("id_or_subject")
def revoke(id_or_subject: str) -> None:
    """Revoke the key with an id, or all keys of a subject."""

    async def revoke_matching(store: Store) -> int:
        table = await _table(store)
        digests = [
            entry.digest for entry in table.entries.values() if id_or_subject in (entry.id, entry.identity.subject)
        ]
        return await store.revoke_api_keys(digests) if digests else 0

    revoked = _with_store(revoke_matching)
    if not revoked:
        raise click.ClickException(
            f"{id_or_subject!r} is neither the id nor the subject of a key: see 'shieldmw keys list'"
        )
    click.echo(f"Revoked {revoked} key{'s' if revoked > 1 else ''}; stopped on every worker within a second.")


async def _table(store: Store) -> ApiKeyTable:
    table = await store.api_keys(None)
    assert table is not None  # no version is known yet, so there is always a table
    return table


def _with_store(work: Callable[[Store], Awaitable[T]]) -> T:
    settings = settings_or_exit()
    if line := not_shared(settings.redis_url):
        raise WrongInput(line)

    async def run() -> T:
        store = store_opener(patient(settings))()
        try:
            return await work(store)
        finally:
            await store.aclose()

    try:
        return asyncio.run(run())
    except StoreError as error:
        raise click.ClickException(f"the store did not answer: {error}") from None
