"""A mapping that never holds more than so many entries: the least recently written go first."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Table(Generic[K, V]):
    """A bounded mapping. Writing an entry makes it the newest; the oldest makes room.

    Python's ``dict`` seeds the hashes of text per process, so that no outsider can aim at
    collisions.
    """

    __slots__ = ("_entries", "_most")

    def __init__(self, most: int) -> None:
        if most < 1:
            raise ValueError(f"a table holds at least 1 entry, not {most}")
        self._most = most
        self._entries: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """The entry, or None."""
        return self._entries.get(key)

    def put(self, key: K, value: V) -> None:
        """Write an entry and make it the newest."""
        entries = self._entries
        entries.pop(key, None)
        if len(entries) >= self._most:
            del entries[next(iter(entries))]
        entries[key] = value

    def drop(self, key: K) -> None:
        """Forget an entry, where there is one."""
        self._entries.pop(key, None)

    def clear(self) -> None:
        """Forget all entries."""
        self._entries.clear()
