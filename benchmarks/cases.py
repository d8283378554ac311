"""The cases: the clients, their limit, and the target for the shield relative to a reference."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from ipaddress import IPv4Address
from typing import Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from benchmarks.load import Load
from benchmarks.servers import ServerName

PLENTY: Final = "1000000/minute"
ONCE: Final = "1/day"
_SECRET: Final = "a secret of the benchmark, long enough for HS256"  # noqa: S105
_FIRST: Final = IPv4Address("10.0.0.1")


@dataclass(frozen=True, slots=True)
class Case:
    """One case. Title and load depend on the number of clients: a quick run has fewer.

    ``yardstick`` is the least that a limiter could do there (``yardsticks.py``). Under granian, the shield is that of
    ``shieldmw serve``.
    """

    name: str
    titled: str
    load: Callable[[int], Load]
    settings: Callable[[], Mapping[str, str]]
    reference: str = "bare"
    target: float | None = None
    refused: bool = False
    peers: bool = False
    yardstick: str | None = None
    limit: str = PLENTY
    clients: int = 1
    passes: int = 1
    server: ServerName = "uvicorn"

    @property
    def title(self) -> str:
        """The title with the number of clients."""
        return self.titled.format(self.clients)

    def smaller(self, part: float) -> Case:
        """The same case with a part of the clients."""
        return replace(self, clients=max(1, int(self.clients * part)))


def one_guest(clients: int) -> Load:
    """One client, known by its address."""
    return Load()


def guests(clients: int) -> Load:
    """Clients in turn, known by the header of a trusted proxy."""
    return Load(tuple(f"X-Forwarded-For: {_FIRST + n}" for n in range(clients)))


def one_member(clients: int) -> Load:
    """One member with an HS256 token."""
    return Load((_bearer(_claims("member-0"), _SECRET, "HS256"),))


def members(clients: int) -> Load:
    """Members in turn, with RS256 tokens."""
    key = _rsa_key()
    return Load(tuple(_bearer(_claims(f"member-{n}"), key, "RS256") for n in range(clients)))


def _guest_limit(limit: str, **more: str) -> Callable[[], Mapping[str, str]]:
    return lambda: {"SHIELD_IP_LIMIT": limit, **more}


def _public_key() -> Mapping[str, str]:
    pem = (
        _rsa_key()
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return {"SHIELD_JWT_PUBLIC_KEY": pem.decode()}


@cache
def _rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _claims(subject: str) -> dict[str, str | int]:
    return {"sub": subject, "iat": int(time.time()), "exp": int(time.time()) + 4 * 3600}


def _bearer(claims: dict[str, str | int], key: str | rsa.RSAPrivateKey, algorithm: str) -> str:
    return f"Authorization: Bearer {jwt.encode(claims, key, algorithm=algorithm)}"


_PROXY: Final = {"SHIELD_TRUSTED_PROXIES": "127.0.0.1"}

CASES: Final = (
    Case("hot-guest", "one hot guest, allowed", one_guest, _guest_limit(PLENTY), target=0.85, yardstick="counter"),
    Case(
        "guests",
        "{:,} guests in turn, allowed",
        guests,
        _guest_limit("300/minute", **_PROXY),
        target=0.65,
        yardstick="group",
        clients=100_000,
        limit="300/minute",
    ),
    Case(
        "hot-member",
        "one hot member (HS256), allowed",
        one_member,
        lambda: {"SHIELD_JWT_SECRET": _SECRET, "SHIELD_TOKEN_LIMIT": PLENTY},
        target=0.80,
    ),
    Case("members", "{:,} members in turn (RS256), allowed", members, _public_key, target=0.60, clients=10_000),
    Case(
        "refused",
        "one client, refused",
        one_guest,
        _guest_limit(ONCE),
        reference="refusal",
        target=0.90,
        refused=True,
        limit=ONCE,
    ),
    Case(
        "refused-guests",
        "{:,} clients in turn, refused",
        guests,
        _guest_limit(ONCE, **_PROXY),
        reference="refusal",
        target=0.80,
        refused=True,
        clients=100_000,
        limit=ONCE,
        passes=2,
    ),
    Case(
        "counting",
        "one hot guest, with metrics and the busiest clients counted or not",
        one_guest,
        _guest_limit(PLENTY),
        reference="uncounted",
        target=0.98,
    ),
    Case("serve", "one hot guest under shieldmw serve", one_guest, _guest_limit(PLENTY), server="granian"),
    Case(
        "serve-guests",
        "{:,} guests in turn under shieldmw serve",
        guests,
        _guest_limit("300/minute", **_PROXY),
        clients=100_000,
        server="granian",
    ),
    Case("peers", "the peers, one client, allowed", one_guest, _guest_limit(PLENTY), peers=True),
    Case(
        "peers-refused",
        "the peers, one client, refused",
        one_guest,
        _guest_limit(ONCE),
        reference="refusal",
        refused=True,
        peers=True,
        limit=ONCE,
    ),
)
