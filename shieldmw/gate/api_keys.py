"""API keys in memory: those of the file and those issued in the store, never more than a second old."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256

from shieldmw.core.api_keys import ApiKeyTable, digest
from shieldmw.core.client import Identity
from shieldmw.store.port import Store

from .refresher import Refresher

# A revoked key stops within a second everywhere: polled twice in it.
POLL_S = 0.5


class ApiKeys:
    """Proves API keys without a call: the whole table is held, and polled by its version.

    While the store is away the last known table stays in force.
    """

    def __init__(self, store: Store, file_entries: Mapping[str, Identity], on_change: Callable[[], None]) -> None:
        self._store = store
        self._file_entries = file_entries
        self._on_change = on_change
        self._issued: ApiKeyTable | None = None
        self._refresher = Refresher("API keys", self.refresh, interval_s=POLL_S, least_s=POLL_S / 2)

    def __bool__(self) -> bool:
        """Whether there is any key that could be presented."""
        return bool(self._file_entries) or (self._issued is not None and bool(self._issued.entries))

    def verify(self, credential: str) -> Identity | None:
        """Whom the credential proves, if it is a key in force."""
        if self._issued is not None and (identity := self._issued.find(credential)):
            return identity
        if not self._file_entries:
            return None
        return self._file_entries.get(sha256(credential.encode("utf-8", "surrogatepass")).hexdigest())

    def digest(self, credential: str) -> str | None:
        """The digest under which a key in force is kept."""
        if self._issued is not None and self._issued.find(credential):
            return digest(credential, self._issued.digest_key)
        found = sha256(credential.encode("utf-8", "surrogatepass")).hexdigest()
        return found if found in self._file_entries else None

    def is_in_force(self, digest: str) -> bool:
        """Whether a key is still in force, by the digest under which it is kept."""
        return digest in self._file_entries or (self._issued is not None and digest in self._issued.entries)

    async def refresh(self) -> None:
        """Read the table again if its version has changed."""
        table = await self._store.api_keys(None if self._issued is None else self._issued.version)
        if table is not None:
            self._issued = table
            self._on_change()

    async def start(self) -> None:
        """Read the table and keep it fresh."""
        await self._refresher.start(first_s=1.0)

    async def stop(self) -> None:
        """Keep it fresh no longer."""
        await self._refresher.stop()
