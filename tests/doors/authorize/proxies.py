"""Questions as each proxy asks them, put to a shield in process."""

from __future__ import annotations

from typing import Any

from starlette.types import Receive, Scope, Send

from doors.asgi.harness import NO_BODY, Headers, Record, call, http_scope
from shieldmw import Identity, Settings, ShieldMiddleware
from shieldmw.core.address import Networks, parse_networks
from shieldmw.doors.authorize.dialects import DIALECTS

PROXY = "192.0.2.7"
CLIENT = "203.0.113.7"
ROUTE = "/-/shield/authorize"
ALL = sorted(DIALECTS)


async def no_app(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that must not be reached."""
    raise AssertionError("the question reached the app")


class Seen:
    """The app's own check, which keeps the scopes that it is shown, and knows everybody by name."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope) -> Identity | None:
        """A guest's or, with a header, that of a member."""
        self.scopes.append(scope)
        name = dict(scope["headers"]).get(b"x-member")
        return None if name is None else Identity(name.decode())


def shield(seen: Seen | None = None, **values: Any) -> ShieldMiddleware:
    """A shield that trusts the proxy."""
    settings: dict[str, Any] = {"trusted_proxies": Networks(parse_networks(PROXY)), "redis_url": "memory://", **values}
    return ShieldMiddleware(no_app, Settings(**settings), authenticate=seen)


def question(
    name: str,
    target: str = "/",
    method: str = "GET",
    *,
    headers: Headers | None = None,
    address: str = CLIENT,
    scheme: str = "http",
    host: str = "example.org",
    peer: str | None = PROXY,
    without: bytes | None = None,
    route: str = ROUTE,
) -> Scope:
    """The question of a proxy about a request of a client; ``without`` one of the headers that it should set."""
    lines: Headers = [(b"x-forwarded-for", address.encode()), *(headers or [])]
    lines.append((b"x-forwarded-proto", scheme.encode()))
    asked_for, asked_with, asked_host = f"{route}/{name}", "GET", host
    dialect = DIALECTS[name]
    if dialect.host is not None:
        asked_host = "shield:8000"
        lines.append((dialect.host, host.encode()))
    if dialect.target is None:
        asked_for, asked_with = asked_for + target, method
    else:
        assert dialect.method is not None
        lines += [(dialect.method, method.encode()), (dialect.target, target.encode())]
    path, _, query = asked_for.partition("?")
    scope = http_scope(path, asked_with, query_string=query.encode(), client=None if peer is None else (peer, 4711))
    return {**scope, "headers": [(b"host", asked_host.encode()), *[line for line in lines if line[0] != without]]}


async def ask(app: ShieldMiddleware, scope: Scope) -> Record:
    """The answer to a question."""
    record = await call(app, scope, NO_BODY)
    assert record.raised is None
    return record


def true_status(record: Record) -> int:
    """The status that the client gets, where the example's configuration is in force."""
    told = record.values(b"shield-status")
    return int(told[0]) if told else record.status
