"""Requests that wait for an answer from the background: woken in order, as many as are told."""

from __future__ import annotations

import asyncio

from gate.doubles import run, yield_often
from shieldmw.gate.seats.waiters import Waiters


def test_waiters_are_woken_in_order() -> None:
    """Those with a ticket before the others, whenever they came; one that goes away is not counted."""

    async def story() -> None:
        waiters, woken = Waiters(), []

        async def wait(name: str) -> None:
            await waiters.wait(first=name.isupper())
            woken.append(name)

        tasks = [asyncio.create_task(wait(name)) for name in ("a", "b", "C", "d", "E", "f")]
        await yield_often()
        assert len(waiters) == 6
        tasks[3].cancel()
        await yield_often()
        waiters.wake(1)
        await yield_often()
        assert woken == ["C"]
        waiters.wake(2)
        await yield_often()
        assert woken == ["C", "E", "a"]
        waiters.wake(0)
        await yield_often()
        assert len(waiters) == 2
        waiters.wake()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert woken == ["C", "E", "a", "b", "f"]

    run(story())
