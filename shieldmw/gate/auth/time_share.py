"""A share of this worker's time: bounds the CPU spent for clients whose credentials have mostly failed.

Knows nothing of credentials: it runs slow functions, each for one client, and is fair among clients.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from random import randrange
from typing import Generic, TypeVar

T = TypeVar("T")

# What is to be run, and where its result goes.
_Entry = tuple[Callable[[], T], asyncio.Future[T | None]]

# In any span of D seconds functions run for no longer than BURST_S + SHARE * D, and what the last of them took.
SHARE = 0.25
BURST_S = 0.025

# Longest wait for a turn: better than to be turned down, and shorter than a client's patience.
LONGEST_WAIT_S = 1.0

# Event loops' timers are no finer.
TIMER_S = 0.001

# Places for one client and for all: about as many as can be verified within the longest wait, so that it is the wait
# that bounds a queue. Each holds a credential of 8 KiB at most beside its request: 32 MiB, if all are that long.
MOST_WAITING_EACH = 1024
MOST_WAITING = 4096


class TimeShare(Generic[T]):
    """Runs functions within a quarter of this worker's time; waiting clients take turns.

    Behind one client it is first come, first served: while those in flight there are no more than can be run within
    the longest wait, every one of them is, and a flood whose senders wait for their answers only makes the wait
    longer. Served at random, some would wait too long; served last come first, the flood, which comes back the moment
    it is answered, would be ahead of everybody. Beyond that no order helps: each has the chance that there is time for.

    ``timer_s`` measures what a function takes; ``pick`` gives a random number below its argument.
    """

    def __init__(
        self, timer_s: Callable[[], float] = time.perf_counter, pick: Callable[[int], int] = randrange
    ) -> None:
        self._timer_s = timer_s
        self._left_s = BURST_S
        self._filled_s = float("-inf")
        self._waiting: _Waiting[T] = _Waiting(pick)
        self._turn: asyncio.Handle | None = None

    async def run(self, client: Hashable, function: Callable[[], T]) -> T | None:
        """Run the function, at once where there is time left; None where its turn does not come soon."""
        loop = asyncio.get_running_loop()
        if not self._waiting and self._wait_s(loop.time()) <= 0:
            return self._measured(function)
        done: asyncio.Future[T | None] = loop.create_future()
        self._waiting.add(client, (function, done))
        if self._turn is None:
            self._turn = loop.call_soon(self._take_turn, loop)
        try:
            async with asyncio.timeout(LONGEST_WAIT_S):
                return await done
        except TimeoutError:
            return None

    def _take_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run what there is time for now, which is all of the share however seldom a busy loop comes round."""
        while (wait_s := self._wait_s(loop.time())) <= 0 and self._waiting:
            self._run_next()
        self._turn = loop.call_later(max(wait_s, TIMER_S), self._take_turn, loop) if self._waiting else None

    def _run_next(self) -> None:
        """Run one function of the client whose last turn is longest ago."""
        entry = self._waiting.next()
        if entry is not None:
            function, done = entry
            try:
                done.set_result(self._measured(function))
            except Exception as error:
                done.set_exception(error)

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


class _Waiting(Generic[T]):
    """Those who wait for a turn, client by client. Nothing here walks over them, however many there are.

    Where there is no place one of them goes at random, the newcomer among them: of the client's own if it has all that
    one may have, else of those of whom most wait. To turn the newcomer away each time would leave all places to
    whoever comes back first.
    """

    def __init__(self, pick: Callable[[int], int]) -> None:
        self._pick = pick
        self._queues: OrderedDict[Hashable, deque[_Entry[T]]] = OrderedDict()
        self._count = 0
        # The clients that have as many waiting, by that number, and the largest of the numbers.
        self._clients: dict[int, OrderedDict[Hashable, None]] = {}
        self._most = 0

    def __len__(self) -> int:
        return self._count

    def add(self, client: Hashable, entry: _Entry[T]) -> None:
        """Put it behind the others of the client's. Whoever has no place any more is told so, with None."""
        queue = self._queues.setdefault(client, deque())
        queue.append(entry)
        self._changed(client, len(queue), 1)
        if len(queue) > MOST_WAITING_EACH:
            self._displace(client)
        elif self._count > MOST_WAITING:
            self._displace(next(iter(self._clients[self._most])))

    def next(self) -> _Entry[T] | None:
        """Take out the first of the client whose last turn is longest ago. Those that nobody waits for take no turn."""
        while self._queues:
            client, queue = self._queues.popitem(last=False)
            while queue:
                entry = queue.popleft()
                self._changed(client, len(queue), -1)
                if not entry[1].done():
                    if queue:
                        self._queues[client] = queue
                    return entry
        return None

    def _displace(self, client: Hashable) -> None:
        """One of the client's goes; the last takes its place, since to move up all behind it would take longer."""
        queue = self._queues[client]
        place = self._pick(len(queue))
        _, gone = queue[place]
        queue[place] = queue[-1]
        queue.pop()
        if not queue:
            del self._queues[client]
        self._changed(client, len(queue), -1)
        if not gone.done():
            gone.set_result(None)

    def _changed(self, client: Hashable, count: int, by: int) -> None:
        """Note that so many of the client's wait now, which is one more or one less."""
        self._count += by
        before = count - by
        if before:
            del self._clients[before][client]
            if not self._clients[before]:
                del self._clients[before]
        if count:
            self._clients.setdefault(count, OrderedDict())[client] = None
        if count > self._most or self._most not in self._clients:
            self._most = count
