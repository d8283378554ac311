"""The outcome of checking a credential: a proof, or the reason why it failed. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Failure(StrEnum):
    """The reason why a credential failed. Only for ``signature`` was a signature checked."""

    UNKNOWN_KEY = "unknown_key"  # not a known API key, and no key to verify JWTs is set
    TOO_LONG = "too_long"
    MALFORMED = "malformed"  # neither a known API key nor a JWT
    NO_KEYS = "no_keys"  # the JWKS has not been fetched yet
    UNKNOWN_KID = "unknown_kid"
    ALGORITHM = "algorithm"
    EXPIRED = "expired"
    NOT_YET = "not_yet"
    AUDIENCE = "audience"
    ISSUER = "issuer"
    CLAIMS = "claims"  # a required claim is missing or of the wrong type
    SIGNATURE = "signature"
    UNAFFORDABLE = "unaffordable"  # not checked: there was no time, since too many checks were due


# Failures that say nothing about the credential, so it is checked again the next time.
NOT_OF_THE_CREDENTIAL = frozenset({Failure.NO_KEYS, Failure.UNAFFORDABLE})


@dataclass(frozen=True, slots=True)
class Rejected:
    """A credential that failed, and the reason. It may be valid from ``until_s`` on (Unix time; None if unknown)."""

    reason: Failure
    until_s: float | None = None
