"""All key names of the store, made in one place; no client's text ever becomes part of one."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from shieldmw.core.bucket import Charge
from shieldmw.core.client import Client

# TTL of keys that should outlive any event, but not a decade of neglect: every key has a TTL.
KEEP_MS = 10 * 366 * 86_400 * 1000

# 128 bits: the chance that any two of a billion clients share a digest is 1 in 10**21.
_DIGEST_BYTES = 16


class Keys:
    """Key names under one prefix. ``secret`` keys the digests, so that they reveal nothing."""

    def __init__(self, prefix: str, secret: bytes) -> None:
        self._prefix = prefix
        key = blake2b(secret, digest_size=32, person=b"shield-client").digest()
        self._hash = blake2b(digest_size=_DIGEST_BYTES, key=key)

    def bucket(self, charge: Charge) -> str:
        """The key of the bucket that is charged."""
        return self.bucket_of(charge.client, charge.limit.name)

    def bucket_of(self, client: Client, limit_name: str) -> str:
        """The key of a client's bucket for a limit; buckets of one slot share their hash tag."""
        kind, text, slot = client
        name = f"{kind}:{text}"
        own = "" if slot == name else self._digest(name) + ":"
        return f"{self._prefix}:{{{self._digest(slot)}}}:{own}{limit_name}"

    def client_digest(self, client: Client) -> str:
        """The digest that stands for a client where its name must not be seen."""
        return self._digest(str(client))

    def _digest(self, text: str) -> str:
        digest = self._hash.copy()
        digest.update(text.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Names:
    """The keys that exist once, and the channel of changes."""

    prefix: str

    @property
    def secret(self) -> str:
        """The secret that was generated because none was set."""
        return f"{self.prefix}:secret"

    @property
    def api_keys(self) -> str:
        """Digests of issued API keys, with their version."""
        return f"{self.prefix}:api-keys"

    @property
    def api_keys_log(self) -> str:
        """The log of the last changes of API keys, in the same slot."""
        return f"{self.prefix}:{{{self.api_keys}}}:log"

    @property
    def deny_log(self) -> str:
        """The log of the last changes of the deny list."""
        return f"{self.prefix}:{{control}}:deny-log"

    @property
    def deny(self) -> str:
        """The deny list, with its version."""
        return f"{self.prefix}:{{control}}:deny"

    @property
    def mode(self) -> str:
        """The mode of the fleet, and the epoch: a number that changes when buckets are refilled or lost."""
        return f"{self.prefix}:{{control}}:mode"

    @property
    def audit(self) -> str:
        """The audit log, a stream."""
        return f"{self.prefix}:{{control}}:audit"

    @property
    def changes(self) -> str:
        """The channel on which changes are announced."""
        return f"{self.prefix}:{{control}}:changes"

    @property
    def seats(self) -> str:
        """The seats of all workers."""
        return f"{self.prefix}:seats"

    @property
    def load(self) -> str:
        """The workers' reports of their load, for operators."""
        return f"{self.prefix}:load"

    @property
    def queue(self) -> str:
        """The counters of the waiting room."""
        return f"{self.prefix}:queue"
