"""Reads a scope into facts. What is read here is hostile and still unproven."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from urllib.parse import parse_qsl

from starlette.requests import cookie_parser
from starlette.types import Scope

from shieldmw.core.client import Identity
from shieldmw.core.facts import Facts
from shieldmw.core.paths import below_root
from shieldmw.core.table import SeenOnce

from .tickets import TICKET_COOKIE, TICKET_HEADER

# So many looks are known, and each longer than this is read anew.
LOOKS_KEPT = 16_384
LONGEST_KEPT = 1536

AuthenticateScope = Callable[[Scope], Awaitable[Identity | None]]

# A query with more fields than this carries no credential of ours.
MOST_QUERY_FIELDS = 64

# Some frameworks let a header change the method; a rule for that method must see it.
_METHOD_OVERRIDE = b"x-http-method-override"

# What an OPTIONS has that is a preflight (Fetch Standard, section 3.2.2).
_OF_A_PREFLIGHT = frozenset((b"origin", b"access-control-request-method"))

_TICKET_NAME = TICKET_COOKIE.encode()


@dataclass(frozen=True, slots=True)
class Reading:
    """Where to look: the proxy header, and the places of a credential (None: nowhere)."""

    forwarded_header: str
    token_header: str | None
    token_cookie: str | None
    token_query: str | None


Header = tuple[bytes, bytes]

# All of a request that its facts depend on: peer, path, root path, method, query, and the headers that are read.
Look = tuple[str | bytes | Header | None, ...]


class FactsReader:
    """Reads facts the way the settings say. Of looks that come again it keeps the facts."""

    def __init__(self, reading: Reading, authenticate: AuthenticateScope | None) -> None:
        self._reading = reading
        self._forwarded = reading.forwarded_header.encode("latin-1")
        self._token_header = None if reading.token_header is None else reading.token_header.encode("latin-1")
        self._authenticate = authenticate
        self._names = frozenset((self._forwarded, self._token_header, b"cookie", _METHOD_OVERRIDE, TICKET_HEADER))
        self._kept: list[tuple[Look, Facts] | None] = [None] * LOOKS_KEPT
        self._seen_once = SeenOnce(LOOKS_KEPT)

    def read(self, scope: Scope) -> Facts:
        """The facts of an http or websocket scope."""
        names = self._names
        headers: list[Header] = []
        for name, value in scope["headers"]:
            if name in names:
                headers.append((name, value))
        client, query = scope.get("client"), scope.get("query_string") or b""
        peer = client[0] if client else None
        method = scope.get("method")
        if method == "OPTIONS" and _is_preflight(scope):
            return self._preflight(scope, peer, headers)
        if query and self._reading.token_query is None and _TICKET_NAME not in query:
            query = b""
        look: Look = (peer, scope["path"], scope.get("root_path"), method, query, *headers)
        number = hash(look)
        known = self._kept[number % LOOKS_KEPT]
        if known is not None and known[0] == look:
            return known[1]
        if self._seen_once.add(number) or self._authenticate is not None or _length(look) > LONGEST_KEPT:
            return self._facts(scope, peer, query, headers, None)
        facts = self._facts(scope, peer, query, headers, [])
        self._kept[number % LOOKS_KEPT] = (look, facts)
        return facts

    def read_once(self, scope: Scope) -> Facts:
        """The same of a request that shows what nobody should keep."""
        headers = [(name, value) for name, value in scope["headers"] if name in self._names]
        client = scope.get("client")
        return self._facts(scope, client[0] if client else None, scope.get("query_string") or b"", headers, None)

    def _preflight(self, scope: Scope, peer: str | None, headers: Sequence[Header]) -> Facts:
        """The facts of a preflight: where it comes from, and nothing that could be a credential."""
        forwarded = [line for line in headers if line[0] == self._forwarded]
        return self._facts(scope, peer, b"", forwarded, None)._replace(authenticate=None, preflight=True)

    def _facts(
        self, scope: Scope, peer: str | None, query: bytes, headers: Sequence[Header], kept: list[object] | None
    ) -> Facts:
        forwarded: list[str] = []
        methods = _methods(scope.get("method", "GET"))
        token = cookie = paper = None
        for name, value in headers:
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
        path, root_path = scope["path"], scope.get("root_path", "")
        return Facts(
            peer,
            path,
            below_root(path, root_path) if root_path else path,
            methods,
            tuple(forwarded),
            None if token is cookie is None and not query else self._credential(token, cookie, query),
            None if self._authenticate is None else partial(self._authenticate, scope),
            paper if paper or (cookie is None and not query) else _paper(cookie, query),
            root_path,
            kept,
        )

    def _credential(self, token: bytes | None, cookie: bytes | None, query: bytes) -> str | None:
        """The first credential found: header, then cookie, then query."""
        reading = self._reading
        if token is not None and (found := bearer(token.decode("latin-1"))) is not None:
            return found
        if reading.token_cookie is not None and cookie is not None:
            found = cookie_parser(cookie.decode("latin-1")).get(reading.token_cookie)
            if found is not None:
                return found
        return _query_value(query, reading.token_query) if reading.token_query is not None and query else None


def _is_preflight(scope: Scope) -> bool:
    """Whether an OPTIONS is a CORS preflight; what a header may turn into another method is none."""
    names = {name for name, _ in scope["headers"]}
    return names >= _OF_A_PREFLIGHT and _METHOD_OVERRIDE not in names


def _length(look: Look) -> int:
    """How long a look is, in characters and bytes."""
    return sum(sum(map(len, part)) if isinstance(part, tuple) else len(part or "") for part in look)


def bearer(value: str) -> str | None:
    """The credential in a header: ``Bearer x`` or a bare ``x``; other schemes are not ours."""
    scheme, space, rest = value.strip(" \t").partition(" ")
    if not space:
        return scheme or None
    return rest.strip(" \t") if scheme.lower() == "bearer" else None


def _paper(cookie: bytes | None, query: bytes) -> str | None:
    """A ticket or number in the cookie, else in the query; looked for only where its name is seen."""
    if cookie is not None and _TICKET_NAME in cookie:
        return cookie_parser(cookie.decode("latin-1")).get(TICKET_COOKIE)
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
