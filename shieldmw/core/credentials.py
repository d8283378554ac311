"""The outcome of checking a credential: a proof, or the reason why it failed. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Failure(StrEnum):
    """The reason why a credential failed. Only ``signature`` has cost a signature check."""

    UNKNOWN_KEY = "unknown_key"  # no API key of ours, and no JWT is verified here
    TOO_LONG = "too_long"
    MALFORMED = "malformed"  # no API key of ours, and no JWT
    NO_KEYS = "no_keys"  # the JWKS has not been fetched yet
    UNKNOWN_KID = "unknown_kid"
    ALGORITHM = "algorithm"
    EXPIRED = "expired"
    NOT_YET = "not_yet"
    AUDIENCE = "audience"
    ISSUER = "issuer"
    CLAIMS = "claims"  # a claim that is required is missing, or of the wrong type
    SIGNATURE = "signature"
    UNAFFORDABLE = "unaffordable"  # not checked: too many others of addresses like this one wait for it


# Failures that are not the credential's own: it is checked again the next time.
NOT_OF_THE_CREDENTIAL = frozenset({Failure.NO_KEYS, Failure.UNAFFORDABLE})


@dataclass(frozen=True, slots=True)
class Rejected:
    """A credential that failed, and the reason. ``until_s``: when it may pass (Unix time), if that is known."""

    reason: Failure
    until_s: float | None = None
