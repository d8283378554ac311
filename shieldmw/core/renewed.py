"""The tickets that a worker has recently renewed, in a fixed number of bytes. Pure; ``now_s`` is the store's time.

Each is remembered until the lease that it was renewed to ends, however long leases are: in a hash table with entries of
fixed size, where each key has a few possible places.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

# An entry: key, until_s, from_s, times. And the latest time that fits into one.
_ENTRY = Struct("<QIIB")
_LATEST_S = 2**32 - 1

# Possible places of a key. While half of all entries are in use, 1 in 100 is lost; while a quarter are, none.
_PLACES = 8


class Renewal(NamedTuple):
    """A ticket's renewal: the end of the new lease, the end of the one before, and how often that one was renewed."""

    until_s: int
    from_s: int
    times: int


class RenewedTickets:
    """Remembers the last renewal of tickets, at most ``most`` of them, a power of two.

    If all possible places of a key are taken, the entry there whose lease ends first is overwritten.
    """

    __slots__ = ("_buckets", "_entries", "_most")

    def __init__(self, most: int) -> None:
        self._most = most
        self._buckets = most // _PLACES
        self._entries = bytearray()

    def put(self, key: int, renewal: Renewal, now_s: float) -> None:
        """Remember the renewal of the ticket with this key, 64 evenly distributed bits."""
        if not self._entries:
            self._entries = bytearray(self._most * _ENTRY.size)
        at, known = self._find(key, now_s)
        if known is None:
            at = self._first_to_end(key)
        until_s, from_s, times = renewal
        _ENTRY.pack_into(self._entries, at, key, min(until_s, _LATEST_S), min(from_s, _LATEST_S), times)

    def get(self, key: int, now_s: float) -> Renewal | None:
        """The last renewal of a ticket, if its lease still runs."""
        return self._find(key, now_s)[1] if self._entries else None

    def _find(self, key: int, now_s: float) -> tuple[int, Renewal | None]:
        at = self._begin(key)
        for found, until_s, from_s, times in _ENTRY.iter_unpack(self._entries[at : at + _PLACES * _ENTRY.size]):
            if found == key and until_s > now_s:
                return at, Renewal(until_s, from_s, times)
            at += _ENTRY.size
        return at, None

    def _first_to_end(self, key: int) -> int:
        begin = self._begin(key)
        places = range(begin, begin + _PLACES * _ENTRY.size, _ENTRY.size)
        return min(places, key=lambda at: _ENTRY.unpack_from(self._entries, at)[1])

    def _begin(self, key: int) -> int:
        return key % self._buckets * _PLACES * _ENTRY.size
