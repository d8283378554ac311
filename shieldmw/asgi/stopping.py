"""Hears that the server is asked to stop before it has drained. Knows signals, nothing of gates and requests.

Servers tell apps of their end only once all responses are over, and streams never are: without this their
listeners would be cut at the end of the drain, and their seats be held until then.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

Handler = Callable[[int, FrameType | None], object]

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Calls ``leave`` on the event loop as soon as the process is asked to stop, and then lets the server know.

    Only where the server listens itself, in the main thread: a signal that nobody handles ends the process, and
    that must stay so.
    """

    def __init__(self, leave: Callable[[], None]) -> None:
        self._leave = leave
        self._loop: asyncio.AbstractEventLoop | None = None
        self._chained: dict[int, tuple[Handler, Handler]] = {}

    async def start(self) -> None:
        """Listen in front of the server's own handlers."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._loop = asyncio.get_running_loop()
        for number in SIGNALS:
            before = signal.getsignal(number)
            if callable(before) and _is_of_a_server(before):
                handler = self._handler(before)
                _install(number, handler)
                self._chained[number] = (handler, before)

    async def stop(self) -> None:
        """Put the server's handlers back; where somebody else has chained one before ours, ours only hands on."""
        self._loop = None
        for number, (handler, before) in self._chained.items():
            if signal.getsignal(number) is handler:
                _install(number, before)
        self._chained.clear()

    def _handler(self, before: Handler) -> Handler:
        def heard(number: int, frame: FrameType | None) -> None:
            if self._loop is not None:
                with suppress(RuntimeError):  # the loop is closed: there is nobody left to tell
                    self._loop.call_soon_threadsafe(self._leave)
            before(number, frame)

        return heard


def _is_of_a_server(handler: Handler) -> bool:
    """Whether a server has installed it, and neither the interpreter nor ``asyncio.run``: theirs raise an error."""
    module = getattr(getattr(handler, "func", handler), "__module__", None)
    return handler is not signal.default_int_handler and module != "asyncio.runners"


def _install(number: int, handler: Handler) -> None:
    signal.signal(number, handler)
    # As asyncio does for its own: system calls of the server's native threads are not to be interrupted.
    signal.siginterrupt(number, False)
