"""A share of this worker's time: bounds the CPU spent for clients whose credentials have mostly failed.

Knows nothing of credentials: it runs slow functions, each for one client, and is fair among clients.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")

# In any span of D seconds functions run for at most BURST_S + SHARE * D, plus the time of the last of them.
SHARE = 0.25
BURST_S = 0.025

# Longest wait for a turn: better than to be turned down, and shorter than a client's patience.
LONGEST_WAIT_S = 1.0

# Event loops' timers are no finer.
TIMER_S = 0.001

# Places in the queue, and of them for one client: a flood from one address leaves places for others.
MOST_WAITING = 1024
MOST_WAITING_EACH = 64


class TimeShare(Generic[T]):
    """Runs functions within a quarter of this worker's time; waiting clients take turns.

    ``timer_s`` measures the time of a function.
    """

    def __init__(self, timer_s: Callable[[], float] = time.perf_counter) -> None:
        self._timer_s = timer_s
        self._left_s = BURST_S
        self._filled_s = float("-inf")
        self._waiting: OrderedDict[Hashable, deque[tuple[Callable[[], T], asyncio.Future[T]]]] = OrderedDict()
        self._count = 0
        self._turn: asyncio.Handle | None = None

    async def run(self, client: Hashable, function: Callable[[], T]) -> T | None:
        """Run the function, at once where there is time left; None where its turn does not come soon."""
        loop = asyncio.get_running_loop()
        if not self._waiting and self._wait_s(loop.time()) <= 0:
            return self._measured(function)
        if self._count >= MOST_WAITING or len(self._waiting.get(client, ())) >= MOST_WAITING_EACH:
            return None
        done: asyncio.Future[T] = loop.create_future()
        self._waiting.setdefault(client, deque()).append((function, done))
        self._count += 1
        if self._turn is None:
            self._turn = loop.call_soon(self._take_turn, loop)
        try:
            async with asyncio.timeout(LONGEST_WAIT_S):
                return await done
        except TimeoutError:
            return None

    def _take_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run one function, if there is time for it; the loop goes on before the next."""
        wait_s = self._wait_s(loop.time())
        if wait_s <= 0:
            self._run_next()
        pause_s = max(wait_s, TIMER_S) if wait_s > 0 else 0.0
        self._turn = loop.call_later(pause_s, self._take_turn, loop) if self._waiting else None

    def _run_next(self) -> None:
        """Run one function of the client whose last turn is longest ago. Functions that were given up are skipped."""
        while self._waiting:
            client, queue = self._waiting.popitem(last=False)
            function, done = queue.popleft()
            self._count -= 1
            if queue:
                self._waiting[client] = queue
            if not done.done():
                try:
                    done.set_result(self._measured(function))
                except Exception as error:
                    done.set_exception(error)
                return

    def _measured(self, function: Callable[[], T]) -> T:
        begun_s = self._timer_s()
        try:
            return function()
        finally:
            self._left_s -= self._timer_s() - begun_s

    def _wait_s(self, now_s: float) -> float:
        """Seconds until there is time left."""
        self._left_s = min(BURST_S, self._left_s + SHARE * (now_s - self._filled_s))
        self._filled_s = now_s
        return -self._left_s / SHARE
