"""Prepares each worker of ``shieldmw serve`` before it serves."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence

from shieldmw.doors.proxy.upstreams import UpstreamAddress
from shieldmw.settings import Settings
from shieldmw.wiring import ShieldMiddleware, upstream_app

from .app_target import load_app
from .granian_stop import tell_granian_last
from .orphan import end_with_parent

# Drain timeout: the time for requests in flight to finish after SIGTERM. Listeners on live paths are evicted at its
# start; other endless streams are cut at its end.
DRAIN_S = 20

# sys.setswitchinterval (default 5 ms). granian reads requests in its own threads, which need the GIL to pass them to
# the event loop, and wait this long for it while the app computes. Measured on two busy cores, medians of alternating
# runs (10 runs, 40 members beside 250 connections of guests, 2 ms of CPU a request): a member's answer takes 17 instead
# of 31 ms, p99 104 instead of 150, and no fewer requests are served. A trivial app serves as many as before (15,200/s
# and 15,000/s, 12 runs).
SWITCH_INTERVAL_S = 0.0005

LOG_FORMAT = "%(asctime)s %(process)d %(levelname)s %(name)s %(message)s"


def load_shielded(
    target: str,
    *,
    upstreams: Sequence[UpstreamAddress] = (),
    log_level: str = "info",
    metrics_path: str | None = None,
) -> ShieldMiddleware:
    """Prepare a worker process, and return the app, or the proxy to ``upstreams``, inside the shield.

    ``metrics_path``: where the workers share their metrics.
    """
    end_with_parent(DRAIN_S)
    tell_granian_last()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    logging.basicConfig(level=log_level.upper(), format=LOG_FORMAT)
    settings = Settings.from_environ()
    app = upstream_app(settings, upstreams) if upstreams else load_app(target)
    shielded = ShieldMiddleware(app, settings, metrics_path=metrics_path)
    # Exclude all that is loaded from garbage collection: it is never freed, and each full collection would otherwise
    # stop the worker while traversing it.
    gc.collect()
    gc.freeze()
    return shielded


def let_workers_hear_sigterm() -> None:
    """Reset SIGTERM to its default in each forked worker.

    A worker inherits the main process's handlers. Until granian has installed its own, SIGTERM would only set a flag
    that is never read, and stopping during the start would take the whole drain.
    """
    main = os.getpid()

    def in_child() -> None:
        if os.getppid() == main:  # not in processes that the app itself forks
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    os.register_at_fork(after_in_child=in_child)
