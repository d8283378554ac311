"""API keys in memory: those from the file, and a copy of those in the store, at most a second old."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256

from shieldmw.core.api_keys import ApiKeyTable, digest
from shieldmw.core.client import Identity
from shieldmw.gate.refresher import Refresher
from shieldmw.store.port import Store

# Polling interval: a revoked key must stop working everywhere within a second.
POLL_S = 0.5


class ApiKeys:
    """Verifies API keys without a call to the store: holds the whole table, and polls its version.

    While the store is away, the last known table stays in force. ``on_change`` is called after each new one.
    """

    on_change: Callable[[], None]

    def __init__(self, store: Store, file_entries: Mapping[str, Identity]) -> None:
        self.on_change = lambda: None
        self._store = store
        self._file_entries = file_entries
        self._issued: ApiKeyTable | None = None
        self.refresher = Refresher("API keys", self.refresh, interval_s=POLL_S, least_s=POLL_S / 2)

    def __bool__(self) -> bool:
        """Whether there are any keys."""
        return bool(self._file_entries) or (self._issued is not None and bool(self._issued.entries))

    def find(self, credential: str) -> tuple[str, Identity] | None:
        """The digest and the identity of a key; None if the credential is not a key in force."""
        if self._issued is not None:
            issued = digest(credential, self._issued.digest_key)
            if (entry := self._issued.entries.get(issued)) is not None:
                return issued, entry.identity
        if not self._file_entries:
            return None
        filed = sha256(credential.encode("utf-8", "surrogatepass")).hexdigest()
        identity = self._file_entries.get(filed)
        return None if identity is None else (filed, identity)

    def identity_of(self, key_digest: str) -> Identity | None:
        """The identity of the key with a digest (as in ``find``), if it is in force."""
        entry = None if self._issued is None else self._issued.entries.get(key_digest)
        return self._file_entries.get(key_digest) if entry is None else entry.identity

    def is_in_force(self, key_digest: str) -> bool:
        """Whether a key that was verified before, given by its digest, has not been revoked since.

        Its record is not parsed again, so that many can be checked: a record damaged since then counts as in force.
        """
        return key_digest in self._file_entries or (self._issued is not None and key_digest in self._issued.entries)

    async def refresh(self) -> None:
        """Read the table again if its version has changed."""
        table = await self._store.api_keys(None if self._issued is None else self._issued.version)
        if table is not None:
            self._issued = table
            self.on_change()
