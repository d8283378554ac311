"""What `shieldmw serve` puts in front of granian's signal handlers. That granian calls it is tested end to end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVarTuple, Unpack, cast

import pytest

from shieldmw.cli.granian_stop import HoldingLoop
from shieldmw.doors.asgi.streams import OPEN_SOCKETS, LiveStream

Ts = TypeVarTuple("Ts")

SOCKET = cast("LiveStream", object())


@pytest.fixture(autouse=True)
def no_open_sockets() -> Iterator[None]:
    """As it is before and after."""
    OPEN_SOCKETS.clear()
    yield
    OPEN_SOCKETS.clear()


class Granian:
    """Counts how often it is told to stop, and how many WebSockets were open then."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.stopped = asyncio.Event()

    def stop(self, *arguments: object) -> None:
        """Its signal handler."""
        assert arguments == (signal.SIGTERM, None)
        self.told.append(len(OPEN_SOCKETS))
        self.stopped.set()


class Signals(asyncio.SelectorEventLoop):
    """A loop whose signals come from the test."""

    def __init__(self) -> None:
        super().__init__()
        self.handlers: list[Callable[[], object]] = []

    def add_signal_handler(self, sig: int, callback: Callable[[Unpack[Ts]], object], *args: *Ts) -> None:
        """Keep the handler."""
        self.handlers.append(partial(callback, *args))


def stopped(*, sockets: int) -> Granian:
    """Granian after two signals, and after the last of some WebSockets is closed."""

    async def story() -> Granian:
        loop = cast("Signals", asyncio.get_running_loop())
        granian, holding = Granian(), HoldingLoop(loop)
        for number in (signal.SIGINT, signal.SIGTERM):
            holding.add_signal_handler(number, granian.stop, signal.SIGTERM, None)
        OPEN_SOCKETS.update([SOCKET][:sockets])
        for handler in loop.handlers:
            handler()
        loop.call_soon(lambda: loop.call_soon(OPEN_SOCKETS.clear))
        await granian.stopped.wait()
        await asyncio.sleep(0)
        return granian

    with asyncio.Runner(loop_factory=Signals) as runner:
        return runner.run(story())


def test_granian_is_told_once() -> None:
    """A second signal before it serves would block it for ever."""
    assert stopped(sockets=0).told == [0]


def test_granian_is_told_after_the_last_websocket_is_closed() -> None:
    """It would cut it, before the close code is sent."""
    assert stopped(sockets=1).told == [0]
