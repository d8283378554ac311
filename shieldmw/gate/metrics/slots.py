"""The values of all workers of one ``shieldmw serve``, in memory that they share: a slot for each.

The main process makes an unnamed file in memory, and the others open it through ``/proc``. Each worker locks a slot;
the kernel frees it when the process ends, however it does, and the next worker goes on from the values there. So no
counter ever falls. Only the owner of a slot writes to it.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shieldmw.core.metrics import COUNT, PID, UPDATED, cell

from .counts import Cells, Counts, doubles

log = logging.getLogger(__name__)

# A whole number of cache lines, so that no two workers write to the same one.
SLOT_BYTES = -(-8 * COUNT // 64) * 64

# Slots for each worker: while granian reloads, the old workers and the new ones run side by side.
SLOTS_PER_WORKER = 2


_UPDATED = cell(UPDATED)


@dataclass(frozen=True, slots=True)
class WorkerValues:
    """The values of a worker at one time. Gauges are valid only if it ``is_running``, counters always."""

    worker: str
    cells: Sequence[float]
    is_running: bool


class Slots:
    """The slots in the file at ``path``, for one process.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)  # never closed: that would drop the lock
        size = os.fstat(self._fd).st_size
        self._memory = memoryview(mmap.mmap(self._fd, size))
        self._count = size // SLOT_BYTES
        self._claimed: int | None = None

    def claim(self) -> Counts | None:
        """Counts in a slot that this process owns from now on, the same one each time; None if none is free."""
        if self._claimed is None:
            self._claimed = next(filter(self._lock, range(self._count)), None)
        return None if self._claimed is None else Counts(str(self._claimed), self._cells(self._claimed))

    def _lock(self, number: int) -> bool:
        """Lock a slot for this process; False if another one has it."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError:
            return False
        return True

    def values(self) -> list[WorkerValues]:
        """The values of all workers, past and present."""
        found = []
        for number in range(self._count):
            cells = self._cells(number).tolist()
            if cells[_UPDATED]:
                found.append(WorkerValues(str(number), cells, is_running(cells)))
        return found

    def _cells(self, number: int) -> Cells:
        start = number * SLOT_BYTES
        return doubles(self._memory[start : start + 8 * COUNT])


def shared_slots(workers: int) -> str | None:
    """In the main process: make the file for this many workers; returns its path for other processes while this one
    runs. None on systems without unnamed files in memory, where each worker reports only itself."""
    if not (hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir()):
        return None
    fd = os.memfd_create("shieldmw metrics")
    os.ftruncate(fd, SLOTS_PER_WORKER * workers * SLOT_BYTES)
    return f"/proc/{os.getpid()}/fd/{fd}"


def opened_slots(path: str | None) -> Slots | None:
    """The slots at a path; None if there is no path, or they cannot be opened, which is logged."""
    if path is None:
        return None
    try:
        return Slots(path)
    except OSError as error:
        log.warning("the workers' metrics cannot be shared, so each worker tells only of itself: %s", error)
        return None


def is_running(cells: Sequence[float]) -> bool:
    """Whether the process that wrote these cells exists."""
    pid = int(cells[PID])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid > 0
