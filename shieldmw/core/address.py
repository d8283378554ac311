"""Which address is asking: the peer, or behind trusted proxies the first hop they did not add.

Pure text in, address out. Headers are read from the right, because every proxy appends on the
right and everything further left is whatever the client wrote (adam-p, "The perils of the 'real'
client IP", 2022). What cannot be read strictly is no address.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import islice

from .client import IPAddress

IPNetwork = IPv4Network | IPv6Network

# The longest spelling of an address with brackets, zone and port is far below this.
LONGEST_HOP = 100

# Longer than any chain of proxies: a hundred hops need a third of it.
LONGEST_HEADER = 16_384
MOST_HOPS = 256

UNIX_PEER = "unix"

_BRACKETED = re.compile(r"\[([^\[\]]+)\](?::\d{1,5})?")
_IPV4_WITH_PORT = re.compile(r"([0-9.]+):\d{1,5}")

# An element of a Forwarded header that is longer than this is not read.
LONGEST_ELEMENT = 1024

# RFC 7239, section 4: an element is token=value pairs with ; between; a value is a token or a quoted string.
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105  (a token of the grammar)
_PAIR = re.compile(rf'[ \t]*({_TOKEN})=({_TOKEN}|"(?:[^"\\]|\\.)*")[ \t]*(?:;|$)')


def parse_address(text: str) -> IPAddress | None:
    """The address that ``text`` spells, with or without port, brackets or zone; else None.

    ``::ffff:192.0.2.1`` is the IPv4 address it maps. IPv4 with leading zeros is refused: readers
    disagree whether it is octal.
    """
    text = text.strip(" \t")
    if len(text) > LONGEST_HOP:
        return None
    if bracketed := _BRACKETED.fullmatch(text):
        text = bracketed[1]
        if ":" not in text:
            return None
    elif with_port := _IPV4_WITH_PORT.fullmatch(text):
        text = with_port[1]
    if ":" in text:
        text = text.partition("%")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def parse_networks(text: str) -> tuple[IPNetwork, ...]:
    """CIDRs separated by commas or spaces; a bare address is a network of one.

    Raises:
        ValueError: an entry is no CIDR, or has bits set beyond its prefix.
    """
    return tuple(_parse_network(entry) for entry in text.replace(",", " ").split())


def _parse_network(entry: str) -> IPNetwork:
    try:
        return ip_network(entry)
    except ValueError:
        pass
    try:
        meant = ip_network(entry, strict=False)
    except ValueError:
        raise ValueError(f"'{entry}' is not a CIDR: write it like 203.0.113.0/24 or 2001:db8::/32") from None
    raise ValueError(f"'{entry}' has bits beyond its prefix: did you mean {meant}?")


@dataclass(frozen=True, slots=True)
class Networks:
    """A set of networks, and whether peers on a unix socket belong to it."""

    networks: tuple[IPNetwork, ...] = ()
    unix: bool = False

    def __contains__(self, address: IPAddress | None) -> bool:
        if address is None:
            return self.unix
        return any(address in network for network in self.networks if network.version == address.version)

    def __bool__(self) -> bool:
        return bool(self.networks) or self.unix


def client_address(peer: str | None, forwarded: tuple[str, ...], trusted: Networks, header: str) -> IPAddress | None:
    """Who is asking, given the lines of the one proxy header that is configured.

    The peer, unless it is trusted; then the header's first hop from the right that is not
    trusted. The peer again where the header is missing, cannot be read, or holds trusted hops
    only. None where even the peer has no address (a unix socket).
    """
    peer_address = None if peer is None else parse_address(peer)
    if not forwarded or not trusted or (peer_address is None and peer is not None):
        return peer_address
    if peer_address not in trusted:
        return peer_address
    for hop in _hops_from_the_right(forwarded, header):
        address = parse_address(hop)
        if address is None:
            return peer_address
        if address not in trusted:
            return address
    return peer_address


def _hops_from_the_right(lines: tuple[str, ...], header: str) -> Iterable[str]:
    text = ",".join(lines)
    if header not in ("x-forwarded-for", "forwarded"):
        return (text,)
    # Whatever a client put in front, however long, the hops that proxies appended are at the end.
    end = text[-LONGEST_HEADER:]
    hops = reversed(end.split(",")) if header == "x-forwarded-for" else _forwarded_hops(end)
    return islice(hops, MOST_HOPS)


def _forwarded_hops(text: str) -> Iterator[str]:
    """The ``for`` value of each element, from the right; '' where it has none, and where reading ends.

    An element is the shortest end of the text that follows the grammar: what begins inside a quoted
    string never does, because its quotes do not match.
    """
    end = len(text)
    while end > 0:
        start = end
        pairs = None
        while pairs is None and start > 0 and end - start <= LONGEST_ELEMENT:
            start = text.rfind(",", 0, start) + 1
            pairs = _pairs(text[start:end])
            start -= pairs is None
        if pairs is None:
            yield ""
            return
        yield pairs.get("for", "")
        end = start - 1


def _pairs(element: str) -> dict[str, str] | None:
    """The pairs of one element by lower-case name; None where it breaks the grammar."""
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
