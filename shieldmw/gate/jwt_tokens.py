"""JWT: proves a signed token with PyJWT, by keys and algorithms that only the settings choose.

Nothing in a token picks its own key or algorithm: ``kid`` may only name a key that is already
held, ``jku``, ``x5u`` and ``jwk`` are never looked at (RFC 8725, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from shieldmw.core.client import Identity, ListenerClass, Proof

HMAC_ALGORITHMS = ("HS256", "HS384", "HS512")
RSA_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES = {"secp256r1": ("ES256",), "secp384r1": ("ES384",), "secp521r1": ("ES512",), "secp256k1": ("ES256K",)}


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """One key and the algorithms it may be used with; ``kid`` None for the only key there is."""

    kid: str | None
    key: Any
    algorithms: tuple[str, ...]


class KeySource(Protocol):
    """Where the keys come from: the settings, or a JWKS kept fresh."""

    def candidates(self, kid: str | None) -> Sequence[VerificationKey]:
        """The keys that may have signed a token which names ``kid``."""


@dataclass(frozen=True, slots=True)
class FixedKey:
    """The one key of the settings, whatever ``kid`` a token names."""

    key: VerificationKey

    def candidates(self, kid: str | None) -> Sequence[VerificationKey]:
        """The key."""
        return (self.key,)


def secret_key(secret: str, algorithms: Sequence[str]) -> VerificationKey:
    """A shared secret; HS256 unless the settings pin others.

    Raises:
        ValueError: an algorithm is not one of the HS family.
    """
    return VerificationKey(None, secret.encode(), _pinned(algorithms, HMAC_ALGORITHMS, ("HS256",)))


def public_key(pem: str, algorithms: Sequence[str]) -> VerificationKey:
    """A public key in PEM; without pinned algorithms the usual one of its type.

    Raises:
        ValueError: not a PEM public key, of a type that signs no JWT, or an algorithm of another type.
    """
    try:
        key = load_pem_public_key(pem.encode())
    except ValueError:
        raise ValueError("not a public key in PEM: it begins with -----BEGIN PUBLIC KEY-----") from None
    usual = key_algorithms(key)
    return VerificationKey(None, key, _pinned(algorithms, usual, usual[:1]))


def key_algorithms(key: object) -> tuple[str, ...]:
    """The algorithms that a public key can be used with, the usual one first.

    Raises:
        ValueError: the key is of a type that signs no JWT.
    """
    if isinstance(key, rsa.RSAPublicKey):
        return RSA_ALGORITHMS
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name]
    if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return ("EdDSA",)
    raise ValueError(f"a {type(key).__name__} verifies no JWT: use an RSA, EC or Ed25519 public key")


def _pinned(wanted: Sequence[str], possible: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
    wrong = [name for name in wanted if name not in possible]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} cannot be used with this key: use {', '.join(possible)}")
    return tuple(wanted or default)


class JwtVerifier:
    """Proves tokens: signature, ``exp`` and ``sub`` required, ``nbf``, and audience and issuer where set."""

    def __init__(self, keys: KeySource, *, audience: str | None, issuer: str | None, class_claim: str) -> None:
        self._keys = keys
        self._audience = audience
        self._issuer = issuer
        self._class_claim = class_claim

    def verify(self, token: str) -> Proof | None:
        """Whom the token proves; None where it proves nobody, whatever the reason."""
        if token.count(".") != 2:
            return None
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.InvalidTokenError, ValueError):
            return None
        kid, algorithm = header.get("kid"), header.get("alg")
        for key in self._keys.candidates(kid if isinstance(kid, str) else None):
            if algorithm in key.algorithms and (claims := self._claims(token, key)) is not None:
                return self._proof(claims)
        return None

    def _claims(self, token: str, key: VerificationKey) -> dict[str, Any] | None:
        try:
            return jwt.decode(
                token,
                key.key,
                algorithms=list(key.algorithms),
                audience=self._audience,
                issuer=self._issuer,
                options={"require": ["exp", "sub"], "verify_aud": self._audience is not None, "verify_iat": False},
            )
        except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError):
            return None

    def _proof(self, claims: dict[str, Any]) -> Proof | None:
        try:
            listener_class = ListenerClass(claims.get(self._class_claim, ListenerClass.MEMBER))
        except ValueError:
            listener_class = ListenerClass.MEMBER
        try:
            return Proof(Identity(claims["sub"], listener_class), float(claims["exp"]))
        except (ValueError, TypeError, OverflowError):
            return None
