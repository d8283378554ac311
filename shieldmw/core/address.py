"""Finds the client's address: the peer's, or behind trusted proxies that of the first hop that is not one of them.

Text in, address out. Headers are read from the right, because every proxy appends on the right, and everything further
left may have been written by the client (adam-p, "The perils of the 'real' client IP", 2022). Text that cannot be
parsed strictly is not an address.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import islice
from socket import AF_INET, AF_INET6, inet_pton
from typing import NamedTuple

from .bounds import LONGEST_ELEMENT, LONGEST_HEADER, LONGEST_HOP, MOST_COMMAS, MOST_HOPS
from .client import Address, Prefixes
from .made import made

IPNetwork = IPv4Network | IPv6Network

# CloudFront writes address:port into this header, with IPv6 addresses without brackets.
CLOUDFRONT_HEADER = "cloudfront-viewer-address"

# The word in the settings for peers on a unix socket, which have no address.
UNIX_PEER = "unix"

# Longest text of a network: eight groups, the last two as IPv4, and a prefix.
LONGEST_CIDR = 50

# The prefix of IPv4-mapped IPv6 addresses (RFC 4291, section 2.5.5.2).
_IPV4_MAPPED = bytes(10) + b"\xff\xff"

# Addresses as headers write them: [address] with or without a port, IPv4 with a port, any text with a port at the end.
_BRACKETED = re.compile(r"\[([^\[\]]+)\](?::\d{1,5})?")
_IPV4_WITH_PORT = re.compile(r"([0-9.]+):\d{1,5}")
_WITH_LAST_PORT = re.compile(r"[ \t]*(.+):[0-9]{1,5}[ \t]*")

# RFC 7239, section 4: an element is token=value pairs separated by ; and a value is a token or a quoted string.
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105  (a token of the grammar)
_PAIR = re.compile(rf'[ \t]*({_TOKEN})=({_TOKEN}|"(?:[^"\\]|\\.)*")[ \t]*(?:;|$)')


def parse_address(text: str) -> Address | None:
    """The address that ``text`` spells, with or without port, brackets or zone; None if it is not an address.

    ``::ffff:192.0.2.1`` becomes the IPv4 address that it maps. IPv4 with leading zeros is refused, since parsers
    disagree on whether it is octal.
    """
    return _bare_address(text) or _bare_address(_without_trimmings(text))


def _bare_address(text: str) -> Address | None:
    # inet_pton is as strict as the ipaddress module, and much faster.
    try:
        return inet_pton(AF_INET, text)
    except (OSError, ValueError):
        pass
    try:
        address = inet_pton(AF_INET6, text)
    except (OSError, ValueError):
        return None
    return address[12:] if address.startswith(_IPV4_MAPPED) else address


def _without_trimmings(text: str) -> str:
    """The text without blanks, brackets, port and zone; empty if that leaves no address."""
    if len(text) > LONGEST_HOP:
        return ""
    text = text.strip(" \t")
    if bracketed := _BRACKETED.fullmatch(text):
        text = bracketed[1]
        if ":" not in text:
            return ""
    elif with_port := _IPV4_WITH_PORT.fullmatch(text):
        text = with_port[1]
    return text.partition("%")[0] if ":" in text else text


def parse_networks(text: str) -> tuple[IPNetwork, ...]:
    """Parse CIDRs separated by commas or spaces; a bare address is a network of one.

    Raises:
        ValueError: an entry is not a CIDR, or has bits set beyond its prefix.
    """
    return tuple(_parse_network(entry) for entry in text.replace(",", " ").split())


def _parse_network(entry: str) -> IPNetwork:
    """The network; an IPv4-mapped IPv6 network becomes the IPv4 network, as such addresses do."""
    try:
        network = ip_network(entry)
        if isinstance(network, IPv6Network) and network.prefixlen >= 96:
            mapped = network.network_address.ipv4_mapped
            return network if mapped is None else IPv4Network((mapped, network.prefixlen - 96))
        return network
    except ValueError:
        pass
    try:
        meant = ip_network(entry, strict=False)
    except ValueError:
        raise ValueError(f"'{entry}' is not a CIDR: write it like 203.0.113.0/24 or 2001:db8::/32") from None
    raise ValueError(f"'{entry}' has bits beyond its prefix: did you mean {meant}?")


def network_of(text: str) -> IPNetwork:
    """The network of a CIDR or a bare address.

    Raises:
        ValueError: it is not a network, or has bits set beyond its prefix.
    """
    networks = parse_networks(text) if len(text) <= LONGEST_CIDR and "%" not in text else ()
    if len(networks) != 1:
        raise ValueError(f"'{text[:LONGEST_CIDR]}' is not a CIDR: write it like 203.0.113.0/24 or 2001:db8::/32")
    return networks[0]


@dataclass(frozen=True, slots=True)
class Networks:
    """A set of networks, and whether peers on a unix socket belong to it."""

    networks: tuple[IPNetwork, ...] = ()
    unix: bool = False
    _numbers: dict[int, list[tuple[int, int]]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for network in self.networks:
            shift = network.max_prefixlen - network.prefixlen
            numbers = self._numbers.setdefault(network.max_prefixlen // 8, [])
            numbers.append((shift, int(network.network_address) >> shift))

    def __contains__(self, address: Address | None) -> bool:
        if address is None:
            return self.unix
        numbers = self._numbers.get(len(address))
        if not numbers:
            return False
        number = int.from_bytes(address, "big")
        for shift, prefix in numbers:  # noqa: SIM110  (twice as fast as any(), and on the path of every request)
            if number >> shift == prefix:
                return True
        return False

    @property
    def ipv4(self) -> Sequence[tuple[int, int]]:
        """The IPv4 networks, each as the number of bits below its prefix and the prefix as a number."""
        return self._numbers.get(4, ())

    def __bool__(self) -> bool:
        return bool(self.networks) or self.unix


@dataclass(frozen=True, slots=True)
class Addressing:
    """The rules for finding a request's address, and the prefixes that count as one client."""

    trusted: Networks
    header: str
    prefixes: Prefixes

    @property
    def is_plain(self) -> bool:
        """Whether each IPv4 address is a client of its own, and the header may hold a bare address."""
        return self.prefixes.ipv4 == 32 and self.header not in ("forwarded", CLOUDFRONT_HEADER)

    def locate(self, peer: str | None, forwarded: tuple[str, ...]) -> Located:
        """The client's address, given the lines of the configured proxy header.

        The peer, unless it is trusted; then the header's first hop from the right that is not trusted. The peer again
        if the header is missing, cannot be parsed, or contains only trusted hops. None if even the peer has no address
        (a unix socket).
        """
        peer_address, is_trusted = locate_peer(peer, self.trusted)
        if not is_trusted:
            return made(Located, (peer_address, False, False))
        for hop in _hops_from_the_right(forwarded, self.header) if forwarded else ():
            address = parse_address(hop)
            if address is None:
                return Located(peer_address, is_fallback=True, is_unreadable=True)
            if address not in self.trusted:
                return made(Located, (address, False, False))
        return Located(peer_address, is_fallback=True)


class Located(NamedTuple):
    """An address, and how it was found.

    ``is_fallback``: it is a trusted proxy's own address, because its header names no client; the client behind it is
    unknown. ``is_unreadable``: the reason is that the header cannot be parsed.
    """

    address: Address | None
    is_fallback: bool = False
    is_unreadable: bool = False


def locate_peer(peer: str | None, trusted: Networks) -> tuple[Address | None, bool]:
    """The address of a peer, and whether its header is trusted. A peer that is not an address is never trusted."""
    if peer is None:
        return None, trusted.unix
    address = parse_address(peer)
    return address, address is not None and address in trusted


def _hops_from_the_right(lines: tuple[str, ...], header: str) -> Iterable[str]:
    if header not in ("x-forwarded-for", "forwarded"):
        value = ",".join(lines)
        return (_without_last_port(value) if header == CLOUDFRONT_HEADER else value,)
    if header == "x-forwarded-for" and len(lines) == 1 and "," not in lines[0]:
        return lines
    # Clients can only write to the front: the hops that proxies appended are at the end.
    end = ",".join(lines)[-LONGEST_HEADER:]
    hops = reversed(end.split(",")) if header == "x-forwarded-for" else _forwarded_hops(end)
    return islice(hops, MOST_HOPS)


def _without_last_port(value: str) -> str:
    """The address before the port that always follows it; '' if there is no port.

    In IPv6 without brackets, only its position distinguishes the port from a group of the address.
    """
    with_port = _WITH_LAST_PORT.fullmatch(value) if len(value) <= LONGEST_HOP else None
    return "" if with_port is None else with_port[1]


def _forwarded_hops(text: str) -> Iterator[str]:
    """The ``for`` value of each element, from the right; '' for an element without one, and where parsing stops.

    An element is the shortest suffix of the text that matches the grammar: a suffix that begins inside a quoted string
    never does, because its quotes are unbalanced.
    """
    end = len(text)
    commas = 0
    while end > 0:
        start = end
        pairs = None
        while pairs is None and start > 0 and end - start <= LONGEST_ELEMENT and commas < MOST_COMMAS:
            start = text.rfind(",", 0, start) + 1
            pairs = _pairs(text[start:end])
            start -= pairs is None
            commas += 1
        if pairs is None:
            yield ""
            return
        yield pairs.get("for", "")
        end = start - 1


def _pairs(element: str) -> dict[str, str] | None:
    """The pairs of one element by lower-case name; None if it violates the grammar."""
    pairs = {}
    position = 0
    while position < len(element):
        pair = _PAIR.match(element, position)
        if pair is None:
            return None
        pairs[pair[1].lower()] = _unquote(pair[2])
        position = pair.end()
    return pairs or None


def _unquote(value: str) -> str:
    if value.startswith('"'):
        return re.sub(r"\\(.)", r"\1", value[1:-1])
    return value
