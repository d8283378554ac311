"""Reads a scope into facts. Pure; what is read here is hostile and still unproven."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from urllib.parse import parse_qsl

from starlette.requests import cookie_parser
from starlette.types import Scope

from shieldmw.core.client import Identity
from shieldmw.core.facts import Facts
from shieldmw.core.paths import below_root

from .tickets import TICKET_COOKIE, TICKET_HEADER

AuthenticateScope = Callable[[Scope], Awaitable[Identity | None]]

# A query with more fields than this carries no credential of ours.
MOST_QUERY_FIELDS = 64

# Some frameworks let a header change the method; a rule for that method must see it.
_METHOD_OVERRIDE = b"x-http-method-override"

_TICKET_NAME = TICKET_COOKIE.encode()


@dataclass(frozen=True, slots=True)
class Reading:
    """Where to look: the proxy header, and the places of a credential (None: nowhere)."""

    forwarded_header: str
    token_header: str | None
    token_cookie: str | None
    token_query: str | None


class FactsReader:
    """Reads facts the way the settings say."""

    def __init__(self, reading: Reading, authenticate: AuthenticateScope | None) -> None:
        self._reading = reading
        self._forwarded = reading.forwarded_header.encode("latin-1")
        self._token_header = None if reading.token_header is None else reading.token_header.encode("latin-1")
        self._authenticate = authenticate
        self._nowhere_else = reading.token_query is None
        self._names = frozenset((self._forwarded, self._token_header, b"cookie", _METHOD_OVERRIDE, TICKET_HEADER))

    def read(self, scope: Scope) -> Facts:
        """The facts of an http or websocket scope."""
        forwarded: list[str] = []
        methods = _methods(scope.get("method", "GET"))
        token = cookie = paper = None
        for name, value in scope["headers"]:
            if name not in self._names:
                continue
            if name == self._forwarded:
                forwarded.append(value.decode("latin-1"))
            if name == self._token_header and token is None:
                token = value
            if name == b"cookie":
                cookie = value if cookie is None else cookie + b"; " + value
            elif name == _METHOD_OVERRIDE:
                methods |= _methods(value.decode("latin-1").strip())
            elif name == TICKET_HEADER:
                paper = value.decode("latin-1")
        client = scope.get("client")
        path, root_path = scope["path"], scope.get("root_path", "")
        return Facts(
            client[0] if client else None,
            path,
            below_root(path, root_path) if root_path else path,
            methods,
            tuple(forwarded),
            None if token is cookie is None and self._nowhere_else else self._credential(token, cookie, scope),
            None if self._authenticate is None else partial(self._authenticate, scope),
            paper or _paper(cookie, scope),
            root_path,
        )

    def _credential(self, token: bytes | None, cookie: bytes | None, scope: Scope) -> str | None:
        """The first credential found: header, then cookie, then query."""
        reading = self._reading
        if token is not None and (found := bearer(token.decode("latin-1"))) is not None:
            return found
        if reading.token_cookie is not None and cookie is not None:
            found = cookie_parser(cookie.decode("latin-1")).get(reading.token_cookie)
            if found is not None:
                return found
        query = scope.get("query_string") or b""
        return _query_value(query, reading.token_query) if reading.token_query is not None and query else None


def bearer(value: str) -> str | None:
    """The credential in a header: ``Bearer x`` or a bare ``x``; other schemes are not ours."""
    scheme, space, rest = value.strip(" \t").partition(" ")
    if not space:
        return scheme or None
    return rest.strip(" \t") if scheme.lower() == "bearer" else None


def _paper(cookie: bytes | None, scope: Scope) -> str | None:
    """A ticket or number in the cookie, else in the query; looked for only where its name is seen."""
    if cookie is not None and _TICKET_NAME in cookie:
        return cookie_parser(cookie.decode("latin-1")).get(TICKET_COOKIE)
    query = scope.get("query_string")
    return _query_value(query, TICKET_COOKIE) if query and _TICKET_NAME in query else None


@lru_cache(maxsize=64)
def _methods(name: str) -> frozenset[str]:
    return frozenset((name.upper(),))


def _query_value(query: bytes, name: str) -> str | None:
    try:
        fields = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=MOST_QUERY_FIELDS)
    except ValueError:
        return None
    return next((value for key, value in fields if key == name), None)
