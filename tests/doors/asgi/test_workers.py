"""A worker ends with its event loop, however that ends; without asyncio the error is one line."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from doors.asgi.harness import Server, call, http_scope
from doors.asgi.shields import ok
from doors.asgi.test_lifecycle import with_lifespan
from doors.asgi.test_same_lifespan import COMPLETE, STARTUP, lifespan_scope
from shieldmw import Settings, SettingsError, ShieldMiddleware
from shieldmw.doors.asgi.workers import Workers
from shieldmw.gate.worker import Worker


class House:
    """Opens gates and notes what becomes of them."""

    def __init__(self, fails: Callable[[], None] = lambda: None, starts: Callable[[], Awaitable[None]] | None = None):
        self.notes: list[str] = []
        self._fails = fails
        self._starts = starts
        self.workers = Workers(self._open, lambda worker: self.notes.append("told"))

    def _open(self) -> Worker:
        self._fails()
        self.notes.append("opened")
        return cast(Worker, self)

    async def start(self) -> None:
        """As a gate's."""
        if self._starts is not None:
            await self._starts()

    async def stop(self) -> None:
        """As a gate's: it needs its loop, as connections do."""
        await asyncio.sleep(0)
        self.notes.append("stopped")


def test_it_ends_with_a_loop_that_is_ended_without_a_lifespan() -> None:
    """As test clients do it: each loop has a gate, which has stopped when the loop has."""
    house = House()
    for _ in range(3):
        asyncio.run(_used(house))
    assert house.notes == ["opened", "told", "stopped"] * 3


async def _used(house: House) -> None:
    await house.workers.here()


def test_one_that_was_stopped_is_not_stopped_again() -> None:
    """The end of the lifespan stops it; what is asked for later is another one, which ends with the loop."""
    house = House()

    async def story() -> None:
        await house.workers.here()
        await house.workers.stop()
        await house.workers.stop()
        house.notes.append("again")
        await house.workers.here()

    asyncio.run(story())
    assert house.notes == ["opened", "told", "stopped", "again", "opened", "told", "stopped"]


def test_a_start_that_is_broken_off_is_stopped_too() -> None:
    """Where the loop ends while a gate starts, what that has opened by then is closed."""
    began = asyncio.Event()

    async def starts() -> None:
        began.set()
        await asyncio.Event().wait()

    house = House(starts=starts)

    async def story() -> None:
        asking = asyncio.create_task(_used(house))
        await began.wait()
        assert not asking.done()

    asyncio.run(story())
    assert house.notes == ["opened", "told", "stopped"]


def test_one_that_cannot_be_opened_is_tried_again() -> None:
    """Each request hears why, and the next one tries anew."""
    wrong = [SettingsError(["no server"])]

    def fails() -> None:
        if wrong:
            raise wrong.pop()

    house = House(fails)

    async def story() -> None:
        with pytest.raises(SettingsError, match="no server"):
            await house.workers.here()
        await house.workers.here()

    asyncio.run(story())
    assert house.notes == ["opened", "told", "stopped"]


def test_a_loop_that_was_closed_with_its_tasks_is_forgotten() -> None:
    """Nothing can be awaited there any more; it is not kept for ever, and the next loop has its own gate."""
    house = House()
    loops = [asyncio.new_event_loop() for _ in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for loop in loops:
            loop.set_exception_handler(lambda loop, context: None)  # a pending task is destroyed: so it is
            loop.run_until_complete(_used(house))
            loop.close()
        last = asyncio.new_event_loop()
        last.run_until_complete(_used(house))
        assert list(house.workers._running) == [last]
        last.run_until_complete(house.workers.stop())
        last.close()
        gc.collect()
    assert house.notes.count("opened") == 4


def test_after_the_end_of_a_gate_requests_get_another_one() -> None:
    """Where somebody cancels all tasks of a loop that goes on, the gate that has stopped decides no longer."""

    async def story() -> list[int]:
        shield = ShieldMiddleware(ok, Settings(ip_limit="2/day"))
        statuses = [(await call(shield, http_scope())).status]
        ours = asyncio.all_tasks() - {asyncio.current_task()}
        for task in ours:
            task.cancel()
        await asyncio.gather(*ours, return_exceptions=True)
        statuses += [(await call(shield, http_scope())).status for _ in range(2)]
        running = [task.get_name() for task in asyncio.all_tasks()]
        assert running.count("shieldmw worker") == 1
        return statuses

    assert asyncio.run(story()) == [200, 200, 429]


def test_without_asyncio_a_request_says_so() -> None:
    """One line that names what is missing, not that there is "no running event loop"."""
    coroutine = ShieldMiddleware(ok, Settings())(http_scope(), _no_message, _no_send)
    with pytest.raises(RuntimeError, match="the shield needs asyncio"):
        coroutine.send(None)


def test_without_asyncio_the_start_fails() -> None:
    """The server is told so, and does not take the app for one without a lifespan."""
    sent: list[Any] = []

    async def receive() -> Any:
        return STARTUP.message

    async def send(message: Any) -> None:
        sent.append(message)

    coroutine = ShieldMiddleware(with_lifespan(*COMPLETE), Settings())(lifespan_scope(), receive, send)
    with pytest.raises(RuntimeError, match="the shield needs asyncio"):
        coroutine.send(None)
    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
    assert "the shield needs asyncio" in sent[0]["message"]


async def _no_message() -> Any:
    raise AssertionError


async def _no_send(message: Any) -> None:
    raise AssertionError


def test_a_store_that_cannot_be_started_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedded server that does not start is a startup that failed, with the reason."""
    from shieldmw.store.redis import embedded

    def start(server: embedded.EmbeddedServer) -> None:
        raise SettingsError(["SHIELD_REDIS_URL: no room"])

    monkeypatch.setattr(embedded.EmbeddedServer, "start", start)

    async def story() -> Server:
        server = Server(lifespan_scope(), [STARTUP])
        with pytest.raises(SettingsError):
            await ShieldMiddleware(with_lifespan(*COMPLETE), Settings(redis_url="embedded://"))(
                server.scope, server.receive, server.send
            )
        return server

    record = asyncio.run(story()).record
    assert record.sent == [{"type": "lifespan.startup.failed", "message": "SHIELD_REDIS_URL: no room"}]
