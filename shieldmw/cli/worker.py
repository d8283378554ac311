"""What runs in each worker of ``shieldmw serve`` before it serves."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys

from shieldmw.wiring import ShieldMiddleware

from .app_target import load_app
from .orphan import end_with_parent, has_loaded

# After SIGTERM requests in flight may finish. Listeners on live paths leave at once; other streams that never end
# are cut then.
DRAIN_S = 20

# granian reads requests in threads of its own, and each must have the interpreter's lock before the event loop sees it:
# while the app computes, by default after 5 ms. Measured on two busy cores, medians by turns (10 runs, 40 members
# beside 250 connections of guests, 2 ms of CPU a request): a member's answer takes 17 instead of 31 ms, p99 104 instead
# of 150, and no fewer requests are served. A trivial app does as many as before (15,200/s and 15,000/s, 12 runs).
SWITCH_INTERVAL_S = 0.0005

LOG_FORMAT = "%(asctime)s %(process)d %(levelname)s %(name)s %(message)s"


def load_shielded(target: str, *, log_level: str = "info") -> ShieldMiddleware:
    """The app inside the shield; called in each worker."""
    end_with_parent(DRAIN_S)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    logging.basicConfig(level=log_level.upper(), format=LOG_FORMAT)
    shielded = ShieldMiddleware(load_app(target))
    # What is loaded stays. Else each full collection would look at all of it again, and stop the worker for as long.
    gc.collect()
    gc.freeze()
    has_loaded()
    return shielded


def let_workers_hear_sigterm() -> None:
    """A worker is forked with the main process' handlers: until granian has put its own there SIGTERM would only set
    a flag that nobody reads, and a stop during the start would last as long as the drain.
    """
    main = os.getpid()

    def in_child() -> None:
        if os.getppid() == main:  # and not what the app forks itself
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    os.register_at_fork(after_in_child=in_child)
