"""Group commit: while one call to the store is under way requests queue up, and the next call takes them all.

No timer: an idle worker calls at once. A request that goes away while it waits cancels nothing: its charges may
be taken, and nobody else's outcome moves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

from shieldmw.core.bucket import Charges, Outcome, TakeRequest
from shieldmw.core.made import made
from shieldmw.errors import NotApplied, StoreError, StoreUnavailable
from shieldmw.gate import clock
from shieldmw.store.port import PartialFailure

# What one call takes along at most. More would make the first wait for the last, and a script can hand at most
# 8,000 keys to one command.
MOST_ASKS = 256
MOST_CHARGES = 1500


class TakeReply(NamedTuple):
    """An outcome, the charges that it is of, and when the store was asked for it, in this worker's ticks.

    That was before the store decided: so a TAT, moved by the difference between that and the store's time, is
    never later on this worker's clock than it truly is. None where the store was not asked: then the charges are
    against this worker's share of their limits.
    """

    charges: Charges
    outcome: Outcome
    sent_us: int | None


class Called(Protocol):
    """The target of the calls: the store, or a wrapper around it."""

    async def take(self, asks: Sequence[TakeRequest]) -> Sequence[Outcome]:
        """One call: take the charges of each ask. Fails with ``StoreError``, of which one is ``PartialFailure``."""

    async def aclose(self) -> None:
        """Give back connections."""


class Calls(Protocol):
    """How the store is asked."""

    def take(self, ask: TakeRequest) -> Awaitable[TakeReply]:
        """What becomes of the ask; fails with ``StoreError``."""

    async def aclose(self) -> None:
        """Give back connections."""


class Singly:
    """Asks the store for each request alone."""

    def __init__(self, store: Called, *, now_us: Callable[[], int] = clock.now_us) -> None:
        self._store = store
        self._now_us = now_us

    async def take(self, ask: TakeRequest) -> TakeReply:
        """What becomes of the ask."""
        sent_us = self._now_us()
        (outcome,) = await self._store.take([ask])
        return TakeReply(ask.charges, outcome, sent_us)

    async def aclose(self) -> None:
        """Give back connections."""
        await self._store.aclose()


_Waiting = tuple[TakeRequest, asyncio.Future[TakeReply]]


class Batch:
    """Asks the store for many at once."""

    def __init__(self, store: Called, *, now_us: Callable[[], int] = clock.now_us) -> None:
        self._store = store
        self._now_us = now_us
        self._waiting: list[_Waiting] = []
        self._calling: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # asked for once: each time is a system call

    def take(self, ask: TakeRequest) -> asyncio.Future[TakeReply]:
        """What becomes of the ask; fails with ``StoreError``."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        told: asyncio.Future[TakeReply] = self._loop.create_future()
        self._waiting.append((ask, told))
        if self._calling is None:
            self._calling = self._loop.create_task(self._call())
        return told

    async def aclose(self) -> None:
        """End the call under way, and give back connections; waiting requests are told that the store is away."""
        if self._calling is not None:
            self._calling.cancel()
            await asyncio.gather(self._calling, return_exceptions=True)
            # A task that was cancelled before it began has told nobody.
            self._calling = None
            self._fail((), StoreUnavailable("closed"))
        await self._store.aclose()

    async def _call(self) -> None:
        """Call as long as anybody waits. Those who queue behind a call that fails fail with it."""
        group: list[_Waiting] = []
        failure = StoreError("closed")
        try:
            while self._waiting:
                count = _fitting(self._waiting)
                group, self._waiting = self._waiting[:count], self._waiting[count:]
                sent_us = self._now_us()
                results = await self._take([ask for ask, _ in group])
                for (ask, told), result in zip(group, results, strict=True):
                    if told.done():
                        continue
                    if isinstance(result, StoreError):
                        told.set_exception(result)
                    else:
                        told.set_result(made(TakeReply, (ask.charges, result, sent_us)))
        except StoreError as error:
            failure = error
        except asyncio.CancelledError:
            failure = StoreUnavailable("closed")
            raise
        finally:
            self._calling = None
            self._fail(group, failure)

    async def _take(self, asks: Sequence[TakeRequest]) -> Sequence[Outcome | StoreError]:
        """What becomes of each."""
        try:
            return await self._store.take(asks)
        except PartialFailure as part:
            return part.results

    def _fail(self, group: Sequence[_Waiting], failure: StoreError) -> None:
        failed = [(told, type(failure)) for _, told in group] + [(told, NotApplied) for _, told in self._waiting]
        for told, kind in failed:
            if not told.done():
                told.set_exception(kind(*failure.args))
        self._waiting = []


def _fitting(waiting: Sequence[_Waiting]) -> int:
    """How many of those who wait go with one call, at least one."""
    charges = 0
    for count, (ask, _) in enumerate(waiting[:MOST_ASKS]):
        charges += len(ask.charges)
        if charges > MOST_CHARGES and count:
            return count
    return min(len(waiting), MOST_ASKS)
