"""Connects commands to the admin routes, with the token from the environment; each error is one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import click

from shieldmw.admin.client import AdminClient, AdminError, Overtaken
from shieldmw.core.text import harmless
from shieldmw.errors import SettingsError
from shieldmw.settings import Settings
from shieldmw.settings.names import lookalikes
from shieldmw.settings.problems import masked_url, variable

from .listening import is_loopback
from .load import EXIT_WRONG_INPUT, exit_with
from .operator import PATIENCE_S, Unanswered, WrongInput, actor, somebody_else

DEFAULT_PATH = "/-/shield"

# The variables that determine which server is called, and with which token.
OWN_VARIABLES = ("SHIELD_ADMIN_URL", "SHIELD_ADMIN_TOKEN", "SHIELD_VIEW_TOKEN", "SHIELD_ADMIN_PATH")

# What denies one's own address: as the admin routes say it, and as an option.
_FORCE = ('"force": true', "--force")


@contextmanager
def admin_client(text: str, *, to_look: bool) -> Iterator[AdminClient]:
    """The client for a URL, with the token from the environment; ``to_look``: the view token is sufficient."""
    if lines := list(lookalikes(os.environ, [variable(name) for name in Settings.model_fields], OWN_VARIABLES)):
        exit_with(SettingsError(lines))
    url = admin_url(text)
    token = _token_or_exit(to_look=to_look)
    parts = urlsplit(url)
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        click.echo(f"warning: {url} is not encrypted: the token can be read on the way, use https://", err=True)
    try:
        with AdminClient(url, token, actor(), patience_s=PATIENCE_S, path=_path()) as client:
            yield client
    except Overtaken as error:
        raise click.ClickException(harmless(somebody_else(error.current))) from None
    except AdminError as error:
        failure = WrongInput if error.is_invalid else Unanswered if error.is_unanswered else click.ClickException
        raise failure(harmless(error).replace(*_FORCE)) from None


def admin_url(text: str) -> str:
    """The admin routes' URL: a bare host gets the default path, and http only on this machine.

    Raises:
        WrongInput: it is not a URL.
    """
    if text.startswith("unix:"):
        if text == "unix:":
            raise WrongInput("'unix:' names no socket: write it like unix:/run/shieldmw.sock")
        return text
    try:
        if "://" not in text:
            host = urlsplit(f"//{text}").hostname
            text = f"{'http' if is_loopback(host) else 'https'}://{text}"
        parts = urlsplit(text)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an unclosed bracket, or an invalid port
        is_url = False
    if not is_url:
        raise WrongInput(f"'{masked_url(text)}' is not a URL: write it like http://127.0.0.1:8000{DEFAULT_PATH}")
    if parts.username is not None:
        raise WrongInput(f"'{masked_url(text)}' names a user: what opens the admin routes is SHIELD_ADMIN_TOKEN alone")
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") or _path(), "", ""))


def _path() -> str:
    return os.environ.get("SHIELD_ADMIN_PATH") or DEFAULT_PATH


def _token_or_exit(*, to_look: bool) -> str:
    names = ("SHIELD_ADMIN_TOKEN", "SHIELD_VIEW_TOKEN") if to_look else ("SHIELD_ADMIN_TOKEN",)
    for name in names:
        if token := os.environ.get(name, "").strip():
            return token
    click.echo("shieldmw: SHIELD_ADMIN_TOKEN is not set: set it to the one the workers were started with", err=True)
    sys.exit(EXIT_WRONG_INPUT)
