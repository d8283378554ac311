"""The outcome of checking a credential: a proof, or the reason why it failed. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Failure(StrEnum):
    """The reason why a credential failed. Only ``signature`` has cost a signature check."""

    UNKNOWN_KEY = "unknown_key"  # not an API key of ours, and JWTs are not verified here
    TOO_LONG = "too_long"
    MALFORMED = "malformed"  # neither an API key of ours nor a JWT
    NO_KEYS = "no_keys"  # the JWKS has not been fetched yet
    UNKNOWN_KID = "unknown_kid"
    ALGORITHM = "algorithm"
    EXPIRED = "expired"
    NOT_YET = "not_yet"
    AUDIENCE = "audience"
    ISSUER = "issuer"
    CLAIMS = "claims"  # a required claim is missing or of the wrong type
    SIGNATURE = "signature"
    UNAFFORDABLE = "unaffordable"  # not checked: too many others from such addresses are waiting for a check


# Failures that say nothing about the credential, so it is checked again the next time.
NOT_OF_THE_CREDENTIAL = frozenset({Failure.NO_KEYS, Failure.UNAFFORDABLE})


@dataclass(frozen=True, slots=True)
class Rejected:
    """A credential that failed, and the reason. ``until_s`` is when it may pass (Unix time), if that is known."""

    reason: Failure
    until_s: float | None = None
