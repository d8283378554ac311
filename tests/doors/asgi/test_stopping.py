"""Signals to stop are handled before the server's own handler, and not at all if there is none."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest
import uvicorn

from doors.asgi.harness import Record, call, http_scope, run
from doors.asgi.shields import ok
from shieldmw import Settings, ShieldMiddleware
from shieldmw.doors.asgi.stopping import Handler, StopSignals

TERM, INT = signal.SIGTERM, signal.SIGINT


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The process' own handlers, back at the end."""
    before = {number: signal.getsignal(number) for number in (TERM, INT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Told:
    """What a server's handler and the gate hear, in order."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.left = asyncio.Event()

    def server(self, number: int, frame: FrameType | None) -> None:
        """The server's own handler."""
        self.words.append(signal.Signals(number).name)

    def leave(self) -> None:
        """What the gate does; it must be on the loop."""
        asyncio.get_running_loop()
        self.words.append("leave")
        self.left.set()


async def heard(told: Told, number: signal.Signals) -> list[str]:
    """What a signal makes them do."""
    signal.raise_signal(number)
    await told.left.wait()
    return told.words


@pytest.mark.parametrize("number", [TERM, INT], ids=lambda number: number.name)
def test_the_server_hears_it_too(number: signal.Signals) -> None:
    """A handler that a server has installed is called as before, and the gate is told on its loop."""

    async def story() -> list[str]:
        told = Told()
        signal.signal(number, told.server)
        signals = StopSignals(told.leave)
        await signals.start()
        words = await heard(told, number)
        await signals.stop()
        assert signal.getsignal(number) == told.server
        return words

    assert run(story()) == [number.name, "leave"]


@pytest.mark.parametrize("number", [TERM, INT], ids=lambda number: number.name)
def test_handlers_of_the_loop_are_called_too(number: signal.Signals) -> None:
    """What a server has added to the event loop still runs; so do granian and hypercorn."""

    async def story() -> list[str]:
        told, loop = Told(), asyncio.get_running_loop()
        loop.add_signal_handler(number, told.server, number, None)
        signals = StopSignals(told.leave)
        await signals.start()
        words = await heard(told, number)
        for _ in range(3):
            await asyncio.sleep(0)
        await signals.stop()
        loop.remove_signal_handler(number)
        return words

    assert sorted(run(story())) == sorted([number.name, "leave"])


@pytest.mark.parametrize("default", [signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler])
def test_what_no_server_handles_is_left_alone(
    default: signal.Handlers | Handler,
) -> None:
    """A signal that would end the process, or is ignored, stays so."""

    async def story() -> None:
        signal.signal(TERM, default)
        await StopSignals(lambda: None).start()
        assert signal.getsignal(TERM) == default

    run(story())


def test_ctrl_c_of_asyncio_run_is_left_alone() -> None:
    """The handler with which asyncio.run cancels its main task is no server's."""
    signal.signal(INT, signal.default_int_handler)

    async def story() -> bool:
        before = signal.getsignal(INT)
        await StopSignals(lambda: None).start()
        assert before != signal.default_int_handler, "asyncio.run has installed one"
        return signal.getsignal(INT) is before

    assert run(story())


def test_only_the_main_thread_hears_signals() -> None:
    """Elsewhere nothing is installed, and nothing fails."""
    told = Told()
    signal.signal(TERM, told.server)
    thread = threading.Thread(target=lambda: run(StopSignals(told.leave).start()))
    thread.start()
    thread.join()
    assert signal.getsignal(TERM) == told.server


def test_a_handler_that_came_later_stays() -> None:
    """A handler chained before ours stays, and the server still gets the signal through both; the gate does not."""

    async def story() -> list[str]:
        told = Told()
        signal.signal(TERM, told.server)
        first, second = StopSignals(told.leave), StopSignals(told.leave)
        await first.start()
        await second.start()
        of_second = signal.getsignal(TERM)
        await first.stop()
        assert signal.getsignal(TERM) is of_second
        words = [*await heard(told, TERM)]
        await second.stop()
        return words

    assert run(story()) == ["SIGTERM", "leave"]


def test_a_loop_that_has_ended_is_told_nothing() -> None:
    """A gate that was never stopped keeps nothing from the server once its loop is closed."""
    told = Told()
    signal.signal(TERM, told.server)
    run(StopSignals(told.leave).start())
    signal.raise_signal(TERM)
    assert told.words == ["SIGTERM"]


@pytest.mark.parametrize("chained", [False, True], ids=["alone", "behind another one"])
def test_a_server_that_stops_to_listen_is_heard_too(chained: bool) -> None:
    """uvicorn sends no signal where a worker has had its number of requests, but closes its listening sockets."""

    async def story() -> list[str]:
        told, server = Told(), uvicorn.Server(uvicorn.Config(ok))
        signal.signal(TERM, server.handle_exit)
        others = StopSignals(lambda: None)
        if chained:
            await others.start()
        signals = StopSignals(told.leave, look_every_s=0)
        await signals.start()
        await _turns()
        assert told.words == [], "nothing listens yet: the lifespan starts before"
        listener = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        server.servers = [listener]
        await _turns()
        assert told.words == []
        listener.close()
        await told.left.wait()
        await signals.stop()
        await others.stop()
        return told.words

    assert run(story()) == ["leave"]


async def _turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_after_the_end_nobody_looks() -> None:
    """No task is left."""

    async def story() -> int:
        signal.signal(TERM, uvicorn.Server(uvicorn.Config(ok)).handle_exit)
        signals = StopSignals(lambda: None)
        await signals.start()
        assert len(asyncio.all_tasks()) == 2
        await signals.stop()
        return len(asyncio.all_tasks())

    assert run(story()) == 1


@pytest.mark.parametrize("dry_run", [False, True])
def test_after_the_signal_nobody_new_is_let_in(dry_run: bool) -> None:
    """New listeners are sent to come back in a moment, with 503; ordinary requests pass, and in a dry run all do."""
    told = Told()
    signal.signal(TERM, told.server)
    settings = Settings(live_paths="/live", dry_run=dry_run, redis_url="memory://")

    async def story() -> list[Record]:
        shield = ShieldMiddleware(ok, settings)
        before = await call(shield, http_scope("/live"))
        signal.raise_signal(TERM)
        await asyncio.sleep(0)
        return [before, await call(shield, http_scope("/live")), await call(shield, http_scope("/"))]

    before, live, ordinary = run(story())
    assert (before.status, ordinary.status) == (200, 200)
    assert live.status == (200 if dry_run else 503)
    if not dry_run:
        assert b"This server is restarting" in live.body
        assert 1 <= int(live.value(b"retry-after")) <= 3
