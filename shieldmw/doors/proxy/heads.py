"""What passes through the proxy, and what is changed: from a scope to the head of the upstream's request, and back.

Targets and values pass as bytes, unchanged. What belongs to one connection is removed in both directions before
anything of ours is added (RFC 9110, section 7.6.1), so that a client cannot have ``Connection`` remove it. A request
whose body could be taken for something else by the upstream is not passed on at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import Enum, auto
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote

from starlette.types import Scope

from shieldmw.answers.gateway import PROXY_NAME, WRONG_FRAMING, WRONG_HOST, WRONG_TARGET
from shieldmw.core.bounds import LONGEST_LENGTH
from shieldmw.core.made import made

from .failures import ProxyFailure
from .forwarding import Forwarding
from .http1 import Lines, ResponseHead, tokens, written

# Header lines of one connection only. Expect is answered by our own server, since it has to read the body anyway;
# trailers are not passed on, so they are not announced; credentials for a proxy are not for an origin.
_OF_A_CONNECTION = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
        *(b"proxy-authenticate", b"proxy-authorization"),
    )
)
_NOT_IN_REQUESTS = _OF_A_CONNECTION | {
    *(b"expect", b"http2-settings", b"content-length", b"host"),
    *(b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions", b"sec-websocket-accept"),
}

# What Connection may say without naming another header line.
_PERSISTENCE = frozenset((b"close", b"keep-alive"))

_VIA = (b"via", b"1.1 " + PROXY_NAME)

# Without small letters, which no method has: hypercorn makes capitals of them, so "post" would be a POST to which no
# rule for POST was applied. nginx refuses them too.
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Z-]+")

# A name with an underscore is a name with a hyphen to many apps (CGI, WSGI), and would pass for a header of ours.
_NAME = re.compile(rb"[!#$%&'*+.^`|~0-9a-z-]+")
_TARGET = re.compile(rb"/[!-\"$-~\x80-\xff]*")
# Without what RFC 3986 also allows in names and no name has: in Forwarded it would separate what we say.
_AUTHORITY = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%-]+)(:[0-9]{0,5})?")

# A handshake of our own: no extensions are offered, so that each frame can be read.
_HANDSHAKE = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: %b\r\n"

# Methods that may be sent twice (RFC 9110, section 9.2.2), if they have no body.
_REPEATABLE = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))


# A request of these without a body says so (RFC 9110, section 8.6).
_USUALLY_WITH_BODY = frozenset(("POST", "PUT", "PATCH"))

# Bytes of a Host: a name of the DNS, and a port.
LONGEST_HOST = 261

# The work of reading names and hosts is kept for so many of them, and for no name that is longer: clients choose them.
KEPT = 1024
LONGEST_KEPT_NAME = 64

_METHODS = {name: name.encode("ascii") for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}


class Kind(Enum):
    """What becomes of a header line of a request: it passes, it is dropped, it says where the client comes from, or we
    read it and write our own."""

    KEPT = auto()
    DROPPED = auto()
    OF_PROXIES = auto()
    OURS = auto()


# An attribute of an Enum costs as much as a test of the line.
_KEPT, _OF_PROXIES, _OURS = Kind.KEPT, Kind.OF_PROXIES, Kind.OURS


class Framing(NamedTuple):
    """The body of a request: its length in bytes. None: it comes in chunks, or nobody knows yet (``RequestBody``)."""

    length: int | None
    is_chunked: bool = False


NO_BODY = Framing(0)


class RequestHead(NamedTuple):
    """A request that may be passed on. ``host``: the client's, if it is kept; ``lines``: those between it and the
    framing."""

    method: str
    start: bytes
    host: bytes
    lines: bytes
    framing: Framing

    @property
    def has_body(self) -> bool:
        """Whether a body follows, or may follow."""
        return self.framing.length != 0

    @property
    def is_repeatable(self) -> bool:
        """Whether the request may be sent again if the first connection was closed before any answer."""
        return self.framing.length == 0 and self.method in _REPEATABLE

    def bytes_for(self, authority: bytes, key: bytes | None = None) -> bytes:
        """The head as the upstream gets it; ``authority`` is its own Host. With a ``key``: a WebSocket handshake."""
        framing = b""
        if key is not None:
            framing = _HANDSHAKE % key
        elif self.framing.is_chunked:
            framing = b"transfer-encoding: chunked\r\n"
        elif self.framing.length or self.method in _USUALLY_WITH_BODY:
            framing = b"content-length: %d\r\n" % (self.framing.length or 0)
        return b"%bhost: %b\r\n%b%b\r\n" % (self.start, self.host or authority, self.lines, framing)


class Heads:
    """Translates heads. ``keeps_host``: the upstream gets the client's Host, otherwise its own."""

    def __init__(self, forwarding: Forwarding, *, keeps_host: bool) -> None:
        self._forwarding = forwarding
        self._keeps_host = keeps_host
        self._known_kind = lru_cache(maxsize=KEPT)(self._kind)

    def request(self, scope: Scope) -> RequestHead:
        """The head of the upstream's request.

        Raises:
            ProxyFailure: it cannot be passed on without doubt about what it means.
        """
        method, version = scope.get("method", "GET"), scope.get("http_version", "1.1")
        kept, of_proxies, special = self._sort(scope["headers"])
        host = _host(special.get(b"host", ()), is_needed=version == "1.1")
        framing = _framing(
            special.get(b"content-length", ()), special.get(b"transfer-encoding", ()), is_stream=version[0] == "1"
        )
        start = b"%b %b HTTP/1.1\r\n" % (_method(method), _target(scope, method))
        lines = b"%b%bvia: %b %b\r\n" % (
            written(kept),
            self._forwarding.written(scope, of_proxies, host),
            version.encode("latin-1"),
            PROXY_NAME,
        )
        return made(RequestHead, (method, start, host if self._keeps_host else b"", lines, framing))

    def _sort(self, received: Iterable[tuple[bytes, bytes]]) -> tuple[Lines, Lines, dict[bytes, list[bytes]]]:
        """The lines that pass, those that say where the client comes from, and the values of those that are ours to
        write, by name."""
        kept: Lines = []
        of_proxies: Lines = []
        special: dict[bytes, list[bytes]] = {}
        known_kind = self._known_kind
        for line in received:
            name = line[0]
            kind = known_kind(name) if len(name) <= LONGEST_KEPT_NAME else self._kind(name)
            if kind is _KEPT:
                kept.append(line)
            elif kind is _OURS:
                special.setdefault(name, []).append(line[1])
            elif kind is _OF_PROXIES:
                of_proxies.append(line)
        for value in special.get(b"connection", ()):
            if value not in _PERSISTENCE and (named := tokens(value) - _PERSISTENCE):
                kept = [line for line in kept if line[0] not in named]
        return kept, of_proxies, special

    def _kind(self, name: bytes) -> Kind:
        if name in _NOT_IN_REQUESTS:
            return Kind.OURS
        if self._forwarding.owns(name):
            return Kind.OF_PROXIES
        return Kind.KEPT if _NAME.fullmatch(name) else Kind.DROPPED

    def response(self, head: ResponseHead) -> Lines:
        """The header lines of the client's response."""
        named = head.connection
        dropped = _OF_A_CONNECTION | named if named - _PERSISTENCE else _OF_A_CONNECTION
        lines = [line for line in head.lines if line[0] not in dropped]
        if head.status == 204:
            lines = [line for line in lines if line[0] != b"content-length"]
        lines.append(_VIA)
        return lines


def _method(method: str) -> bytes:
    if (known := _METHODS.get(method)) is not None:
        return known
    name = method.encode("latin-1", "replace")
    if method == "CONNECT" or not _METHOD.fullmatch(name):
        raise ProxyFailure(WRONG_TARGET)
    return name


def _target(scope: Scope, method: str) -> bytes:
    """The target in origin form, with its escapes as the client wrote them."""
    path = scope.get("raw_path")
    if path is None:
        path = quote(scope["path"]).encode("ascii")
    query = scope.get("query_string")
    target: bytes = path + b"?" + query if query else path
    if not _TARGET.fullmatch(target) and not (target == b"*" and method == "OPTIONS"):
        raise ProxyFailure(WRONG_TARGET)
    return target


def _host(hosts: Sequence[bytes], *, is_needed: bool) -> bytes:
    """The one Host. It may be missing before HTTP/1.1: granian then says that it is empty."""
    if len(hosts) == 1 and len(hosts[0]) <= LONGEST_HOST and _is_host(hosts[0]):
        return hosts[0]
    if any(hosts) or len(hosts) > 1 or is_needed:
        raise ProxyFailure(WRONG_HOST)
    return b""


@lru_cache(maxsize=KEPT)
def _is_host(value: bytes) -> bool:
    return _AUTHORITY.fullmatch(value) is not None


def _framing(lengths: Sequence[bytes], codings: Sequence[bytes], *, is_stream: bool) -> Framing:
    """How the body comes. ``is_stream``: over HTTP/1, where one without a length and chunks has no body."""
    if codings:
        if lengths or len(codings) > 1 or codings[0].lower() != b"chunked":
            raise ProxyFailure(WRONG_FRAMING)
        return Framing(None, is_chunked=True)
    if not lengths:
        return NO_BODY if is_stream else Framing(None)
    if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > LONGEST_LENGTH:
        raise ProxyFailure(WRONG_FRAMING)
    return Framing(int(lengths[0]))
