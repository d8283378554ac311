"""The forgeries are what they claim to be, and the members' tokens are in order."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random

import jwt
import pytest

from shieldmw.rehearsal.load.attacker import PATHS, attack
from shieldmw.rehearsal.load.tokens import Issuer

SECRET = "a secret of the issuer, long enough for HS256"
ISSUER = Issuer(SECRET, "live-event", "live-event", int(time.time()))


def verified(token: str) -> dict[str, object]:
    claims: dict[str, object] = jwt.decode(
        token, SECRET, algorithms=["HS256"], audience="live-event", issuer="live-event"
    )
    return claims


def test_a_members_token_is_in_order() -> None:
    """An honest verifier accepts it for the right issuer and audience, and finds the subject."""
    assert verified(ISSUER.token("member-01"))["sub"] == "member-01"


@pytest.mark.parametrize(
    ("forge", "error"),
    [
        (ISSUER.expired, jwt.ExpiredSignatureError),
        (ISSUER.unsigned, jwt.InvalidAlgorithmError),
        (ISSUER.wrongly_signed, jwt.InvalidSignatureError),
    ],
)
def test_each_forgery_is_wrong_in_one_way(forge: Callable[[str], str], error: type[Exception]) -> None:
    """An honest verifier rejects each forged token, and for the reason meant; the claims name the victim."""
    token = forge("member-01")
    with pytest.raises(error):
        verified(token)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["sub"], claims["aud"], claims["iss"]) == ("member-01", "live-event", "live-event")


def test_an_attacker_tries_everything() -> None:
    """In a thousand requests each path and each forged header turns up, now with a victim's name, now without."""
    next_ask = attack(ISSUER, ["127.0.1.1"], ["member-01"])
    asks = [next_ask(rng) for rng in [Random(7)] for _ in range(1000)]
    assert {ask.path for ask in asks} == set(PATHS)
    names = {name for ask in asks for name in ask.headers}
    assert names == {"X-Forwarded-For", "Forwarded", "X-Real-IP", "Authorization"}
    assert any(not ask.headers for ask in asks)
    real_ip = {ask.headers["X-Real-IP"] for ask in asks if "X-Real-IP" in ask.headers}
    assert "127.0.1.1" in real_ip
    assert len(real_ip) > 10
    bearers = [ask.headers["Authorization"] for ask in asks if "Authorization" in ask.headers]
    assert len(set(bearers)) > len(bearers) / 2
    with pytest.raises(jwt.PyJWTError):
        verified(bearers[0].removeprefix("Bearer "))
