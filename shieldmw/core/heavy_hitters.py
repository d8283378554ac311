"""The most frequent keys of a stream, in constant memory. Pure.

Misra and Gries, "Finding repeated elements" (1982), in batches: keys are counted exactly, and whenever there are too
many of them, the same number is subtracted from all, and those of which nothing is left are forgotten. The sum of what
was subtracted is the ``error``. It is below ``total / most``, since each subtraction took as much from ``most`` other
keys, so a key with more than that share of the stream is always there. Summaries of parts of a stream can be merged
(Agarwal et al., "Mergeable summaries", 2012): their errors add up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)


class Counted(NamedTuple, Generic[K]):
    """A key that occurred at least ``least`` and at most ``least + error`` times."""

    key: K
    least: int
    error: int


class HeavyHitters(Generic[K]):
    """The most frequent keys of a stream of ``total`` keys: any that makes up more than one in ``most`` is among them.

    Holds up to twice ``most`` keys, so that a subtraction, which looks at all of them, is paid by as many new ones.
    """

    __slots__ = ("_counts", "_most", "error", "total")

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts: Counter[K] = Counter()
        self.total = 0
        self.error = 0

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, keys: Sequence[K]) -> None:
        """Count the keys of a batch."""
        self._counts.update(keys)
        self.total += len(keys)
        self._subtract()

    def merge(self, other: HeavyHitters[K]) -> None:
        """Add the counts and the error of another summary."""
        self._counts.update(other._counts)
        self.total += other.total
        self.error += other.error
        self._subtract()

    def top(self, count: int) -> list[Counted[K]]:
        """The most frequent keys, at most ``count``, the most frequent first."""
        return [Counted(key, least, self.error) for key, least in self._counts.most_common(count)]

    def _subtract(self) -> None:
        if len(self._counts) <= 2 * self._most:
            return
        cut = sorted(self._counts.values(), reverse=True)[self._most]
        self._counts = Counter({key: count - cut for key, count in self._counts.items() if count > cut})
        self.error += cut


def merged(summaries: Iterable[HeavyHitters[K]], most: int) -> HeavyHitters[K]:
    """One summary of several streams; ``most`` as in ``HeavyHitters``."""
    whole: HeavyHitters[K] = HeavyHitters(most)
    for summary in summaries:
        whole.merge(summary)
    return whole
