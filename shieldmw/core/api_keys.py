"""API keys: the records that are stored, and the digests that stand for the keys. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from .client import Identity

# Recommended maximum of issued keys. Each worker holds all of them: this many take 15 MB, and half a second to reload.
MOST_MEANT = 100_000


@dataclass(frozen=True, slots=True)
class ApiKey:
    """The record of an issued key, without the key itself. ``created_s`` is Unix time."""

    digest: str
    identity: Identity
    created_s: int

    @property
    def id(self) -> str:
        """The start of the digest, enough to name the key."""
        return self.digest[:12]


@dataclass(frozen=True, slots=True)
class ApiKeyTable:
    """All issued keys at one version, by digest; ``digest_key`` keys the digests."""

    version: int
    digest_key: bytes = field(repr=False)
    entries: Mapping[str, ApiKey]


def digest(key: str, digest_key: bytes) -> str:
    """The keyed digest under which an API key is stored, 256 bits as hex."""
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=32, key=digest_key).hexdigest()


def derive_digest_key(secret: bytes) -> bytes:
    """The key of the digests, derived from the shield's secret."""
    return blake2b(secret, digest_size=32, person=b"shield-api-key").digest()
