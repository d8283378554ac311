"""Ends a worker that received no SIGTERM: its main process is gone (kill -9, out of memory), or the signal was lost.

An orphan would hold the port, and would never be restarted. A SIGTERM that arrives while a worker starts may be lost:
right after the fork, where Python drops it, or between two runs of uvloop, which sees it with the next signal only. The
worker would then serve until it is killed at the end of the drain, so the signal is repeated until the worker's server
has heard one. The parent is polled, which works on every system: signals at a parent's death exist only on Linux, and
are sent as soon as the thread that created the child ends.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.sharedctypes import RawValue

# Interval between two checks of the parent, and of whether the main process is stopping.
LOOK_EVERY_S = 0.25

# Interval between signals to a worker whose server has heard none yet.
AGAIN_S = 1.0

# Set to 1 when the main process is stopping; in memory shared with the workers, which are forked.
_stopping = RawValue("b", 0)

# In a worker: set once its server has been told to stop.
_heard = threading.Event()


def has_heard() -> None:
    """In a worker: note that its server has been told to stop."""
    _heard.set()


def tell_workers(is_stopping: Callable[[], bool]) -> None:
    """In the main process: notify the workers as soon as it is stopping."""

    def watch() -> None:
        while not is_stopping():
            time.sleep(LOOK_EVERY_S)
        _stopping.value = 1

    threading.Thread(target=watch, name="shieldmw stop", daemon=True).start()


def end_with_parent(drain_s: float) -> None:
    """In a worker: send SIGTERM to itself once its parent is stopping or gone, SIGKILL ``drain_s`` after it is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        end_with(parent.pid, drain_s)


def end_with(parent: int, drain_s: float) -> None:
    """The same for a process that was spawned, given the parent's process id."""
    threading.Thread(target=_watch, args=(parent, drain_s), name="shieldmw parent", daemon=True).start()


def _watch(parent: int, drain_s: float) -> None:
    while os.getppid() == parent and not _stopping.value:
        time.sleep(LOOK_EVERY_S)
    while os.getppid() == parent and not _heard.wait(AGAIN_S):  # the parent has sent the first one
        os.kill(os.getpid(), signal.SIGTERM)
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY_S)
    signal.alarm(math.ceil(drain_s) + 1)  # from the kernel: an interpreter that is finalizing no longer runs threads
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(drain_s)
    os.kill(os.getpid(), signal.SIGKILL)
