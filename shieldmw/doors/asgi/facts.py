"""Reads a scope into facts. What is read here is hostile and still unproven."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from starlette.types import Scope

from shieldmw.core.bounds import (
    LONGEST_HEADER,
    LONGEST_METHOD,
    LONGEST_SIGNED_TICKET,
    LONGEST_TOKEN_LINE,
    MOST_HOPS,
    MOST_LINES,
)
from shieldmw.core.client import Identity
from shieldmw.core.facts import ANY_METHOD, Facts
from shieldmw.core.paths import below_root
from shieldmw.core.table import Doorkeeper

from .credentials import PROTOCOLS_HEADER, bearer, cookie_value, offered, query_value
from .tickets import TICKET_COOKIE, TICKET_HEADER

# Looks kept, and the longest look that is; a longer one is read anew.
LOOKS_KEPT = 16_384
LONGEST_KEPT = 1536

AuthenticateScope = Callable[[Scope], Awaitable[Identity | None]]

# Some frameworks let a header change the method; a rule for that method must see it.
_METHOD_OVERRIDE = b"x-http-method-override"

# Headers that make an OPTIONS a preflight (Fetch Standard, section 3.2.2).
_OF_A_PREFLIGHT = frozenset((b"origin", b"access-control-request-method"))

_TICKET_NAME = TICKET_COOKIE.encode()
_ANY = frozenset((ANY_METHOD,))


@dataclass(frozen=True, slots=True)
class CredentialSources:
    """Where to look: the proxy header, and the places of a credential (None: nowhere)."""

    forwarded_header: str | None
    token_header: str | None
    token_cookie: str | None
    token_query: str | None


Header = tuple[bytes, bytes]

# All of a request that its facts depend on: peer, path, root path, method, query, and the headers that are read.
Look = tuple[str | bytes | Header | None, ...]


class FactsReader:
    """Reads facts the way the settings say. Of looks that come again it keeps the facts."""

    def __init__(self, sources: CredentialSources, authenticate: AuthenticateScope | None) -> None:
        self._forwarded = _name(sources.forwarded_header)
        self._token_header = _name(sources.token_header)
        self._token_cookie = _name(sources.token_cookie)
        self._token_query = _name(sources.token_query)
        self._presented = offered if self._token_header == PROTOCOLS_HEADER else bearer
        self._authenticate = authenticate
        self._names = frozenset((self._forwarded, self._token_header, b"cookie", _METHOD_OVERRIDE, TICKET_HEADER))
        self._kept: list[tuple[Look, Facts] | None] = [None] * LOOKS_KEPT
        self._seen_once = Doorkeeper(LOOKS_KEPT)

    def read(self, scope: Scope) -> Facts:
        """The facts of an http or websocket scope."""
        lines = scope["headers"]
        if len(lines) > MOST_LINES:
            return self.read_once(scope)
        names = self._names
        headers: list[Header] = []
        for name, value in lines:
            if name in names:
                headers.append((name, value))
        client, query = scope.get("client"), scope.get("query_string") or b""
        peer = client[0] or None if client else None  # on a unix socket granian's is ''
        method = scope.get("method")
        if method == "OPTIONS" and _is_preflight(scope):
            return self._preflight(scope, peer, headers)
        if query and self._token_query is None and _TICKET_NAME not in query:
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
        """The same without keeping anything: for requests that show secrets, and for heads with too many lines."""
        lines = scope["headers"]
        headers = [(name, value) for name, value in lines[:MOST_LINES] if name in self._names]
        client = scope.get("client")
        peer = client[0] or None if client else None  # on a unix socket granian's is ''
        facts = self._facts(scope, peer, scope.get("query_string") or b"", headers, None)
        if len(lines) <= MOST_LINES:
            return facts
        forwarded = [value for name, value in lines if name == self._forwarded] if self._forwarded else []
        return facts._replace(methods=_ANY, forwarded=_texts(forwarded))

    def _preflight(self, scope: Scope, peer: str | None, headers: Sequence[Header]) -> Facts:
        """The facts of a preflight: where it comes from, and nothing that could be a credential."""
        forwarded = [line for line in headers if line[0] == self._forwarded]
        return self._facts(scope, peer, b"", forwarded, None)._replace(authenticate=None, preflight=True)

    def _facts(
        self, scope: Scope, peer: str | None, query: bytes, headers: Sequence[Header], kept: list[object] | None
    ) -> Facts:
        forwarded: list[bytes] = []
        cookies: list[bytes] = []
        overrides: list[bytes] = []
        token = signed_ticket = None
        forwarded_header, token_header = self._forwarded, self._token_header
        for name, value in headers:
            if name == forwarded_header:
                forwarded.append(value)
            if name == token_header and token is None:
                token = value[:LONGEST_TOKEN_LINE]
            if name == b"cookie":
                cookies.append(value)
            elif name == _METHOD_OVERRIDE:
                overrides.append(value)
            elif name == TICKET_HEADER:
                signed_ticket = value
        cookie = b";".join(cookies) if len(cookies) > 1 else cookies[0] if cookies else b""
        path, root_path = scope["path"], scope.get("root_path", "")
        return Facts(
            peer,
            path,
            below_root(path, root_path) if root_path else path,
            _methods(scope.get("method", "GET"), overrides),
            _texts(forwarded) if forwarded else (),
            self._credential(token, cookie, query) if token is not None or cookie or query else None,
            None if self._authenticate is None else partial(self._authenticate, scope),
            _signed_ticket(signed_ticket, cookie, query) if signed_ticket is not None or cookie or query else None,
            root_path,
            kept,
        )

    def _credential(self, token: bytes | None, cookie: bytes, query: bytes) -> str | None:
        """The first credential found: header, then cookie, then query."""
        if token is not None and (found := self._presented(token.decode("latin-1"))) is not None:
            return found
        if self._token_cookie is not None and cookie:
            found = cookie_value(cookie, self._token_cookie)
            if found is not None:
                return found
        return query_value(query, self._token_query) if self._token_query is not None and query else None


def _is_preflight(scope: Scope) -> bool:
    """Whether an OPTIONS is a CORS preflight; one with a method override is not."""
    names = {name for name, _ in scope["headers"]}
    return names >= _OF_A_PREFLIGHT and _METHOD_OVERRIDE not in names


def _length(look: Look) -> int:
    """How long a look is, in characters and bytes."""
    return sum(sum(map(len, part)) if isinstance(part, tuple) else len(part or "") for part in look)


def _name(text: str | None) -> bytes | None:
    return None if text is None else text.encode("latin-1")


def _texts(forwarded: Sequence[bytes]) -> tuple[str, ...]:
    """The lines of the proxies' header, as far as they are read: from the right, and each line is a hop at least."""
    return tuple([line[-LONGEST_HEADER:].decode("latin-1") for line in forwarded[-MOST_HOPS:]])


def _signed_ticket(header: bytes | None, cookie: bytes, query: bytes) -> str | None:
    """A ticket or number from its header, its cookie or the query, in this order of precedence."""
    if header:
        return header.decode("latin-1") if len(header) <= LONGEST_SIGNED_TICKET else None
    if (
        cookie
        and _TICKET_NAME in cookie
        and (signed_ticket := cookie_value(cookie, _TICKET_NAME, LONGEST_SIGNED_TICKET)) is not None
    ):
        return signed_ticket
    return query_value(query, _TICKET_NAME, LONGEST_SIGNED_TICKET) if query and _TICKET_NAME in query else None


def _methods(method: str, overrides: Sequence[bytes]) -> frozenset[str]:
    """The methods that the app may see; with several lines that override the method, any."""
    if not overrides:
        return _method(method) if len(method) <= LONGEST_METHOD else _ANY
    if len(overrides) > 1 or len(method) > LONGEST_METHOD or len(overrides[0]) > LONGEST_METHOD:
        return _ANY
    return _method(method) | _method(overrides[0].decode("latin-1").strip())


@lru_cache(maxsize=64)
def _method(name: str) -> frozenset[str]:
    return frozenset((name.upper(),))
