"""Lockout: after wrong passwords, an address must wait longer each time. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from .cache import BoundedCache
from .client import AddressClients, Client

# Failures without a wait, and the first and longest wait after more.
FREE_FAILURES = 3
FIRST_S = 2.0
LONGEST_S = 3600.0

# Addresses whose failures are remembered.
ADDRESSES_KEPT = 16_384


@dataclass(slots=True)
class _Record:
    failures: int
    until_s: float


@dataclass(slots=True)
class Lockout:
    """Counts the failures of an address (for IPv6: of its site), and doubles the wait with each beyond the third.

    They are forgotten after a success, after a day without failures, or once ``ADDRESSES_KEPT`` others have failed.
    """

    _records: BoundedCache[Client, _Record] = field(default_factory=lambda: BoundedCache(ADDRESSES_KEPT))

    def wait_s(self, clients: AddressClients, now_s: float) -> float:
        """The seconds that the address must still wait; 0 if it may try."""
        record = self._records.get(_who(clients))
        return 0.0 if record is None else max(0.0, record.until_s - now_s)

    def failed(self, clients: AddressClients, now_s: float) -> None:
        """Count a failure of the address."""
        record = self._records.get(_who(clients))
        failures = 1 if record is None or now_s - record.until_s > 86_400 else record.failures + 1
        over = failures - FREE_FAILURES
        wait_s = 0.0 if over < 0 else min(LONGEST_S, FIRST_S * 2 ** min(over, 20))
        self._records.put(_who(clients), _Record(failures, now_s + wait_s))

    def succeeded(self, clients: AddressClients) -> None:
        """Clear the failures of the address, which has shown the right password."""
        self._records.drop(_who(clients))


def _who(clients: AddressClients) -> Client:
    return clients.site or clients.network
