"""Bounds the CPU time spent on clients whose credentials have mostly failed, by a share of this worker's time.

Knows nothing of credentials: it runs slow functions, each on behalf of a client, and treats clients fairly.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from random import Random
from typing import Generic, TypeVar

from shieldmw.gate.clock import SYSTEM_CLOCK, Clock

T = TypeVar("T")

# The function to run, and the future of its result.
_Entry = tuple[Callable[[], T], asyncio.Future[T | None]]

# In any span of D seconds functions run for at most BURST_S + SHARE * D, plus the time that the last of them takes.
SHARE = 0.25
BURST_S = 0.025

# Longest wait for a turn, since clients will not wait much longer for an answer.
LONGEST_WAIT_S = 1.0

# Resolution of an event loop's timers.
TIMER_S = 0.001

# Maximum number of waiting functions, for one client and in all: about as many as can run within the longest wait, so
# usually the wait bounds a queue. Each holds a credential of up to 8 KiB beside its request: at most 32 MiB in all.
MOST_WAITING_EACH = 1024
MOST_WAITING = 4096


class TimeShare(Generic[T]):
    """Runs functions within a quarter of this worker's time; waiting clients take turns.

    The functions of one client run first come, first served. As long as no more are waiting than can run within the
    longest wait, all of them run, and a flood whose senders wait for their answers only makes the wait longer. In
    random order some would wait too long; last come, first served would prefer the flood, which returns as soon as it
    is answered. If more are waiting, no order helps: all have the same chance of being run.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._now_s = clock.now_s
        self._left_s = BURST_S
        self._filled_s = float("-inf")
        self._waiting: _Waiting[T] = _Waiting(clock.random)
        self._turn: asyncio.Handle | None = None

    async def run(self, client: Hashable, function: Callable[[], T]) -> T | None:
        """Run the function, at once if there is time left; None if its turn does not come in ``LONGEST_WAIT_S``."""
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
        """Run as many functions as there is time for, so that the whole share is used even if the loop is busy."""
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
        begun_s = self._now_s()
        try:
            return function()
        finally:
            self._left_s -= self._now_s() - begun_s

    def _wait_s(self, now_s: float) -> float:
        """Seconds until there is time left."""
        self._left_s = min(BURST_S, self._left_s + SHARE * (now_s - self._filled_s))
        self._filled_s = now_s
        return -self._left_s / SHARE


class _Waiting(Generic[T]):
    """Queues of waiting functions, one for each client. Each operation takes constant time.

    If there are too many entries, a random one is dropped, which may be the newest: one of the same client if it has
    reached its maximum, otherwise one of the client with the most entries. If the newest were always dropped, clients
    that retry fastest would get all the places.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._queues: OrderedDict[Hashable, deque[_Entry[T]]] = OrderedDict()
        self._count = 0
        # The clients with each number of waiting entries, and the largest of these numbers.
        self._clients: dict[int, OrderedDict[Hashable, None]] = {}
        self._most = 0

    def __len__(self) -> int:
        return self._count

    def add(self, client: Hashable, entry: _Entry[T]) -> None:
        """Append an entry to its client's queue. If another is dropped for it, that one's result is None."""
        queue = self._queues.setdefault(client, deque())
        queue.append(entry)
        self._changed(client, len(queue), 1)
        if len(queue) > MOST_WAITING_EACH:
            self._displace(client)
        elif self._count > MOST_WAITING:
            self._displace(next(iter(self._clients[self._most])))

    def next(self) -> _Entry[T] | None:
        """Take out the first entry of the client whose last turn is longest ago. Cancelled ones are skipped."""
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
        """Drop a random entry of the client. The last one takes its place, which is faster than moving up the rest."""
        queue = self._queues[client]
        place = self._random.randrange(len(queue))
        _, gone = queue[place]
        queue[place] = queue[-1]
        queue.pop()
        if not queue:
            del self._queues[client]
        self._changed(client, len(queue), -1)
        if not gone.done():
            gone.set_result(None)

    def _changed(self, client: Hashable, count: int, by: int) -> None:
        """Record that the client now has ``count`` waiting entries; ``by`` is the change, 1 or -1."""
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
