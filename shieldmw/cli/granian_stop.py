"""Fixes to how granian stops: its main process reacts to any signal, and to the end of a worker; each worker is stopped
only once, after its live WebSockets are closed.

A granian worker waits only for HTTP connections: as soon as there are none, it ends its threads, which cuts WebSockets
before their close code has been sent (1006 instead of 1012). If it is told to stop again before it serves, it blocks
forever, while holding the GIL.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from shieldmw.doors.asgi.streams import GOODBYE_S, OPEN_SOCKETS

from .orphan import has_heard

# Longest time for all goodbyes: their own limit, and as much again for an app that does not unwind.
LONGEST_S = 2 * GOODBYE_S

# Interval between two checks of whether the WebSockets are closed.
LOOK_EVERY_S = 0.01


class SignalSafeEvent:
    """An event that a signal handler may set in the thread that waits for it, which must be the main thread.

    granian's own is a ``threading.Event``. If a signal arrives while ``wait`` holds the event's lock, ``set`` blocks
    forever in the handler, and if it arrives just before the thread falls asleep, the handler is not called until the
    next signal. Therefore this one has no lock, and waits for a pipe, to which the interpreter writes at each signal.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._reading, self._writing = os.pipe()  # never closed: they last as long as the process
        os.set_blocking(self._writing, False)

    def set(self) -> None:
        """Wake the thread that waits."""
        self._is_set = True
        with suppress(BlockingIOError):  # a full pipe wakes it as well
            os.write(self._writing, b"\0")

    def clear(self) -> None:
        """Reset the event, so that the next ``wait`` waits again."""
        self._is_set = False

    def wait(self) -> None:
        """Wait until it is set."""
        before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        try:
            while not self._is_set:
                os.read(self._reading, 4096)
        finally:
            signal.set_wakeup_fd(before)


def see_workers_end() -> None:
    """In the main process, before granian starts: keep it from considering ended workers alive.

    Two of its threads wait for each worker. If one has collected a worker's exit status but not stored it yet, as on a
    busy machine, ``multiprocessing`` tells the other that the worker is alive, and granian "kills" it with a warning.
    """
    from granian.server import mp

    workers: Any = mp.WorkerProcess
    is_alive: Callable[[Any], bool] = workers.is_alive

    def is_truly_alive(worker: Any) -> bool:
        return is_alive(worker) and _exists(worker.inner.pid)

    workers.is_alive = is_truly_alive


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def tell_granian_last() -> None:
    """In a worker, before granian sets its signal handlers: make them run after ours."""
    from granian import _signals

    set_loop_signals: Callable[[object], object] = _signals.set_loop_signals

    def set_ours(loop: asyncio.AbstractEventLoop) -> object:
        return set_loop_signals(HoldingLoop(loop))

    _signals.set_loop_signals = set_ours


class HoldingLoop:
    """Stands in for the event loop where granian adds its signal handlers."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._is_stopping = False

    def add_signal_handler(self, number: int, handler: Callable[..., object], *arguments: object) -> None:
        """Add a handler that is called for the first signal only, and after the WebSockets are closed."""
        self._loop.add_signal_handler(number, self._heard, partial(handler, *arguments))

    def _heard(self, stop: Callable[[], object]) -> None:
        has_heard()
        if not self._is_stopping:
            self._is_stopping = True
            self._stop(stop, self._loop.time() + LONGEST_S)

    def _stop(self, stop: Callable[[], object], until_s: float) -> None:
        """Stop granian once no WebSocket is open; the same signal makes them close (``StopSignals``)."""
        if OPEN_SOCKETS and self._loop.time() < until_s:
            self._loop.call_later(LOOK_EVERY_S, self._stop, stop, until_s)
        else:
            stop()
