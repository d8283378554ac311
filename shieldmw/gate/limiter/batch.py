"""Group commit: while one call to the store is under way requests queue up, and the next call takes them all.

There is no timer: if no call is under way, one is made immediately. A request that is cancelled while it waits is still
charged, so that other outcomes do not change. Outcomes are processed here, in the task of the call, so that a waiting
request needs only a future and no task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from shieldmw.core.bucket import Charges, Outcome, TakeRequest
from shieldmw.core.plan import Requester
from shieldmw.errors import StoreError
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock
from shieldmw.gate.metrics.counts import UNREAD, Counts
from shieldmw.store.port import ChargeTaker, PartialFailure

# Maximum requests and charges in one call, since the first waits for the last. Also, take.lua unpacks two numbers for
# each request and four for each charge onto Lua's stack, which holds 8,000: 2 * 256 + 4 * 1500 = 6512.
MOST_REQUESTS = 256
MOST_CHARGES = 1500


class TakeReply(NamedTuple):
    """An outcome, its charges, and the time when the call was sent, by this worker's clock.

    The store decided later than that. So a TAT converted to this worker's clock by adding ``sent_us - outcome.now_us``
    is never later than it truly is. If no call was made, ``sent_us`` is None, and the charges are against this worker's
    share of their limits.
    """

    charges: Charges
    outcome: Outcome
    sent_us: int | None


# A request that waits for its reply. The requester is None if the charges belong to no request to the app.
_Waiter = tuple[Requester | None, TakeRequest, "asyncio.Future[TakeReply | None]"]


class Batch:
    """Makes one call to the store for many requests.

    ``answered`` makes the reply from an outcome and the time at which the call was sent. ``failed`` makes it if the
    call has failed; its flag says whether other requests of the call have an outcome. One of the two is called once for
    each request, even if that has been cancelled.
    """

    def __init__(
        self,
        store: ChargeTaker,
        answered: Callable[[Requester | None, TakeRequest, Outcome, int], TakeReply],
        failed: Callable[[Requester | None, TakeRequest, bool], TakeReply | None],
        clock: Clock = SYSTEM_CLOCK,
        counts: Counts = UNREAD,
    ) -> None:
        self._store = store
        self._counts = counts
        self._answered = answered
        self._failed = failed
        self._now_us = clock.now_us
        self._waiting: list[_Waiter] = []
        self._calling: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # looked up once, since that takes a system call

    def take(self, requester: Requester | None, request: TakeRequest) -> asyncio.Future[TakeReply | None]:
        """The reply to a request."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        reply: asyncio.Future[TakeReply | None] = self._loop.create_future()
        self._waiting.append((requester, request, reply))
        if self._calling is None:
            self._calling = under_way(self._loop.create_task(self._call()))
        return reply

    async def aclose(self) -> None:
        """End the call under way, which fails for waiting requests, and close the connections."""
        if self._calling is not None:
            self._calling.cancel()
            await asyncio.gather(self._calling, return_exceptions=True)
            # A task that was cancelled before it began has done neither.
            self._calling = None
            self._fail(())
        await self._store.aclose()

    async def _call(self) -> None:
        """Call the store while requests wait. If a call fails, requests queued behind it fail as well."""
        group: list[_Waiter] = []
        done = 0
        try:
            while self._waiting:
                done, count = 0, _fitting(self._waiting)
                group, self._waiting = self._waiting[:count], self._waiting[count:]
                # Prefetches last, so that they do not take units which other requests of this call need.
                group.sort(key=lambda waiter: waiter[1].prefetch > 0)
                self._counts.batch(len(group))
                sent_us = self._now_us()
                results = await self._take([request for _, request, _ in group])
                if len(results) != len(group):
                    raise StoreError(f"{len(results)} outcomes for {len(group)} requests")
                for (requester, request, reply), result in zip(group, results, strict=True):
                    if isinstance(result, StoreError):
                        answer = self._failed(requester, request, True)
                    else:
                        answer = self._answered(requester, request, result, sent_us)
                    if not reply.done():
                        reply.set_result(answer)
                    done += 1
        except StoreError:
            pass  # each request gets its own reply, and the breaker has counted the call
        finally:
            self._calling = None
            self._fail(group[done:])

    async def _take(self, requests: Sequence[TakeRequest]) -> Sequence[Outcome | StoreError]:
        """The result for each request."""
        try:
            return await self._store.take(requests)
        except PartialFailure as part:
            return part.results

    def _fail(self, group: Sequence[_Waiter]) -> None:
        failed, self._waiting = [*group, *self._waiting], []
        for requester, request, reply in failed:
            answer = self._failed(requester, request, False)
            if not reply.done():
                reply.set_result(answer)


def under_way(task: asyncio.Task[None]) -> asyncio.Task[None] | None:
    """The task, or None if it has already ended, as an eager one may (``asyncio.eager_task_factory``)."""
    return None if task.done() else task


def _fitting(waiting: Sequence[_Waiter]) -> int:
    """The number of waiting requests that fit into one call; at least 1."""
    charges = 0
    for count, (_, request, _) in enumerate(waiting[:MOST_REQUESTS]):
        charges += len(request.charges)
        if charges > MOST_CHARGES and count:
            return count
    return min(len(waiting), MOST_REQUESTS)
