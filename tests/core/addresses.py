"""Addresses as the code keeps them: packed, in network byte order."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import strategies as st

from shieldmw.core.address import Addressing, Located, Networks
from shieldmw.core.client import Address, AddressClients, Prefixes

PREFIXES = Prefixes(32, 64)

ipv4 = st.binary(min_size=4, max_size=4)
ipv6 = st.binary(min_size=16, max_size=16)


def packed(text: str) -> Address:
    """The address that a text spells, by the standard library's reading."""
    return ip_address(text).packed


def clients_at(text: str) -> AddressClients:
    """The clients of an address, with the prefixes of the settings' defaults."""
    return PREFIXES.clients(packed(text))


def locate(peer: str | None, forwarded: tuple[str, ...], trusted: Networks, header: str) -> Located:
    """The address of a request with these header lines, and how it was found."""
    return Addressing(trusted, header, Prefixes(32, 64)).locate(peer, forwarded)


def client_address(peer: str | None, forwarded: tuple[str, ...], trusted: Networks, header: str) -> Address | None:
    """The address alone."""
    return locate(peer, forwarded, trusted, header).address
