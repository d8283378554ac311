"""Client of the admin routes for commands: one request, one answer, or one line that says what is wrong."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import click
import httpx

from shieldmw.core.text import harmless
from shieldmw.settings.problems import masked_url

from .load import EXIT_WRONG_INPUT
from .operator import PATIENCE_S, Unanswered, WrongInput, actor, somebody_else

DEFAULT_PATH = "/-/shield"


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
            text = f"{'http' if _is_here(host) else 'https'}://{text}"
        parts = urlsplit(text)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bracket that is not closed, a port that is none
        is_url = False
    if not is_url:
        raise WrongInput(f"'{masked_url(text)}' is not a URL: write it like http://127.0.0.1:8000{DEFAULT_PATH}")
    if parts.username is not None:
        raise WrongInput(f"'{masked_url(text)}' names a user: what opens the admin routes is SHIELD_ADMIN_TOKEN alone")
    path = parts.path.rstrip("/") or os.environ.get("SHIELD_ADMIN_PATH") or DEFAULT_PATH
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


class AdminClient:
    """The admin routes at a URL, with a token."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self._base, transport = _way(url)
        parts = urlsplit(url)
        if parts.scheme == "http" and not _is_here(parts.hostname):
            click.echo(f"warning: {url} is not encrypted: the token can be read on the way, use https://", err=True)
        try:
            headers = {b"authorization": f"Bearer {token}".encode("ascii"), b"shield-actor": actor().encode()}
        except UnicodeEncodeError:
            raise WrongInput("SHIELD_ADMIN_TOKEN has characters that no header can carry") from None
        self._client = httpx.Client(headers=headers, timeout=PATIENCE_S, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def status(self) -> dict[str, Any]:
        """The status of the fleet."""
        return self._ask("GET", "/status")

    def set_mode(self, body: Mapping[str, object], if_version: int | None) -> dict[str, Any]:
        """Change the mode; the status of the fleet afterwards."""
        headers = {} if if_version is None else {"if-match": f'"{if_version}"'}
        return self._ask("PUT", "/mode", json=body, headers=headers)

    def _ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        try:
            response = self._client.request(method, self._base + path, **request)
        except httpx.ReadTimeout:
            raise Unanswered(_too_slow(method, self.url)) from None
        except httpx.TransportError as error:
            raise Unanswered(f"cannot reach {self.url}: {str(error) or type(error).__name__}") from None
        except httpx.InvalidURL as error:
            raise WrongInput(f"'{masked_url(self.url)}' is not a URL: {error}") from None
        answer = _json(response)
        if response.status_code == 200 and "version" in answer:
            return answer
        raise _failure(response, answer, self.url)


def _way(url: str) -> tuple[str, httpx.HTTPTransport | None]:
    """The URL to request, and the transport; None is the default one. ``unix:PATH`` names a socket, not a host."""
    if not url.startswith("unix:"):
        return url, None
    path = os.environ.get("SHIELD_ADMIN_PATH") or DEFAULT_PATH
    return f"http://localhost{path.rstrip('/')}", httpx.HTTPTransport(uds=url.removeprefix("unix:"))


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _too_slow(method: str, url: str) -> str:
    doubt = "" if method == "GET" else " It may be done all the same: see 'shieldmw mode status'."
    return f"{url} did not answer within {PATIENCE_S:.0f} s.{doubt}"


def _failure(response: httpx.Response, answer: Mapping[str, Any], url: str) -> click.ClickException:
    """The one-line error for an unsuccessful answer."""
    status, title, detail = response.status_code, answer.get("title", ""), answer.get("detail", "")
    if status == 422:
        return WrongInput(harmless(detail))
    if not detail or status in (404, 405):
        line = _not_ours(response, url)
    elif status == 401:
        line = f"wrong token: {url} does not know the SHIELD_ADMIN_TOKEN that is set here"
    elif status == 412:
        line = somebody_else(answer.get("current") or {})
    elif status == 429:
        line = f"{title}: {detail} Try again in {response.headers.get('retry-after', 'some')} s."
    elif status == 503:  # the shield's own: no worker and no command can change anything until the store is back
        return click.ClickException(harmless(f"{title}: {detail} Bring the store back, then repeat the command."))
    else:
        line = f"{title} ({status}): {detail}"
    return (Unanswered if status >= HTTPStatus.INTERNAL_SERVER_ERROR else click.ClickException)(harmless(line))


def _not_ours(response: httpx.Response, url: str) -> str:
    status = response.status_code
    if response.is_redirect:
        location = masked_url(response.headers.get("location", "somewhere else"))
        return f"{url} sends to {location}: use that as --url"
    hint = "are there admin routes (SHIELD_ADMIN_TOKEN set on the server), and is the path right?"
    return f"{url} is not the shield's (it answered {status}): {hint}"


def _is_here(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def token_or_exit(*, to_look: bool) -> str:
    """The token from the environment; ``to_look``: the view token will do."""
    names = ("SHIELD_ADMIN_TOKEN", "SHIELD_VIEW_TOKEN") if to_look else ("SHIELD_ADMIN_TOKEN",)
    for name in names:
        if token := os.environ.get(name, "").strip():
            return token
    click.echo("shieldmw: SHIELD_ADMIN_TOKEN is not set: set it to the one the workers were started with", err=True)
    sys.exit(EXIT_WRONG_INPUT)
