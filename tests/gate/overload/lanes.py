"""Shared by the tests of the lane on an event loop: a gatekeeper in virtual time, and a check for leftovers."""

from __future__ import annotations

import asyncio
from typing import Any

from gate.doubles import LoopClock, VirtualLoop, clock_of
from shieldmw.core.concurrency import AdaptiveLimit
from shieldmw.gate.overload.gatekeeper import Gatekeeper

MS = 1000


def gatekeeper(most_inside: int = 0, wait_us: int = 100 * MS) -> Gatekeeper:
    """A gatekeeper on the clock of the running loop."""
    return Gatekeeper(wait_us, AdaptiveLimit(most_inside), clock_of(LoopClock().s))


def work(milliseconds: float) -> None:
    """Keep the loop busy for so long, as a handler does that computes."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.now_s += milliseconds / 1000


def scheduled() -> int:
    """How much the loop has still to do: callbacks that are ready, and timers."""
    loop: Any = asyncio.get_running_loop()
    return len(loop._ready) + sum(not timer.cancelled() for timer in loop._scheduled)


async def until_quiet(longest_s: float = 5.0) -> None:
    """Let the loop do what it has to; fail where it is never done."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + longest_s
    while scheduled():
        await asyncio.sleep(0.001)
        assert loop.time() < until_s, "something is scheduled for ever"


def assert_nothing_left(keeper: Gatekeeper) -> None:
    """No place is taken, nobody waits, and nothing is scheduled."""
    assert (keeper.lane.places.inside, keeper.lane.waiting, scheduled()) == (0, 0, 0)
