"""Caps the lease seats of a client on this worker: those granted or renewed here that still run."""

from __future__ import annotations

from shieldmw.core.cache import BoundedCache
from shieldmw.core.client import ListenerClass

from .stream_caps import StreamCaps

# Clients whose leases are counted, at least half of them: those that were last granted one.
CLIENTS_KEPT = 16_384


class LeaseCaps:
    """Remembers the ends of each client's leases, up to its cap. Classes without a cap are not tracked."""

    def __init__(self, caps: StreamCaps) -> None:
        self._caps = caps
        self._ends_s: BoundedCache[str, list[int]] = BoundedCache(CLIENTS_KEPT)

    def __len__(self) -> int:
        return len(self._ends_s)

    def is_reached(self, client: str, name: ListenerClass, now_s: float) -> bool:
        """Whether a client holds as many leases as it may have."""
        cap = self._caps.of(name)
        if not cap:
            return False
        return len(_running(self._ends_s.get(client) or [], now_s)) >= cap

    def granted(self, client: str, name: ListenerClass, until_s: int, now_s: float) -> None:
        """Count a new lease of a client, which ends at ``until_s``; renewals are for ``renewed``."""
        if cap := self._caps.of(name):
            ends_s = _running(self._ends_s.get(client) or [], now_s)
            self._ends_s.put(client, sorted([*ends_s, until_s])[-cap:])

    def renewed(self, client: str, name: ListenerClass, from_s: int, until_s: int, now_s: float) -> None:
        """Extend a lease to ``until_s``, if the client was once granted a lease here; other clients are not tracked.

        The lease itself may have been granted by another worker.
        """
        cap, ends_s = self._caps.of(name), self._ends_s.get(client)
        if cap and ends_s is not None:
            if from_s in ends_s:
                ends_s.remove(from_s)
            self._ends_s.put(client, sorted([*_running(ends_s, now_s), until_s])[-cap:])


def _running(ends_s: list[int], now_s: float) -> list[int]:
    return [end_s for end_s in ends_s if end_s > now_s]
