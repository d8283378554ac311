"""Clients, to which requests are charged; their classes, and the identity that a verified credential proves."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from socket import AF_INET, AF_INET6, inet_ntop
from typing import NamedTuple

from .made import made

# An IP address in network byte order, as ``inet_pton`` makes it: 4 bytes for IPv4, 16 for IPv6.
Address = bytes

# The IPv6 prefix that a site usually gets (RFC 6177); all addresses of a site share an aggregate limit.
SITE_PREFIX = 56


class ListenerClass(StrEnum):
    """The class of a client, in order of priority: hosts before members before guests."""

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
    """The party that a request is charged to.

    ``kind`` is ``ip`` or ``token``, or ``shared`` for many clients together; ``text`` is its canonical spelling.

    Buckets of clients with the same ``slot`` are kept together, so that one request's charges are decided in one place
    (in a Redis Cluster: in one hash slot).
    """

    kind: str
    text: str
    slot: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.text}"


class AddressClients(NamedTuple):
    """The clients of one address: its network (a prefix, or the address alone), and for IPv6 the site around it."""

    network: Client
    site: Client | None


def address_text(address: Address | None) -> str | None:
    """The canonical text of an address."""
    return None if address is None else inet_ntop(AF_INET if len(address) == 4 else AF_INET6, address)


def token_client(identity: Identity) -> Client:
    """The client of a verified subject."""
    return Client("token", identity.subject, f"token:{identity.subject}")


def shared_client(whose: str, limit_name: str) -> Client:
    """The client that represents all who share a limit; each such limit has a slot of its own."""
    return Client("shared", whose, f"shared:{whose}:{limit_name}")


class Prefixes:
    """The prefix lengths that identify a client, for IPv4 and IPv6. All unknown addresses are one client."""

    __slots__ = ("_ipv4_mask", "_ipv6", "_ipv6_mask", "has_sites", "ipv4")

    def __init__(self, ipv4: int, ipv6: int) -> None:
        self.ipv4 = ipv4
        self._ipv6 = ipv6
        self._ipv4_mask = _mask(ipv4, 32)
        self._ipv6_mask = _mask(ipv6, 128)
        self.has_sites = ipv6 > SITE_PREFIX

    def cut(self, address: Address | None) -> tuple[Address, Address | None]:
        """The first address of the client's network, and of the site around it if that is another client.

        Empty for an unknown address.
        """
        if address is None:
            return b"", None
        if len(address) == 4:
            if self.ipv4 == 32:
                return address, None
            return (int.from_bytes(address, "big") & self._ipv4_mask).to_bytes(4, "big"), None
        number = int.from_bytes(address, "big")
        one = (number & self._ipv6_mask).to_bytes(16, "big")
        return one, (number & _SITE_MASK).to_bytes(16, "big") if self.has_sites else None

    def client(self, one: Address, site: Address | None) -> Client:
        """The client of a network, given its first address and that of the site around it."""
        if len(one) == 4:
            text = f"{inet_ntop(AF_INET, one)}/{self.ipv4}"
            return made(Client, ("ip", text, f"ip:{text}"))
        if not one:
            return Client("ip", "unknown", "ip:unknown")
        text = f"{inet_ntop(AF_INET6, one)}/{self._ipv6}"
        slot = text if site is None else _site_text(site)
        return made(Client, ("ip", text, f"ip:{slot}"))

    def clients(self, address: Address | None) -> AddressClients:
        """The clients of an address."""
        one, site = self.cut(address)
        return AddressClients(self.client(one, site), None if site is None else site_client(site))

    def name(self, identity: Identity | None, address: Address | None) -> bytes:
        """The client whose own limits are charged (the verified subject, or the address if there is none), for hashing:
        as unique as its text, which takes three times as long to make.
        """
        if identity is None:
            return b"ip:" + self.cut(address)[0]
        return b"token:" + identity.subject.encode("utf-8", "surrogatepass")


def site_client(site: Address) -> Client:
    """The client of a site, given its first address."""
    text = _site_text(site)
    return made(Client, ("ip", text, f"ip:{text}"))


def _site_text(site: Address) -> str:
    return f"{inet_ntop(AF_INET6, site)}/{SITE_PREFIX}"


def _mask(prefix: int, bits: int) -> int:
    return (1 << bits) - (1 << bits - prefix)


_SITE_MASK = _mask(SITE_PREFIX, 128)
