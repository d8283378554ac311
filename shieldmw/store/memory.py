"""The store of one process: no server, nothing shared; also what decides while Redis is away."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from shieldmw.core import bucket
from shieldmw.core.api_keys import ApiKey, ApiKeyTable, derive_digest_key
from shieldmw.core.bucket import EPOCH_S, Charge, Outcome
from shieldmw.core.client import Client
from shieldmw.core.table import Table

BUCKETS_KEPT = 262_144


def steady_now_us() -> Callable[[], int]:
    """A clock in microseconds since 2025 that never steps, set by the wall clock once."""
    offset_us = time.time_ns() // 1000 - EPOCH_S * 1_000_000 - time.monotonic_ns() // 1000
    return lambda: time.monotonic_ns() // 1000 + offset_us


class MemoryStore:
    """Buckets and API keys in this process, at most ``most_buckets``: the oldest are forgotten.

    ``now_us`` is its clock, in microseconds since 2025-01-01.
    """

    def __init__(
        self, secret: bytes, *, most_buckets: int = BUCKETS_KEPT, now_us: Callable[[], int] | None = None
    ) -> None:
        self._now_us = now_us or steady_now_us()
        self._tats: Table[tuple[Client, str], int] = Table(most_buckets)
        self._digest_key = derive_digest_key(secret)
        self._api_keys: Mapping[str, ApiKey] = {}
        self._version = 1

    def __len__(self) -> int:
        return len(self._tats)

    async def take(self, charges: Sequence[Charge]) -> Outcome:
        """Take the charges, all or nothing."""
        return self.take_now(charges)

    def take_now(self, charges: Sequence[Charge]) -> Outcome:
        """Take the charges without ever leaving the current call."""
        keys = [(charge.client, charge.limit.name) for charge in charges]
        outcome = bucket.take([self._tats.get(key) for key in keys], charges, self._now_us())
        if outcome.allowed:
            for key, charge, tat_us in zip(keys, charges, outcome.tats_us, strict=True):
                if charge.cost:
                    self._tats.put(key, tat_us)
        return outcome

    def would_pass(self, charges: Sequence[Charge]) -> bool:
        """Whether the charges fit, without taking them."""
        stored = [self._tats.get((charge.client, charge.limit.name)) for charge in charges]
        return bucket.take(stored, charges, self._now_us()).allowed

    def remember(self, charges: Sequence[Charge], outcome: Outcome) -> None:
        """Note how buckets of another store stand, on this store's own clock. What is known to be later stays."""
        shift_us = self._now_us() - outcome.now_us
        for charge, tat_us in zip(charges, outcome.tats_us, strict=True):
            key = (charge.client, charge.limit.name)
            if tat_us > outcome.now_us:
                self._tats.put(key, max(tat_us + shift_us, self._tats.get(key) or 0))

    async def api_keys(self, known_version: int | None) -> ApiKeyTable | None:
        """The issued API keys, or None where the version is known."""
        if known_version == self._version:
            return None
        return ApiKeyTable(self._version, self._digest_key, self._api_keys)

    async def add_api_key(self, api_key: ApiKey) -> None:
        """Issue a key."""
        self._api_keys = {**self._api_keys, api_key.digest: api_key}
        self._version += 1

    async def revoke_api_keys(self, digests: Sequence[str]) -> int:
        """Revoke keys by their digests; how many there were."""
        kept = {name: entry for name, entry in self._api_keys.items() if name not in digests}
        revoked = len(self._api_keys) - len(kept)
        self._api_keys = kept
        self._version += 1
        return revoked

    async def aclose(self) -> None:
        """Nothing to give back."""
