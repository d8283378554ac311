"""Detects that the server is about to stop, before it drains. Knows signals, but no workers and no requests.

Servers notify apps of a shutdown only once all responses have ended, and streams never end. Without this module,
listeners would be cut off at the end of the drain, and hold their seats until then. Most shutdowns begin with a signal.
A uvicorn worker that has reached its maximum number of requests gets none but closes its listening sockets, so these
are polled. They are found through uvicorn's signal handler, which is a method of its server.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from types import FrameType

Handler = Callable[[int, FrameType | None], object]

SIGNALS = (signal.SIGTERM, signal.SIGINT)

# Interval between two checks of uvicorn's listening sockets.
LOOK_EVERY_S = 1.0


class StopSignals:
    """Calls ``leave`` on the event loop as soon as a signal to stop arrives, and then the server's own handler.

    Only if the server has installed a handler, and in the main thread: a signal without a handler ends the process, and
    must continue to do so.
    """

    def __init__(self, leave: Callable[[], None], *, look_every_s: float = LOOK_EVERY_S) -> None:
        self._leave = leave
        self._look_every_s = look_every_s
        self._looking: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._chained: dict[int, tuple[Handler, Handler]] = {}

    async def start(self) -> None:
        """Chain handlers in front of the server's own."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._loop = asyncio.get_running_loop()
        for number in SIGNALS:
            before = signal.getsignal(number)
            if callable(before) and _is_of_a_server(before):
                handler = partial(self._heard, before)
                _install(number, handler)
                self._chained[number] = (handler, before)
                if self._looking is None and _is_of_uvicorn(server := _owner(before)):
                    self._looking = asyncio.create_task(self._look(server), name="shieldmw stopping")

    async def stop(self) -> None:
        """Restore the server's handlers. A handler that others have wrapped stays, and only passes signals on."""
        self._loop = None
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
            self._looking = None
        for number, (handler, before) in self._chained.items():
            if signal.getsignal(number) is handler:
                _install(number, before)
        self._chained.clear()

    def _heard(self, before: Handler, number: int, frame: FrameType | None) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: there are no listeners left
                self._loop.call_soon_threadsafe(self._leave)
        before(number, frame)

    async def _look(self, server: object) -> None:
        """Call ``leave`` once uvicorn's server has stopped listening."""
        while True:
            await asyncio.sleep(self._look_every_s)
            if _listens_no_more(server):
                self._leave()
                return


def _owner(handler: Handler) -> object:
    """The object that the handler is a method of, ignoring handlers that we chained; None for a function."""
    while isinstance(handler, partial) and isinstance(getattr(handler.func, "__self__", None), StopSignals):
        handler = handler.args[0]
    return getattr(handler, "__self__", None)


def _is_of_uvicorn(server: object) -> bool:
    return any(kind.__module__ == "uvicorn.server" for kind in type(server).__mro__)


def _listens_no_more(server: object) -> bool:
    """Whether all listening sockets are closed. At the start of the lifespan there are none yet."""
    listeners: Sequence[asyncio.Server] = getattr(server, "servers", ())
    return len(listeners) > 0 and not any(listener.is_serving() for listener in listeners)


def _is_of_a_server(handler: Handler) -> bool:
    """Whether a server installed the handler; those of the interpreter and of ``asyncio.run`` raise an error."""
    module = getattr(getattr(handler, "func", handler), "__module__", None)
    return handler is not signal.default_int_handler and module != "asyncio.runners"


def _install(number: int, handler: Handler) -> None:
    signal.signal(number, handler)
    # As asyncio does for its own handlers: system calls of the server's native threads must not be interrupted.
    signal.siginterrupt(number, False)
