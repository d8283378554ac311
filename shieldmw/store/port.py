"""What the gate asks of a store. Two answer: ``MemoryStore`` (one process) and ``RedisStore``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from shieldmw.core.api_keys import ApiKey, ApiKeyTable
from shieldmw.core.bucket import Charge, Outcome


class Store(Protocol):
    """Shared state. Every method is one atomic round trip.

    Raises:
        StoreUnavailable: it is away or too slow. A charge may have been taken all the same.
        StoreError: its answer makes no sense.
    """

    async def take(self, charges: Sequence[Charge]) -> Outcome:
        """Take the charges, all or nothing, by the store's own clock."""

    async def api_keys(self, known_version: int | None) -> ApiKeyTable | None:
        """The issued API keys, or None where they are still of the version that is known."""

    async def add_api_key(self, api_key: ApiKey) -> None:
        """Issue a key: from now on its digest proves its subject."""

    async def revoke_api_keys(self, digests: Sequence[str]) -> int:
        """Revoke keys by their digests; how many there were."""

    async def aclose(self) -> None:
        """Give back connections; the store can be used again afterwards."""
