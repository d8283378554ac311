"""Reads a scope into facts. What is read here is hostile and still unproven."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

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
from shieldmw.core.made import made
from shieldmw.core.paths import below_root

from .credentials import PROTOCOLS_HEADER, bearer, cookie_value, offered, query_value
from .tickets import TICKET_COOKIE, TICKET_HEADER

AuthenticateScope = Callable[[Scope], Awaitable[Identity | None]]

# Some frameworks let a header change the method; a rule for that method must see it. CGI, WSGI and PHP know no hyphens,
# so with any of them as an underscore it means the same to apps behind a proxy that passes underscores on.
_METHOD_OVERRIDES = frozenset(b"x%bhttp%bmethod%boverride" % hyphens for hyphens in product((b"-", b"_"), repeat=3))

# Headers that make an OPTIONS a preflight (Fetch Standard, section 3.2.2).
_OF_A_PREFLIGHT = frozenset((b"origin", b"access-control-request-method"))

_TICKET_NAME = TICKET_COOKIE.encode()
_ANY = frozenset((ANY_METHOD,))

# OPTIONS is not one of them: it may be a preflight.
_KNOWN_METHODS = {name: frozenset((name,)) for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")}


@dataclass(frozen=True, slots=True)
class CredentialSources:
    """Where to look: the proxy header, and the places of a credential (None: nowhere)."""

    forwarded_header: str | None
    token_header: str | None
    token_cookie: str | None
    token_query: str | None


Header = tuple[bytes, bytes]


class FactsReader:
    """Reads facts the way the settings say."""

    def __init__(self, sources: CredentialSources, authenticate: AuthenticateScope | None) -> None:
        self._forwarded = _name(sources.forwarded_header)
        self._token_header = _name(sources.token_header)
        self._token_cookie = _name(sources.token_cookie)
        self._token_query = _name(sources.token_query)
        self._presented = offered if self._token_header == PROTOCOLS_HEADER else bearer
        self._authenticate = authenticate
        self._names = _METHOD_OVERRIDES | {self._forwarded, self._token_header, b"cookie", TICKET_HEADER}

    def read(self, scope: Scope) -> Facts:
        """The facts of an http or websocket scope."""
        lines, names = scope["headers"], self._names
        if len(lines) > MOST_LINES:
            return self._with_too_many_lines(scope)
        headers: list[Header] = []
        for line in lines:
            if line[0] in names:
                headers.append(line)
        methods, query = _KNOWN_METHODS.get(scope.get("method", "GET")), scope.get("query_string")
        if methods is None or self._authenticate is not None:
            return self._facts(scope, query or b"", headers)
        if query and (self._token_query is not None or _TICKET_NAME in query):
            return self._facts(scope, query, headers)
        # The fast path: most requests have a proxy header and a token, or less.
        forwarded: tuple[str, ...] = ()
        credential: str | None = None
        for name, value in headers:
            if name == self._forwarded and not forwarded and name != self._token_header:
                forwarded = (value[-LONGEST_HEADER:].decode("latin-1"),)
            elif name == self._token_header and credential is None and name != self._forwarded:
                credential = self._presented(value[:LONGEST_TOKEN_LINE].decode("latin-1"))
                if credential is None:
                    return self._facts(scope, query or b"", headers)
            else:
                return self._facts(scope, query or b"", headers)
        client, path, root_path = scope.get("client"), scope["path"], scope.get("root_path", "")
        peer = client[0] or None if client else None  # on a unix socket granian's is ''
        route_path = below_root(path, root_path) if root_path else path
        return made(Facts, (peer, path, route_path, methods, root_path, False, forwarded, credential, None, None))

    def _with_too_many_lines(self, scope: Scope) -> Facts:
        """The facts of a head whose last lines are not read, except for the proxies' header."""
        lines = scope["headers"]
        headers = [line for line in lines[:MOST_LINES] if line[0] in self._names]
        forwarded = [value for name, value in lines if name == self._forwarded] if self._forwarded else []
        facts = self._facts(scope, scope.get("query_string") or b"", headers)
        return facts._replace(methods=_ANY, forwarded=_texts(forwarded))

    def _facts(self, scope: Scope, query: bytes, headers: Sequence[Header]) -> Facts:
        preflight = scope.get("method") == "OPTIONS" and _is_preflight(scope)
        if preflight:  # where it comes from, and nothing that could be a credential
            query, headers = b"", [line for line in headers if line[0] == self._forwarded]
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
            elif name in _METHOD_OVERRIDES:
                overrides.append(value)
            elif name == TICKET_HEADER:
                signed_ticket = value
        cookie = b";".join(cookies) if len(cookies) > 1 else cookies[0] if cookies else b""
        client, path, root_path = scope.get("client"), scope["path"], scope.get("root_path", "")
        return Facts(
            client[0] or None if client else None,
            path,
            below_root(path, root_path) if root_path else path,
            _methods(scope.get("method", "GET"), overrides),
            root_path,
            preflight,
            _texts(forwarded),
            self._credential(token, cookie, query),
            None if self._authenticate is None or preflight else partial(self._authenticate, scope),
            _signed_ticket(signed_ticket, cookie, query),
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
    return names >= _OF_A_PREFLIGHT and names.isdisjoint(_METHOD_OVERRIDES)


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
    """The methods that the app may see; any, if several override the method: in lines, or in a list, of which apps may
    take any entry, and which proxies make of lines."""
    if not overrides:
        return _method(method) if len(method) <= LONGEST_METHOD else _ANY
    if len(overrides) > 1 or b"," in overrides[0] or max(len(method), len(overrides[0])) > LONGEST_METHOD:
        return _ANY
    return _method(method) | _method(overrides[0].decode("latin-1").strip())


def _method(name: str) -> frozenset[str]:
    name = name.upper()
    return _KNOWN_METHODS.get(name) or frozenset((name,))
