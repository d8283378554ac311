"""A counter that one process keeps in a mapped file and another reads, at no cost to either."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Final

_BYTES: Final = 8


class Tally:
    """The counter in the file ``path``, which ``create`` has made."""

    def __init__(self, path: str | Path) -> None:
        with Path(path).open("r+b") as file:
            self._count = memoryview(mmap.mmap(file.fileno(), _BYTES)).cast("q")

    @staticmethod
    def create(path: Path) -> None:
        """Make a file that counts from 0."""
        path.write_bytes(bytes(_BYTES))

    def count(self) -> None:
        """Count one more; only one process may count."""
        self._count[0] += 1

    def read(self) -> int:
        """The current count."""
        return self._count[0]
