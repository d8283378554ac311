"""An attacker's requests: each has a forged address or token, or an unusual spelling of a path. Pure.

Tricks and paths are lists, from which one of each is drawn for every request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Final

from shieldmw.rehearsal.load.crowd import Ask, Behaviour
from shieldmw.rehearsal.load.tokens import Issuer

Trick = Callable[[Random], Mapping[str, str]]

# Spellings of a limited path and look-alikes of the exempt /healthz: all must be charged. The app's own answer (404, a
# redirect) does not matter here; the stream at /live is closed as soon as it begins.
PATHS: Final = (
    "/api/now",
    "/api/now",
    "/api/programme",
    "/live",
    "//live",
    "/live/",
    "//api/now",
    "/api/./now",
    "/api/x/../now",
    "/%61pi/now",
    "/API/now",
    "/api/now;a=b",
    "/healthzz",
    "/x/healthz",
    "/healthz/../api/now",
)


def attack(issuer: Issuer, victims: Sequence[str], subjects: Sequence[str]) -> Behaviour:
    """The behaviour of an attacker. Half the time it pretends to be one of the ``victims`` (addresses) or
    ``subjects`` (members): if the shield believed that, it would use up their limits."""
    tricks = (*_address_tricks(victims), *_token_tricks(issuer, subjects), _nothing)

    def next_ask(rng: Random) -> Ask:
        return Ask(rng.choice(PATHS), rng.choice(tricks)(rng))

    return next_ask


def _nothing(_rng: Random) -> Mapping[str, str]:
    return {}


def _address_tricks(victims: Sequence[str]) -> tuple[Trick, ...]:
    def address(rng: Random) -> str:
        if rng.random() < 0.5:
            return rng.choice(victims)
        return f"{rng.randint(1, 223)}.{rng.randint(0, 255)}.{rng.randint(0, 255)}.{rng.randint(1, 254)}"

    return (
        lambda rng: {"X-Forwarded-For": address(rng)},
        lambda rng: {"X-Forwarded-For": f"{address(rng)}, {address(rng)}"},
        lambda rng: {"Forwarded": f'for="{address(rng)}:{rng.randint(1024, 65535)}";proto=https'},
        lambda rng: {"X-Real-IP": address(rng)},
    )


def _token_tricks(issuer: Issuer, subjects: Sequence[str]) -> tuple[Trick, ...]:
    def subject(rng: Random) -> str:
        return rng.choice(subjects) if rng.random() < 0.5 else f"nobody-{rng.getrandbits(64):x}"

    def bearer(token: str) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {token}"}

    return (
        lambda rng: bearer(f"{rng.getrandbits(256):x}"),
        lambda rng: bearer(issuer.unsigned(subject(rng))),
        lambda rng: bearer(issuer.wrongly_signed(subject(rng))),
        lambda rng: bearer(issuer.expired(subject(rng))),
    )
