"""Clients, which requests are charged to; their classes, and the identity that a verified credential proves."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from socket import AF_INET, AF_INET6, inet_ntop
from typing import NamedTuple

from .made import made

IPAddress = IPv4Address | IPv6Address

# The IPv6 prefix that a site usually gets (RFC 6177); all addresses of a site share an aggregate limit.
SITE_PREFIX = 56


class ListenerClass(StrEnum):
    """The order of favour: hosts before members before guests."""

    HOST = "host"
    MEMBER = "member"
    GUEST = "guest"

    __hash__ = str.__hash__  # as fast as that of a string


@dataclass(frozen=True, slots=True)
class Identity:
    """A verified subject. ``subject`` is the issuer's name for it, never empty.

    Raises:
        ValueError: the subject is empty or longer than 1024 characters.
    """

    subject: str
    listener_class: ListenerClass = ListenerClass.MEMBER

    def __post_init__(self) -> None:
        if not 0 < len(self.subject) <= 1024:
            raise ValueError(f"a subject has 1 to 1024 characters, this one {len(self.subject)}")
        object.__setattr__(self, "listener_class", ListenerClass(self.listener_class))


@dataclass(frozen=True, slots=True)
class Proof:
    """The identity that a credential proves, and its end (Unix time). ``api_key`` is the digest of an API key."""

    identity: Identity
    until_s: float
    api_key: str | None = None


class Client(NamedTuple):
    """The party that a request is charged to: ``kind`` is ``ip`` or ``token``; ``text`` is its canonical spelling.
    ``shared`` stands for many clients together.

    Buckets of clients with the same ``slot`` are kept together, so that one request's charges are decided in one place
    (in a Redis Cluster: in one hash slot).
    """

    kind: str
    text: str
    slot: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.text}"


class AddressClients(NamedTuple):
    """The clients of one address: the address itself, and for IPv6 the site around it."""

    one: Client
    site: Client | None


def token_client(identity: Identity) -> Client:
    """The client of a verified subject."""
    return Client("token", identity.subject, f"token:{identity.subject}")


def shared_client(whose: str, limit_name: str) -> Client:
    """Stands for all clients, or all of a kind, that share a limit; the slot of each such limit is its own."""
    return Client("shared", whose, f"shared:{whose}:{limit_name}")


def address_clients(address: IPAddress | None, ipv4_prefix: int, ipv6_prefix: int) -> AddressClients:
    """The clients of an address; all requests without a known address are one client."""
    if address is None:
        return AddressClients(Client("ip", "unknown", "ip:unknown"), None)
    if type(address) is IPv4Address:
        one = _network(address, ipv4_prefix, 32, AF_INET)
        return made(AddressClients, (made(Client, ("ip", one, f"ip:{one}")), None))
    one = _network(address, ipv6_prefix, 128, AF_INET6)
    if ipv6_prefix <= SITE_PREFIX:
        return AddressClients(_ip_client(one, None), None)
    site = _network(address, SITE_PREFIX, 128, AF_INET6)
    return AddressClients(_ip_client(one, site), _ip_client(site, None))


def charged_client(identity: Identity | None, address: IPAddress | None, ipv4_prefix: int, ipv6_prefix: int) -> Client:
    """The client that is charged first: the verified subject, or the address if there is none."""
    return address_clients(address, ipv4_prefix, ipv6_prefix).one if identity is None else token_client(identity)


def _network(address: IPAddress, prefix: int, bits: int, family: int) -> str:
    if prefix == bits:
        packed = address.packed
    else:
        beyond = bits - prefix
        packed = (int(address) >> beyond << beyond).to_bytes(bits // 8, "big")
    # The canonical text, at a tenth of the cost of str().
    return f"{inet_ntop(family, packed)}/{prefix}"


def _ip_client(network: str, site: str | None) -> Client:
    return Client("ip", network, f"ip:{site or network}")
