"""Every key name of the store, made in one place; no text of a client ever becomes part of one."""

from __future__ import annotations

from hashlib import blake2b

from shieldmw.core.bucket import Charge
from shieldmw.core.table import Table

# Keys that should outlive any event, yet not a decade of neglect: every key has an end.
KEEP_MS = 10 * 366 * 86_400 * 1000

# 128 bits: two of a billion clients share a digest with a chance of 1 in 10**21.
_DIGEST_BYTES = 16

_DIGESTS_KEPT = 65_536


class Keys:
    """Names of keys under one prefix. ``secret`` keys the digests, so that they say nothing."""

    def __init__(self, prefix: str, secret: bytes) -> None:
        self._prefix = prefix
        self._hash_key = blake2b(secret, digest_size=32, person=b"shield-client").digest()
        self._digests: Table[str, str] = Table(_DIGESTS_KEPT)

    def bucket(self, charge: Charge) -> str:
        """The bucket of the charge; buckets of one slot share their hash tag."""
        client = charge.client
        slot = self._digest(client.slot)
        own = "" if client.slot == str(client) else self._digest(str(client)) + ":"
        return f"{self._prefix}:{{{slot}}}:{own}{charge.limit.name}"

    def _digest(self, text: str) -> str:
        known = self._digests.get(text)
        if known is None:
            digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES, key=self._hash_key)
            known = digest.hexdigest()
            self._digests.put(text, known)
        return known


def secret_key(prefix: str) -> str:
    """Where the secret is kept that was made because none was set."""
    return f"{prefix}:secret"


def api_keys_key(prefix: str) -> str:
    """Where the digests of issued API keys are kept, with their version."""
    return f"{prefix}:api-keys"
