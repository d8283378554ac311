"""All key names of the store, built in one place. No client's text ever becomes part of one."""

from __future__ import annotations

from hashlib import blake2b

from shieldmw.core.bucket import Charge
from shieldmw.core.client import Client

# TTL of keys that must outlive any event: ten years, since every key has a TTL.
KEEP_MS = 10 * 366 * 86_400 * 1000

# Length of a client's digest. 128 bits: the chance that any two of a billion clients share a digest is 1 in 10**21.
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
        """The digest that represents a client where its name must not appear."""
        return self._digest(str(client))

    def _digest(self, text: str) -> str:
        digest = self._hash.copy()
        digest.update(text.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


class Names:
    """The keys that exist once, and the channel of changes."""

    def __init__(self, prefix: str) -> None:
        control = f"{prefix}:{{control}}"  # a hash tag: scripts change several of these keys at once
        self.prefix = prefix
        self.secret = f"{prefix}:secret"  # the one that was generated because none was set
        self.api_keys = f"{prefix}:api-keys"  # digests of issued API keys, with their version
        self.api_keys_log = f"{prefix}:{{{self.api_keys}}}:log"  # their last changes; in the same slot
        self.mode = f"{control}:mode"  # also holds the epoch, which changes when buckets are refilled or lost
        self.limits = f"{control}:limits"  # those that operators changed
        self.deny = f"{control}:deny"  # the deny list, with its version
        self.deny_log = f"{control}:deny-log"  # its last changes
        self.audit = f"{control}:audit"  # a stream
        self.changes = f"{control}:changes"  # the channel on which changes are announced
        self.seats = f"{prefix}:seats"  # those of all workers
        self.load = f"{prefix}:load"  # the workers' reports of their load, for operators
        self.top = f"{prefix}:top"  # the workers' reports of their busiest clients
        self.queue = f"{prefix}:queue"  # the counters of the waiting room

    def decided(self, worker: str) -> tuple[str, str]:
        """The fleet's decisions, and those that a worker has reported; both on one server."""
        sums = f"{self.prefix}:{{decided}}"
        return sums, f"{sums}:{worker}"

    def notice(self, name: str) -> str:
        """A notice that one worker has sent for all."""
        return f"{self.prefix}:notice:{name}"

    def claims(self, slot: int) -> tuple[str, str]:
        """Renewed tickets by their digests, of a slot of time and of the one before; both on one server."""
        renewed = f"{self.prefix}:{{renewed}}"
        return f"{renewed}:{slot}", f"{renewed}:{slot - 1}"
