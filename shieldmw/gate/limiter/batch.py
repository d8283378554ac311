"""Group commit: while one call to the store is under way requests queue up, and the next call takes them all.

No timer: an idle worker calls at once. A request that goes away while it waits cancels nothing: its charges may
be taken, and nobody else's outcome moves. What follows from an outcome is done here, in the call's own task, so a
request that waits is one future and no task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from shieldmw.core.bucket import Charges, Outcome, TakeRequest
from shieldmw.errors import StoreError, StoreUnavailable
from shieldmw.gate import clock
from shieldmw.store.port import PartialFailure

A = TypeVar("A")
R = TypeVar("R")

# Most requests and charges in one call. More would make the first wait for the last. And take.lua unpacks two numbers
# a request and four a charge onto Lua's stack, which holds 8,000: 2 * 256 + 4 * 1500 = 6512.
MOST_REQUESTS = 256
MOST_CHARGES = 1500


class TakeReply(NamedTuple):
    """An outcome, its charges, and when the store was asked, by this worker's clock.

    That was before the store decided: so a TAT, moved by the difference between that and the store's time, is
    never later on this worker's clock than it truly is. None where the store was not asked: then the charges are
    against this worker's share of their limits.
    """

    charges: Charges
    outcome: Outcome
    sent_us: int | None


class Called(Protocol):
    """The target of the calls: the store, or a wrapper around it."""

    async def take(self, requests: Sequence[TakeRequest]) -> Sequence[Outcome]:
        """One call: take the charges of each request. Raises ``StoreError``, for example ``PartialFailure``."""

    async def aclose(self) -> None:
        """Give back connections."""


class Batch(Generic[A, R]):
    """Asks the store for many at once.

    ``answered`` makes the reply to a request of its asker, its outcome, and when it was sent; ``failed`` makes the
    reply where the call has failed. Both are called once for each request, also where nobody waits for it any more.
    """

    def __init__(
        self,
        store: Called,
        answered: Callable[[A, TakeRequest, Outcome, int], R],
        failed: Callable[[A, TakeRequest, StoreError], R],
        *,
        now_us: Callable[[], int] = clock.now_us,
    ) -> None:
        self._store = store
        self._answered = answered
        self._failed = failed
        self._now_us = now_us
        self._waiting: list[tuple[A, TakeRequest, asyncio.Future[R]]] = []
        self._calling: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # asked for once: each time is a system call

    def take(self, asker: A, request: TakeRequest) -> asyncio.Future[R]:
        """The reply to the request."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        reply: asyncio.Future[R] = self._loop.create_future()
        self._waiting.append((asker, request, reply))
        if self._calling is None:
            self._calling = under_way(self._loop.create_task(self._call()))
        return reply

    async def aclose(self) -> None:
        """End the call under way, and give back connections; for waiting requests the call has failed."""
        if self._calling is not None:
            self._calling.cancel()
            await asyncio.gather(self._calling, return_exceptions=True)
            # A task that was cancelled before it began has told nobody.
            self._calling = None
            self._fail((), StoreUnavailable("closed"))
        await self._store.aclose()

    async def _call(self) -> None:
        """Call the store as long as requests wait. Requests queued behind a call that fails fail with it."""
        group: list[tuple[A, TakeRequest, asyncio.Future[R]]] = []
        told = 0
        failure = StoreError("closed")
        try:
            while self._waiting:
                told, count = 0, _fitting(self._waiting)
                group, self._waiting = self._waiting[:count], self._waiting[count:]
                # Prefetches last: what they take must not be missing for others who asked at the same time.
                group.sort(key=_prefetches)
                sent_us = self._now_us()
                results = await self._take([request for _, request, _ in group])
                if len(results) != len(group):
                    raise StoreError(f"{len(results)} outcomes for {len(group)} requests")
                for (asker, request, reply), result in zip(group, results, strict=True):
                    if isinstance(result, StoreError):
                        answer = self._failed(asker, request, result)
                    else:
                        answer = self._answered(asker, request, result, sent_us)
                    if not reply.done():
                        reply.set_result(answer)
                    told += 1
        except StoreError as error:
            failure = error
        except asyncio.CancelledError:
            failure = StoreUnavailable("closed")
            raise
        finally:
            self._calling = None
            self._fail(group[told:], failure)

    async def _take(self, requests: Sequence[TakeRequest]) -> Sequence[Outcome | StoreError]:
        """The result of each."""
        try:
            return await self._store.take(requests)
        except PartialFailure as part:
            return part.results

    def _fail(self, group: Sequence[tuple[A, TakeRequest, asyncio.Future[R]]], failure: StoreError) -> None:
        failed, self._waiting = [*group, *self._waiting], []
        for asker, request, reply in failed:
            answer = self._failed(asker, request, failure)
            if not reply.done():
                reply.set_result(answer)


def under_way(task: asyncio.Task[None]) -> asyncio.Task[None] | None:
    """The task, or None if it has already ended, as an eager one may (``asyncio.eager_task_factory``)."""
    return None if task.done() else task


def _prefetches(waiting: tuple[Any, TakeRequest, Any]) -> bool:
    return waiting[1].prefetch > 0


def _fitting(waiting: Sequence[tuple[A, TakeRequest, asyncio.Future[R]]]) -> int:
    """How many of the waiting requests fit into one call, at least one."""
    charges = 0
    for count, (_, request, _) in enumerate(waiting[:MOST_REQUESTS]):
        charges += len(request.charges)
        if charges > MOST_CHARGES and count:
            return count
    return min(len(waiting), MOST_REQUESTS)
