"""Ends a worker whose main process has died without telling it, by kill -9 or for lack of memory.

Nobody would restart such a worker, and it would hold the port. The parent is asked after again and again, which works
on every system; signals at a parent's death exist on Linux only, and are sent where a mere thread of it ends, too.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

LOOK_EVERY_S = 0.25


def end_with_parent(drain_s: float) -> None:
    """In a child process of multiprocessing: SIGTERM to itself once its parent has ended, SIGKILL ``drain_s`` later."""
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        threading.Thread(target=_watch, args=(parent.pid, drain_s), name="shieldmw parent", daemon=True).start()


def _watch(parent: int, drain_s: float) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(drain_s)
    os.kill(os.getpid(), signal.SIGKILL)
