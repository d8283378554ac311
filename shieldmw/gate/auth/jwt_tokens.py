"""JWT: verifies signed tokens with PyJWT, using only keys and algorithms that the settings choose.

Checks that need no signature come first (``screen``): a token may be rejected, but never accepted, because of its
unverified claims. A token cannot choose its own key or algorithm: ``kid`` can only select a key that is already held;
``jku``, ``x5u`` and ``jwk`` are ignored (RFC 8725, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from shieldmw.core.client import Identity, ListenerClass, Proof
from shieldmw.core.credentials import Failure, Rejected
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock
from shieldmw.settings.fields import HMAC_ALGORITHMS

# The algorithms of RSA keys, the usual one first (RFC 7518, section 3.1).
RSA_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")

# Errors that PyJWT raises for malformed tokens; RecursionError is for JSON nested too deeply.
_BAD_TOKEN = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)

# The algorithm of keys on each elliptic curve (RFC 7518, section 3.4; RFC 8812).
_CURVES = {"secp256r1": ("ES256",), "secp384r1": ("ES384",), "secp521r1": ("ES512",), "secp256k1": ("ES256K",)}


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A key and the algorithms it may be used with; ``kid`` is None if the key has no name."""

    kid: str | None
    key: Any
    algorithms: tuple[str, ...]


class KeySource(Protocol):
    """A source of keys: the settings, or a JWKS that is refreshed."""

    @property
    def is_ready(self) -> bool:
        """Whether there are keys; if not, no token can be judged."""

    def candidates(self, kid: str | None) -> Sequence[VerificationKey]:
        """The keys that may have signed a token with this ``kid``."""


@dataclass(frozen=True, slots=True)
class FixedKey:
    """The single key in the settings, used for every ``kid``."""

    key: VerificationKey

    @property
    def is_ready(self) -> bool:
        """Always: the key comes with the settings."""
        return True

    def candidates(self, kid: str | None) -> Sequence[VerificationKey]:
        """The key."""
        return (self.key,)


def secret_key(secret: str, algorithms: Sequence[str]) -> VerificationKey:
    """The key of a shared secret; for HS256 unless the settings pin other algorithms.

    Raises:
        ValueError: an algorithm is not one of the HS family.
    """
    return VerificationKey(None, secret.encode(), _pinned(algorithms, HMAC_ALGORITHMS, ("HS256",)))


def public_key(pem: str, algorithms: Sequence[str]) -> VerificationKey:
    """The public key in a PEM text; without pinned algorithms, for the usual one of its type.

    Raises:
        ValueError: not a PEM public key, a key of a type that JWTs do not use, or an algorithm of another type.
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
        ValueError: JWTs do not use keys of this type.
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
    """Verifies tokens: the signature, ``exp`` and a subject (required), ``nbf``, and audience and issuer if set.

    ``iat`` is not checked (RFC 7519, section 4.1.6). ``leeway_s`` is the tolerated difference between the issuer's
    clock and ours; a proof is valid until ``exp`` plus the leeway.
    """

    def __init__(
        self,
        keys: KeySource,
        *,
        audience: str | None,
        issuer: str | None,
        class_claim: str,
        subject_claim: str = "sub",
        leeway_s: float = 0.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._keys = keys
        self._audience = audience
        self._issuer = issuer
        self._class_claim = class_claim
        self._subject_claim = subject_claim
        self._leeway_s = leeway_s
        self._unix_s = clock.unix_s

    def screen(self, token: str) -> Rejected | None:
        """Reject a token for a reason that needs no signature check; None if the signature must be checked.

        The claims are unverified here, so they may only be used to reject the token.
        """
        try:
            read = jwt.decode_complete(token, **self._checks(verify_signature=False))
            keys = self._keys_for(read["header"])
        except jwt.InvalidAudienceError:
            return Rejected(Failure.AUDIENCE)
        except jwt.InvalidIssuerError:
            return Rejected(Failure.ISSUER)
        except jwt.MissingRequiredClaimError as error:
            return Rejected(_MISSING.get(error.claim, Failure.CLAIMS))
        except _BAD_TOKEN:
            return Rejected(Failure.MALFORMED)
        if isinstance(keys, Rejected):
            return keys
        proof = self._proof(read["payload"])
        return proof if isinstance(proof, Rejected) else None

    def verify(self, token: str) -> Proof | None:
        """The proof that the token provides; None if it fails for any reason."""
        try:
            keys = self._keys_for(jwt.get_unverified_header(token))
        except _BAD_TOKEN:
            return None
        if isinstance(keys, Rejected):
            return None
        for key in keys:
            claims = self._signed_claims(token, key)
            if claims is not None:
                proof = self._proof(claims)
                return proof if isinstance(proof, Proof) else None
        return None

    def _keys_for(self, header: dict[str, Any]) -> Sequence[VerificationKey] | Rejected:
        """The keys that may have signed a token with this header."""
        kid, algorithm = header.get("kid"), header.get("alg")
        named = self._keys.candidates(kid if isinstance(kid, str) else None)
        if not named:
            return Rejected(Failure.UNKNOWN_KID if self._keys.is_ready else Failure.NO_KEYS)
        keys = [key for key in named if algorithm in key.algorithms]
        return keys or Rejected(Failure.ALGORITHM)

    def _signed_claims(self, token: str, key: VerificationKey) -> dict[str, Any] | None:
        checks = self._checks(verify_signature=True)
        try:
            return jwt.decode(token, key.key, algorithms=list(key.algorithms), **checks)
        except _BAD_TOKEN:
            return None

    def _checks(self, *, verify_signature: bool) -> dict[str, Any]:
        """PyJWT's options. Times are compared here, with the leeway; `jti` and the type of `sub` do not matter."""
        ours = dict.fromkeys(("verify_exp", "verify_nbf", "verify_iat", "verify_sub", "verify_jti"), False)
        whose = {"verify_aud": self._audience is not None, "verify_iss": self._issuer is not None}
        options = {"verify_signature": verify_signature, **ours, **whose}
        return {"audience": self._audience, "issuer": self._issuer, "options": options}

    def _proof(self, claims: dict[str, Any]) -> Proof | Rejected:
        """The proof that the claims provide, if they are valid now."""
        try:
            until_s = _seconds(claims["exp"]) + self._leeway_s
            from_s = _seconds(claims["nbf"]) - self._leeway_s if "nbf" in claims else 0.0
            identity = Identity(_subject(claims[self._subject_claim]), self._class(claims))
        except (KeyError, ValueError, TypeError, OverflowError):
            return Rejected(Failure.CLAIMS)
        now_s = self._unix_s()
        if until_s <= now_s:
            return Rejected(Failure.EXPIRED)
        if from_s > now_s:
            return Rejected(Failure.NOT_YET, from_s)
        return Proof(identity, until_s)

    def _class(self, claims: dict[str, Any]) -> ListenerClass:
        try:
            return ListenerClass(claims.get(self._class_claim, ListenerClass.MEMBER))
        except ValueError:
            return ListenerClass.MEMBER


# The reason if one of these claims is missing; for any other claim it is ``CLAIMS``.
_MISSING = {"aud": Failure.AUDIENCE, "iss": Failure.ISSUER}


def _seconds(value: Any) -> float:
    """A time in seconds, as in tokens (RFC 7519, NumericDate).

    Raises:
        TypeError, ValueError, OverflowError: it is not a time.
    """
    seconds = float(value)
    if not math.isfinite(seconds):
        raise ValueError(f"{value!r} is not a time")
    return seconds


def _subject(value: Any) -> str:
    """The subject as text; some issuers use integers.

    Raises:
        TypeError: it is neither text nor an integer.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise TypeError(f"a {type(value).__name__} cannot be a subject")
