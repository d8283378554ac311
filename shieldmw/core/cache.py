"""A cache with a bounded number of entries; the least recently used are dropped first."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import islice
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """A bounded mapping of two generations, of half of ``most`` entries each.

    An entry that is written or found moves to the young generation. When that is full it becomes the old one, and the
    previous old one, whose entries have not been used since, is dropped. So the most recently used entries, half of
    ``most``, are always kept, and dropping is cheap: repeatedly deleting the first entry of a full ``dict`` would scan
    all the gaps that earlier deletions left.

    On hot paths, where a method call would cost more than the lookup, callers look in ``young`` first.

    Python seeds the hashes of strings per process, so clients cannot cause collisions.
    """

    __slots__ = ("_half", "_old", "young")

    def __init__(self, most: int) -> None:
        if most < 2:
            raise ValueError(f"a cache holds at least 2 entries, not {most}")
        self._half = most // 2
        self.young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self.young) + len(self._old)

    def get(self, key: K) -> V | None:
        """The entry, or None."""
        value = self.young.get(key)
        if value is None and self._old:
            value = self._old.get(key)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        """Write an entry."""
        young = self.young
        if len(young) >= self._half and key not in young:
            self._old, self.young = young, {}
            young = self.young
        young[key] = value
        if self._old:
            self._old.pop(key, None)

    def drop(self, key: K) -> None:
        """Drop an entry, if there is one."""
        self.young.pop(key, None)
        self._old.pop(key, None)

    def pop_some(self, most: int) -> list[V]:
        """Remove and return up to ``most`` entries; empty only if the cache is."""
        entries = self.young or self._old
        keys = list(islice(entries, most))
        return [entries.pop(key) for key in keys]

    def clear(self) -> None:
        """Drop all entries."""
        self.young.clear()
        self._old.clear()
