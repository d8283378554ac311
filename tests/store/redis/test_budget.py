"""The budget of a call: it ends slow calls, and is extended once if this process itself was late."""

from __future__ import annotations

import asyncio
import time

import pytest

from shieldmw.store.redis.budget import Deadline, budget
from store.stores import run

SECONDS = 0.05
BUSY_S = 4 * SECONDS


def test_what_is_in_time_is_left_alone() -> None:
    """Nothing happens to what ends within the budget, nor to what follows it."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        wrong: list[object] = []
        loop.set_exception_handler(lambda _loop, context: wrong.append(context))
        async with budget(SECONDS):
            await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with budget(SECONDS):
                await loop.create_future()
        assert wrong == []

    run(work())


def test_what_takes_longer_is_ended() -> None:
    """When the budget is spent, and not before."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        with pytest.raises(TimeoutError):
            async with budget(SECONDS):
                await loop.create_future()
        assert loop.time() - began_s >= SECONDS

    run(work())


def test_a_late_loop_is_forgiven() -> None:
    """What could only be heard after the budget, since the loop was kept from running, is still heard."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        heard: asyncio.Future[str] = loop.create_future()

        def keep_busy() -> None:
            time.sleep(BUSY_S)
            loop.call_later(SECONDS / 5, heard.set_result, "reply")

        async with budget(SECONDS):
            loop.call_soon(keep_busy)
            assert await heard == "reply"

    run(work())


def test_a_late_loop_is_forgiven_once() -> None:
    """By no more than the budget again: a server that is silent then is too slow."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(time.sleep, BUSY_S)
        with pytest.raises(TimeoutError):
            async with budget(SECONDS):
                await loop.create_future()

    run(work())


def test_whoever_goes_away_is_no_time_out() -> None:
    """A cancellation from outside passes as what it is."""

    async def work() -> None:
        async def wait() -> None:
            async with budget(60.0):
                await asyncio.get_running_loop().create_future()

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(work())


# --- the deadline itself


def test_a_deadline_that_is_stopped_does_not_expire() -> None:
    """Nor does one that is started again, before its own time."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        expired: list[float] = []
        deadline = Deadline(SECONDS, lambda: expired.append(loop.time()))
        deadline.start()
        deadline.stop()
        assert not deadline.running
        await asyncio.sleep(2 * SECONDS)
        deadline.start()
        await asyncio.sleep(SECONDS / 2)
        deadline.start()
        again_s = loop.time()
        assert deadline.running
        await asyncio.sleep(2 * SECONDS)
        assert len(expired) == 1
        assert expired[0] >= again_s + SECONDS
        assert not deadline.running

    run(work())


def test_a_loop_that_is_late_again_is_not_forgiven_again() -> None:
    """Until the deadline is started again."""

    async def work() -> None:
        expired: list[bool] = []
        deadline = Deadline(SECONDS, lambda: expired.append(True))

        async def times_busy() -> int:
            """How often the loop must be late until the deadline expires."""
            expired.clear()
            deadline.start()
            for number in range(1, 10):
                asyncio.get_running_loop().call_soon(time.sleep, BUSY_S)
                for _ in range(3):
                    await asyncio.sleep(0)
                if expired:
                    return number
            return 0

        assert [await times_busy(), await times_busy()] == [2, 2]

    run(work())


def test_a_closed_deadline_leaves_no_timer() -> None:
    """On the loop."""

    async def work() -> None:
        deadline = Deadline(60.0, lambda: None)
        deadline.start()
        deadline.close()
        assert deadline._timer is None
        assert not deadline.running

    run(work())
