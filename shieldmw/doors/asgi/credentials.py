"""Finds a credential or a ticket in a request's head: in a header, a cookie or the query. Nothing is verified here.

Values are taken literally, since tokens, keys and tickets need no quoting, and the standard library takes quadratic
time to unquote a cookie before Python 3.11.10. ``core/bounds.py`` says how much is read.
"""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from shieldmw.core.bounds import (
    LONGEST_COOKIE,
    LONGEST_CREDENTIAL,
    LONGEST_QUERY,
    MOST_COOKIE_BYTES,
    MOST_ESCAPES,
    MOST_LOOKALIKES,
    MOST_PROTOCOLS,
    MOST_QUERY_FIELDS,
)

PROTOCOLS_HEADER = b"sec-websocket-protocol"

_SCHEMES = ("bearer", "jwt")
_DOTTED = "bearer."

# Most blanks before a cookie; browsers write one.
_MOST_BLANKS = 8


def bearer(value: str) -> str | None:
    """The credential in a header: ``Bearer x``, ``JWT x`` or a bare ``x``; None for other schemes."""
    scheme, space, rest = value.strip().partition(" ")
    if not space:
        return scheme or None
    return rest.strip() if scheme.lower() in _SCHEMES else None


def offered(value: str) -> str | None:
    """The credential among WebSocket subprotocols: ``bearer, x`` or ``bearer.x``; one alone is read like a header."""
    protocols = [entry.strip() for entry in value.split(",", MOST_PROTOCOLS)[:MOST_PROTOCOLS]]
    if len(protocols) == 1 and not is_dotted_bearer(protocols[0]):
        return bearer(protocols[0])
    for number, protocol in enumerate(protocols):
        if protocol.lower() == "bearer":
            return (protocols[number + 1 :] or [""])[0] or None
        if is_dotted_bearer(protocol):
            return protocol[len(_DOTTED) :] or None
    return None


def is_dotted_bearer(protocol: str) -> bool:
    """Whether a WebSocket subprotocol is ``bearer.`` followed by a token."""
    return protocol[: len(_DOTTED)].lower() == _DOTTED


def cookie_value(cookies: bytes, name: bytes, longest: int = LONGEST_COOKIE) -> str | None:
    """The value of a cookie, without the double quotes that may enclose it; the last one if the name is repeated."""
    if len(cookies) > MOST_COOKIE_BYTES:
        return None
    named = name + b"="
    at = len(cookies)
    for _ in range(MOST_LOOKALIKES):
        at = cookies.rfind(named, 0, at)
        if at < 0:
            return None
        if _begins_a_cookie(cookies, at):
            return _cookie_at(cookies, at + len(named), longest)
    return None


def _begins_a_cookie(cookies: bytes, at: int) -> bool:
    """Whether a cookie begins there: at the start, or after a semicolon and at most a few blanks."""
    before = cookies[max(0, at - _MOST_BLANKS) : at].rstrip(b" \t")
    return before.endswith(b";") if before else at < _MOST_BLANKS


def _cookie_at(cookies: bytes, start: int, longest: int) -> str | None:
    end = cookies.find(b";", start, start + longest + 1)
    if end < 0:
        end = len(cookies)
    if end - start > longest:
        return None
    value = cookies[start:end].strip().decode("latin-1")
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value


def query_value(query: bytes, name: bytes, longest: int = LONGEST_CREDENTIAL) -> str | None:
    """The decoded value of a query parameter; the first one if the name is repeated."""
    if len(query) > LONGEST_QUERY or query.count(b"&") >= MOST_QUERY_FIELDS:
        return None
    named = name + b"="
    for field in query.split(b"&"):
        if field.startswith(named):
            value = field[len(named) :]
            if len(value) > longest or value.count(b"%") > MOST_ESCAPES:
                return None
            return unquote_to_bytes(value.replace(b"+", b" ")).decode("utf-8", "replace")
    return None
