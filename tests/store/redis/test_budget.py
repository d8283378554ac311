"""The budget of a call: it ends slow calls, and once makes up for time that this process itself was late."""

from __future__ import annotations

import asyncio
import time

import pytest

from shieldmw.store.redis.budget import Budget
from store.stores import run

SECONDS = 0.05
BUSY_S = 4 * SECONDS


def test_what_is_in_time_is_left_alone() -> None:
    """Nothing happens to what ends within the budget, nor to what follows it."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        wrong: list[object] = []
        loop.set_exception_handler(lambda _loop, context: wrong.append(context))
        async with Budget(SECONDS):
            await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with Budget(SECONDS):
                await loop.create_future()
        assert wrong == []

    run(work())


def test_what_takes_longer_is_ended() -> None:
    """When the budget is spent, and not before."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        with pytest.raises(TimeoutError):
            async with Budget(SECONDS):
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

        async with Budget(SECONDS):
            loop.call_soon(keep_busy)
            assert await heard == "reply"

    run(work())


def test_a_late_loop_is_forgiven_once() -> None:
    """By no more than the budget again: whoever is silent then is too slow."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(time.sleep, BUSY_S)
        with pytest.raises(TimeoutError):
            async with Budget(SECONDS):
                await loop.create_future()

    run(work())


def test_whoever_goes_away_is_no_time_out() -> None:
    """A cancellation from outside passes as what it is."""

    async def work() -> None:
        async def wait() -> None:
            async with Budget(60.0):
                await asyncio.get_running_loop().create_future()

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(work())
