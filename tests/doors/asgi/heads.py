"""Request heads that are expensive to read: one for each part that a client controls, of any size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.types import Scope

from doors.asgi.harness import http_scope, websocket_scope

Head = Callable[[int], dict[str, Any]]


def lines(name: bytes, value: bytes = b"") -> Head:
    """As many lines as fit of one name."""
    return lambda size: {"headers": [(name, value)] * (size // (len(name) + len(value) + 4))}


def line(name: bytes, piece: bytes, before: bytes = b"", after: bytes = b"") -> Head:
    """One long line."""
    return lambda size: {"headers": [(name, before + piece * (size // len(piece)) + after)]}


def path(piece: str, before: str = "/", after: str = "") -> Head:
    """One long path."""
    return lambda size: {"path": before + piece * (size // len(piece)) + after}


def short_path(piece: str) -> Head:
    """A path of tricks that is not too long to be read."""
    return lambda size: {"path": ("/" + piece * size)[: min(size, 2000)]}


def query(piece: bytes, before: bytes = b"") -> Head:
    """One long query."""
    return lambda size: {"query_string": before + piece * (size // len(piece))}


def numbered(size: int) -> dict[str, Any]:
    """Lines that all have another name."""
    return {"headers": [(b"x%d" % number, b"") for number in range(size // 8)]}


def overriding(size: int) -> dict[str, Any]:
    """A method that is overridden again and again, each time by another."""
    return {"headers": [(b"x-http-method-override", b"A%d" % number) for number in range(size // 28)]}


TRICKS = "/a;b//c/../d%2e\\e/./"

HEADS: dict[str, Head] = {
    "backslashes in a quoted ticket": line(b"cookie", b"\\", b'shield_ticket="', b'"'),
    "escaped quotes in a token": line(b"cookie", b'\\"', b'token="', b'"'),
    "octal escapes in a token": line(b"cookie", b"\\101", b'token="', b'"'),
    "many cookies": line(b"cookie", b"a=b;", b"shield_ticket=x;"),
    "cookies that end like ours": line(b"cookie", b"xtoken=1;xshield_ticket=1;"),
    "blanks before cookies": line(b"cookie", b" ", b"a", b"token=1"),
    "our cookie again and again": line(b"cookie", b"token=1;"),
    "cookie lines": lines(b"cookie", b"shield_ticket=aaaaaaa"),
    "empty cookie lines": lines(b"cookie"),
    "empty lines": lines(b"a"),
    "lines of other names": numbered,
    "override lines": overriding,
    "one long override": line(b"x-http-method-override", b"A"),
    "a long method": lambda size: {"method": "A" * size},
    "a long credential": line(b"authorization", b"a", b"Bearer "),
    "blanks in a credential": line(b"authorization", b" ", b"Bearer", b"x"),
    "dots in a credential": line(b"authorization", b"."),
    "credential lines": lines(b"authorization", b"Bearer x"),
    "a long ticket": line(b"shield-ticket", b"a."),
    "ticket lines": lines(b"shield-ticket", b"a.b"),
    "a long Accept": line(b"accept", b"text/htm,"),
    "Accept lines": lines(b"accept", b"*/*"),
    "forwarding lines": lines(b"x-forwarded-for", b"192.0.2.9"),
    "one long forwarding line": line(b"x-forwarded-for", b"192.0.2.9,"),
    "subprotocols": line(b"sec-websocket-protocol", b"bearer,,"),
    "a query of escapes": query(b"%41", b"shield_ticket=a&token="),
    "query fields": query(b"a=b&", b"shield_ticket=a&"),
    "query separators": query(b"&", b"token=a&shield_ticket="),
    "a plain path": path("abcdefg/", after="a"),
    "percent signs": path("%"),
    "escaped percent signs": path("25", "/%"),
    "layers of escapes": path("%25%32%35"),
    "ups": path("/..", ""),
    "unprintables": path("\x01%01"),
    "parameters": path("/;", ""),
    "slashes": path("/"),
    "backslashes": path("\\"),
    "below an exempt path": path("%/..", "/healthz/"),
    "below the admin path": path("%", "/-/shield/"),
    "the admin path again and again": path("/-/shield", ""),
    "a short path of tricks": short_path(TRICKS),
    "a short path of percent signs": short_path("%"),
    "a short path of slashes": short_path("/a/."),
    "a short path of unprintables": short_path("\x01\u200b"),
}


def scope_of(head: dict[str, Any], *, websocket: bool = False) -> Scope:
    """A request with such a head."""
    make = websocket_scope if websocket else http_scope
    return make(**{"path": "/", **head})
