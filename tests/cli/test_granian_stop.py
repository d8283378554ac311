"""How `shieldmw serve` changes the way granian stops. That granian uses it is tested end to end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any, TypeVarTuple, Unpack, cast

import pytest
from granian.server import mp

from shieldmw.cli.granian_stop import HoldingLoop, SignalSafeEvent, see_workers_end
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


Workers: Any = mp.WorkerProcess


@pytest.fixture
def granians_own() -> Iterator[None]:
    """Granian is as it was, afterwards."""
    before = Workers.is_alive
    yield
    Workers.is_alive = before


def forked(target: Callable[[], object]) -> Any:
    """A worker of granian that runs, without a server."""
    found = Workers(None, 0, target, ())
    found.inner.start()
    return found


@pytest.mark.usefixtures("granians_own")
def test_a_worker_whose_exit_status_another_thread_has_collected_is_not_alive() -> None:
    """Here the test has, and stores it nowhere."""
    see_workers_end()
    ended = forked(int)
    os.waitpid(ended.inner.pid, 0)
    assert not ended.is_alive()


@pytest.mark.usefixtures("granians_own")
def test_a_worker_is_alive_until_it_ends() -> None:
    """Whoever asks, also before its exit status is collected."""
    see_workers_end()
    worker = forked(signal.pause)
    assert worker.is_alive()
    worker.terminate()
    worker.join()
    assert not worker.is_alive()


@pytest.fixture
def own_signals() -> Iterator[None]:
    """Handlers for the test, and an error if it waits for ever."""

    def give_up(*_: object) -> None:
        raise TimeoutError

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)}
    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 5)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("line", [1, 2, 3, 4])
@pytest.mark.usefixtures("own_signals")
def test_a_signal_at_any_moment_of_the_wait_ends_it(line: int) -> None:
    """Its handler sets the event in the thread that waits, which would block for ever if that took a lock."""
    event, lines = SignalSafeEvent(), 0
    signal.signal(signal.SIGTERM, lambda *_: event.set())

    def trace(frame: FrameType, kind: str, _: object) -> Callable[..., Any]:
        nonlocal lines
        is_line = kind == "line" and frame.f_code is type(event).wait.__code__
        lines += is_line
        if is_line and lines == line:
            signal.raise_signal(signal.SIGTERM)
        return trace

    earlier = sys.gettrace()
    sys.settrace(trace)
    try:
        event.wait()
    finally:
        sys.settrace(earlier)
    assert lines >= line


@pytest.mark.usefixtures("own_signals")
def test_a_signal_that_does_not_interrupt_the_wait_ends_it() -> None:
    """As one that comes just before the thread falls asleep: here another thread receives it."""
    event, main = SignalSafeEvent(), threading.main_thread().ident
    signal.signal(signal.SIGTERM, lambda *_: event.set())

    def send() -> None:
        while main is None or sys._current_frames()[main].f_code is not type(event).wait.__code__:
            pass
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    event.wait()
    sender.join()


def test_an_event_that_was_cleared_waits_again() -> None:
    """What woke it before is used up."""
    event = SignalSafeEvent()
    event.set()
    event.wait()
    event.clear()
    event.set()
    event.wait()
