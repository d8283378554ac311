"""One shared limit on a worker: the portion of units that it holds, and its requests that wait for more.

A pool makes one call to the store at a time, for the units that its requests need now and in the next 20 ms. Once the
store has reported that the bucket is empty, it refuses locally until another unit can have refilled.

Refused requests get increasing waits, at the pace at which this worker's share of the units refills. If all were given
the time of the next unit, all would come back for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from shieldmw.core.bucket import FAR_BELIEVED_US, Charge, Charges, Outcome
from shieldmw.core.lease import Unspent
from shieldmw.core.portion import AHEAD_US, LONG_AGO_US, Demand, HeldUnits, PortionRequest, Spent, Turns
from shieldmw.errors import StoreError
from shieldmw.gate.clock import Clock

from .batch import under_way
from .breaker_store import BreakerStore
from .fallback import Fallback

# In addition to the units that requests wait for, a portion has at most those that refill in AHEAD_US, or one part in
# this many of the worker's share of the burst: more would be missing on other workers if the demand ended here.
MOST_OF_SHARE = 4


class Refunds(Protocol):
    """A source of units, to which they can be refunded."""

    def refund(self, spent: Any) -> None:
        """Refund units."""


class SharedReply(NamedTuple):
    """The result of a request's charges against shared limits, by this worker's clock.

    ``spent`` holds what a refund needs. ``by_share``: the store is away, so this worker's share of a limit decided.
    """

    charges: Charges
    outcome: Outcome
    spent: Sequence[tuple[Refunds, Any]] = ()
    by_share: bool = False

    def refund(self) -> None:
        """Refund charges that were allowed, since the request was not admitted after all, or was cancelled."""
        for where, spent in self.spent:
            where.refund(spent)


class _Waiter(NamedTuple):
    """A request that waits for a portion."""

    charge: Charge
    reply: asyncio.Future[SharedReply | None]


class Pool:
    """The units of one shared bucket that this worker holds, and its requests that wait for more."""

    def __init__(
        self,
        charge: Charge,
        store: BreakerStore,
        fallback: Fallback,
        workers: Callable[[], int],
        clock: Clock,
    ) -> None:
        self.held = HeldUnits(charge.limit)
        self._charge = charge
        self._store = store
        self._fallback = fallback
        self._workers = workers
        self._now_us = clock.now_us
        self._waiting: list[_Waiter] = []
        self._asking: asyncio.Task[None] | None = None
        # From the store's last reply: the bucket's TAT, a lower bound from then on, and when to call again.
        self._tat_us = LONG_AGO_US
        self._ask_from_us = LONG_AGO_US
        self._believed_until_us = LONG_AGO_US
        self._granted_us = LONG_AGO_US
        self._demand = Demand()
        self._turns = Turns(charge.limit.unit_us)

    def refused_now(self, charge: Charge, now_us: int) -> SharedReply | None:
        """The refusal of a charge, if this worker holds too few units and a call to the store would not help."""
        units = self.held.units(now_us)
        if units >= charge.cost:
            return None
        free_us = self._free_us(charge, units)
        return None if now_us >= min(free_us, self._believed_until_us) else self._refusal(charge, free_us, now_us)

    def _free_us(self, charge: Charge, units: int) -> int:
        """The time before which a call to the store would not help a charge, if ``units`` of its cost are held here."""
        missing_us = charge.limit.unit_us * (charge.cost - units)
        return max(self._tat_us + missing_us - charge.limit.tau_us, self._ask_from_us)

    def _refusal(self, charge: Charge, free_us: int, now_us: int) -> SharedReply:
        self._demand.refused += charge.cost
        turn_us = self._turns.next(charge.cost, free_us, now_us)
        tat_us = turn_us + charge.limit.tau_us - charge.step_us  # the TAT that this wait follows from
        return SharedReply((charge,), Outcome(False, now_us, (tat_us,)))

    async def take(self, charge: Charge) -> SharedReply | None:
        """The reply to one charge; None if the store is away and there is no fallback."""
        now_us = self._now_us()
        spent = self.held.take(charge.cost, now_us)
        reply = _allowed(charge, self.held, spent, now_us) if spent else self.refused_now(charge, now_us)
        if reply is not None:
            return reply
        if self._asking is None and not self._store.may_be_asked():
            return self._decided_here(charge)
        future: asyncio.Future[SharedReply | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiter(charge, future))
        if self._asking is None:
            self._asking = under_way(asyncio.create_task(self._ask_while_waiting(), name="shieldmw portions"))
        try:
            return await future
        except asyncio.CancelledError:
            late = future.result() if future.done() and not future.cancelled() else None
            if late is not None:
                late.refund()
            raise

    def invalidate(self) -> None:
        """Forget the portion, including the rest of one that is being fetched, since buckets were reset or lost."""
        self.held = HeldUnits(self._charge.limit)  # refunds to the old one have no effect any more
        self._believe(LONG_AGO_US, LONG_AGO_US)
        self._turns = Turns(self._charge.limit.unit_us)

    def _believe(self, tat_us: int, ask_from_us: int) -> None:
        """Set the known state of the bucket."""
        self._tat_us, self._ask_from_us = tat_us, ask_from_us

    def end(self, granted_until_us: int) -> Unspent | None:
        """Give up the portion, if it was granted by then; returns the units to give back."""
        if self._granted_us > granted_until_us:
            return None
        unspent = self.held.end(self._charge, self._now_us())
        if unspent is not None:
            self._believe(LONG_AGO_US, LONG_AGO_US)  # the bucket's TAT goes back
        return unspent

    async def aclose(self) -> None:
        """End a call under way, which fails for waiting requests."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
            self._asking = None  # a task that was cancelled before it began has not done so
            self._fail(())

    # --- calls to the store

    async def _ask_while_waiting(self) -> None:
        """Fetch portions while requests wait. If a call fails, the requests that wait for it fail as well."""
        # Even if the first request has been cancelled: its call may be the probe that the breaker permitted.
        group, self._waiting = self._waiting, []
        try:
            while group:
                await self._ask(group)
                group = self._still_waiting(self._now_us())
        except StoreError:
            pass  # the breaker has counted it
        finally:
            self._asking = None
            self._fail(group)

    def _still_waiting(self, now_us: int) -> list[_Waiter]:
        """Reply to waiting requests that need no call; returns the others."""
        waiting, self._waiting = self._waiting, []
        left = []
        for waiter in waiting:
            if self._served(waiter, self.held, now_us):
                continue
            refusal = self.refused_now(waiter.charge, now_us)
            if refusal is None:
                left.append(waiter)
            else:
                waiter.reply.set_result(refusal)
        return left

    async def _ask(self, group: Sequence[_Waiter]) -> None:
        """Make one call, for the requests of the group and those expected next."""
        limit, held, sent_us = self._charge.limit, self.held, self._now_us()
        units = held.units(sent_us)
        costs = [waiter.charge.cost for waiter in group]
        refilled = AHEAD_US // limit.unit_us
        workers = self._workers()
        share = limit.burst // (MOST_OF_SHARE * workers)
        self._turns.unit_us = limit.unit_us * workers
        ahead = min(self._demand.measure(held, sent_us), max(share, refilled))
        if ahead and self._tat_us < sent_us + AHEAD_US:
            ahead += min(share, refilled)  # a portion shrinks while the bucket is nearly full
        want = min(sum(costs) - units + ahead, limit.burst)
        portion = await self._store.portion(PortionRequest(self._charge, want, max(1, min(costs) - units)))
        self._fallback.pay()
        shift_us = sent_us - portion.now_us
        held.add(portion, shift_us)
        scarce = portion.units < want
        if held is self.held:  # otherwise the portion is void, except for the requests that waited for it
            self._fallback.remember((self._charge,), Outcome(True, portion.now_us, (portion.tat_us,)))
            self._granted_us = sent_us
            again_us = sent_us + min(AHEAD_US, limit.tau_us // 4) if scarce else LONG_AGO_US
            self._believe(portion.tat_us + shift_us, again_us)
            self._believed_until_us = sent_us + FAR_BELIEVED_US
        # Charged as of when the call was sent: the store decided later.
        left = [waiter for waiter in group if not self._served(waiter, held, sent_us)]
        if not scarce or held is not self.held:
            self._waiting = left + self._waiting
            return
        # The bucket is empty. Calling again for the rest could make requests wait forever: during each call another
        # unit refills, for which all of them would wait.
        for waiter in left:
            free_us = max(self._free_us(waiter.charge, 0), sent_us + 1)
            waiter.reply.set_result(self._refusal(waiter.charge, free_us, sent_us))

    def _served(self, waiter: _Waiter, held: HeldUnits, now_us: int) -> bool:
        """Serve a request from the units held; also True if it has been cancelled."""
        if waiter.reply.done():
            return True
        spent = held.take(waiter.charge.cost, now_us)
        if spent:
            waiter.reply.set_result(_allowed(waiter.charge, held, spent, now_us))
        return bool(spent)

    def _fail(self, group: Sequence[_Waiter]) -> None:
        failed, self._waiting = [*group, *self._waiting], []
        for waiter in failed:
            if not waiter.reply.done():
                waiter.reply.set_result(self._decided_here(waiter.charge))

    def _decided_here(self, charge: Charge) -> SharedReply | None:
        """The reply by this worker's share of the limit."""
        reply = self._fallback.take_now((charge,))
        if reply is None:
            return None
        shares, outcome, _ = reply
        now_us = self._now_us()
        tats_us = tuple([tat_us - outcome.now_us + now_us for tat_us in outcome.tats_us])
        spent = ((self._fallback, ((charge,), shares)),) if outcome.allowed else ()
        return SharedReply(shares, Outcome(outcome.allowed, now_us, tats_us), spent, by_share=True)


def _allowed(charge: Charge, held: HeldUnits, spent: Spent, now_us: int) -> SharedReply:
    return SharedReply((charge,), Outcome(True, now_us, (spent[-1][2],)), ((held, spent),))
