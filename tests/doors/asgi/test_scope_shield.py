"""`scope["shield"]`, which the app can read."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from doors.asgi.harness import call, http_scope, run, websocket_scope
from doors.asgi.shields import ok
from shieldmw import Identity, ListenerClass, Settings, ShieldMiddleware
from shieldmw.core.address import Networks, parse_networks

NAMES = ("identity", "client_address", "listener_class", "mode")

ALICE = Identity("alice")
HOST = Identity("mic", ListenerClass.HOST)


def seen_by_app(identity: Identity | None, scope: Scope, *, times: int = 1, **values: Any) -> Any:
    """The value that the app found in the scope of the last request."""
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["shield"])
        await ok(scope, receive, send)

    async def authenticate(scope: Scope) -> Identity | None:
        return identity

    async def ask() -> None:
        shield = ShieldMiddleware(app, Settings(**values), authenticate=authenticate)
        for _ in range(times):
            await call(shield, dict(scope))

    run(ask())
    assert len(seen) == times
    return seen[-1]


EXPECTED = [
    (None, {}, {}, (None, "203.0.113.7", "guest", "normal"), "a guest"),
    (ALICE, {}, {}, (ALICE, "203.0.113.7", "member", "normal"), "a member"),
    (HOST, {}, {}, (HOST, "203.0.113.7", "host", "normal"), "a host"),
    (None, {"client": None}, {}, (None, None, "guest", "normal"), "a unix socket has no address"),
    (
        None,
        {"client": ("::ffff:192.0.2.1", 1)},
        {},
        (None, "192.0.2.1", "guest", "normal"),
        "one spelling",
    ),
    (None, {"client": ("2001:DB8:0::1", 1)}, {}, (None, "2001:db8::1", "guest", "normal"), "in IPv6 too"),
    (
        None,
        {"headers": [(b"x-forwarded-for", b"198.51.100.4")]},
        {"trusted_proxies": Networks(parse_networks("203.0.113.0/24"))},
        (None, "198.51.100.4", "guest", "normal"),
        "the client behind a trusted proxy",
    ),
    (
        None,
        {"headers": [(b"x-forwarded-for", b"198.51.100.4")]},
        {},
        (None, "203.0.113.7", "guest", "normal"),
        "a header that nobody vouches for changes nothing",
    ),
    (None, {"path": "/healthz"}, {}, (None, "203.0.113.7", "guest", "normal"), "an exempt path"),
    (ALICE, {}, {"token_limit": "off"}, (ALICE, "203.0.113.7", "member", "normal"), "no limit at all"),
]


@pytest.mark.parametrize(("identity", "more", "values", "expected", "reason"), EXPECTED)
@pytest.mark.parametrize("make", [http_scope, websocket_scope], ids=["http", "websocket"])
def test_the_app_reads_who_is_asking(
    make: Any,
    identity: Identity | None,
    more: dict[str, Any],
    values: dict[str, Any],
    expected: tuple[object, ...],
    reason: str,
) -> None:
    """Identity, address, class and mode, as attributes and as keys, for http and WebSocket alike."""
    shield = seen_by_app(identity, {**make(), **more}, **values)
    assert tuple(getattr(shield, name) for name in NAMES) == expected, reason
    assert tuple(shield[name] for name in NAMES) == expected, reason


def test_it_is_there_where_a_dry_run_would_have_refused() -> None:
    """In a dry run the app finds the same as ever."""
    shield = seen_by_app(ALICE, http_scope(), times=3, dry_run=True, token_limit="1/day")
    assert (shield.identity, shield.listener_class) == (ALICE, ListenerClass.MEMBER)


@pytest.mark.parametrize("name", ["", "subject", "Identity", "decision", "nesting", "_address", "__class__"])
def test_a_name_that_is_not_there_is_a_key_error(name: str) -> None:
    """As of any mapping: what is not there raises KeyError with its name."""
    with pytest.raises(KeyError, match=f"'{name}'"):
        seen_by_app(None, http_scope())[name]


def test_it_cannot_be_changed() -> None:
    """An app cannot make a guest a host."""
    shield = seen_by_app(None, http_scope())
    for name in NAMES:
        with pytest.raises(AttributeError):
            setattr(shield, name, HOST)


def test_what_a_client_or_server_wrote_there_is_overwritten() -> None:
    """A `shield` that was in the scope before is not believed."""
    assert seen_by_app(None, http_scope(shield={"identity": HOST})).identity is None


def test_requests_do_not_share_it() -> None:
    """Each request has its own, also when they run at the same time."""
    seen: dict[str, str] = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        seen[scope["path"]] = scope["shield"].client_address
        await ok(scope, receive, send)

    async def ask() -> None:
        import asyncio

        from doors.asgi.harness import NO_BODY

        shield = ShieldMiddleware(app, Settings())
        await asyncio.gather(
            *(call(shield, http_scope(f"/{n}", client=(f"192.0.2.{n}", 1)), NO_BODY) for n in range(50))
        )

    run(ask())
    assert seen == {f"/{n}": f"192.0.2.{n}" for n in range(50)}
