"""``X-Forwarded-*`` and ``Forwarded``: what the upstream is told about the client, in words that no client can choose.

What the peer says is passed on only if it is a trusted proxy, and of the headers with addresses only the one that such
proxies write (``SHIELD_FORWARDED_HEADER``): any other was written by the client. The others are made from the address
that the shield has found.
"""

from __future__ import annotations

import re
from functools import lru_cache

from starlette.types import Scope

from shieldmw.core.address import Addressing, locate_peer
from shieldmw.core.client import Address, address_text

from .http1 import Lines, written

XFF, XFP, XFH, FORWARDED = b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded"

_FAMILY = b"x-forwarded-"
_SCHEMES = {"ws": b"http", "wss": b"https"}
_HOST = re.compile(rb"[A-Za-z0-9._~:\[\]-]+")


# Clients whose lines are kept, at up to 1 KB each.
KEPT = 4096


class Forwarding:
    """Makes these lines by the rules for finding a client's address."""

    def __init__(self, addressing: Addressing) -> None:
        self._addressing = addressing
        self._header = addressing.header.encode("latin-1")
        self._own = frozenset((FORWARDED, b"x-real-ip", self._header))
        self._of_stranger = lru_cache(maxsize=KEPT)(self._written_of_stranger)

    def owns(self, name: bytes) -> bool:
        """Whether a header line says such things, so that the client's is not passed on as it is."""
        return name in self._own or name.startswith(_FAMILY)

    def written(self, scope: Scope, received: Lines, host: bytes) -> bytes:
        """The lines for the upstream; ``received`` are those of the request that this class owns."""
        client = scope.get("client")
        peer, scheme = client[0] or None if client else None, scope.get("scheme", "http")
        lines = self._of_stranger(peer, scheme, host)
        if lines is not None:
            return lines
        peer_address, _ = locate_peer(peer, self._addressing.trusted)
        return written(self._of_trusted(peer, peer_address, received, host, _proto(scheme)))

    def _written_of_stranger(self, peer: str | None, scheme: str, host: bytes) -> bytes | None:
        """What is known of a client by its connection alone; None if that is a trusted proxy's."""
        peer_address, is_trusted = locate_peer(peer, self._addressing.trusted)
        if is_trusted:
            return None
        address, proto = address_text(peer_address), _proto(scheme)
        lines = [] if address is None else [(XFF, address.encode("ascii"))]
        return written([*lines, (XFP, proto), *_line(XFH, host), (FORWARDED, _element(address, host, proto))])

    def _of_trusted(
        self, peer: str | None, peer_address: Address | None, received: Lines, host: bytes, proto: bytes
    ) -> Lines:
        """What a trusted proxy says, with the proxy itself as the last hop."""
        said: dict[bytes, list[bytes]] = {}
        for name, value in received:
            said.setdefault(name, []).append(value)
        chain = said.get(self._header, [])
        located = self._addressing.locate(peer, tuple(value.decode("latin-1") for value in chain)).address
        client, hop = address_text(located), address_text(peer_address)
        proto, host = (said.get(name, [default])[-1] for name, default in ((XFP, proto), (XFH, host)))
        addresses = chain if self._header == XFF else [] if client is None else [client.encode("ascii")]
        if self._header == XFF and hop is not None:
            addresses = [*addresses, hop.encode("ascii")]
        lines = [(XFF, b", ".join(addresses))] if addresses else []
        lines += [(XFP, proto), *_line(XFH, host)]
        quotable = host if _HOST.fullmatch(host) else b""
        if self._header == FORWARDED:
            lines.append((FORWARDED, b", ".join([*chain, _element(hop, quotable, proto)])))
        else:
            lines.append((FORWARDED, _element(client, quotable, proto)))
        if self._header not in (XFF, FORWARDED):
            lines += [(self._header, value) for value in chain]
        return lines


def _proto(scheme: str) -> bytes:
    return _SCHEMES.get(scheme) or scheme.encode("latin-1")


def _line(name: bytes, value: bytes) -> Lines:
    return [(name, value)] if value else []


def _element(address: str | None, host: bytes, proto: bytes) -> bytes:
    """One element of ``Forwarded`` (RFC 7239, section 4)."""
    if address is None:
        named = b"unknown"
    else:
        named = b'"[%b]"' % address.encode("ascii") if ":" in address else address.encode("ascii")
    parts = [b"for=" + named, b"proto=" + (proto if proto in (b"http", b"https") else b"http")]
    if host:
        parts.append(b'host="%b"' % host)
    return b";".join(parts)
