"""Ends a worker that was not told to: its main process is gone (kill -9, out of memory), or its SIGTERM was lost.

Nobody would restart an orphan, and it would hold the port. A SIGTERM that comes while a worker starts may fall between
two handlers; without this the worker would serve until it is killed at the end of the drain. The parent is asked after
again and again, which works on every system; signals at a parent's death exist on Linux only, and are sent where a
mere thread of it ends, too.
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

LOOK_EVERY_S = 0.25

# How soon a worker that still starts is told once more.
AGAIN_S = 1.0

# So long after it has loaded its app a worker has its server's handlers for sure. From then on it is told once: granian
# takes a second SIGTERM for impatience, and cuts requests in flight.
STARTED_AFTER_S = 1.0

# Shared with the workers, which are forked: whether the main process is stopping.
_stopping = RawValue("b", 0)


# In a worker: when it had loaded its app.
_loaded_s = float("inf")


def has_loaded() -> None:
    """In a worker: its app is loaded, and the server is about to listen."""
    global _loaded_s  # noqa: PLW0603  (one for each process)
    _loaded_s = time.monotonic()


def tell_workers(is_stopping: Callable[[], bool]) -> None:
    """In the main process: let the workers know as soon as it is stopping."""

    def watch() -> None:
        while not is_stopping():
            time.sleep(LOOK_EVERY_S)
        _stopping.value = 1

    threading.Thread(target=watch, name="shieldmw stop", daemon=True).start()


def end_with_parent(drain_s: float) -> None:
    """In a worker: SIGTERM to itself once its parent is stopping or gone; SIGKILL ``drain_s`` after it has gone."""
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        end_with(parent.pid, drain_s)


def end_with(parent: int, drain_s: float) -> None:
    """The same, in a process that its parent has not forked: it was told the parent's id."""
    threading.Thread(target=_watch, args=(parent, drain_s), name="shieldmw parent", daemon=True).start()


def _watch(parent: int, drain_s: float) -> None:
    while os.getppid() == parent and not _stopping.value:
        time.sleep(LOOK_EVERY_S)
    while os.getppid() == parent and time.monotonic() < _loaded_s + STARTED_AFTER_S:
        time.sleep(AGAIN_S)  # the parent has sent the first one
        os.kill(os.getpid(), signal.SIGTERM)
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY_S)
    signal.alarm(math.ceil(drain_s) + 1)  # from the kernel: an interpreter that is ending runs no threads any more
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(drain_s)
    os.kill(os.getpid(), signal.SIGKILL)
