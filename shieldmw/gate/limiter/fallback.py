"""Decides while the store is away: by local buckets, whose charges are settled with the store afterwards."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from secrets import token_hex

from shieldmw.core.bucket import Charges, Outcome, worker_shares
from shieldmw.core.debts import Debt, Debts
from shieldmw.core.decision import OnStoreFailure
from shieldmw.core.metrics import Table
from shieldmw.errors import StoreError
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock
from shieldmw.store.memory import WarmBuckets

from .batch import TakeReply, under_way

log = logging.getLogger(__name__)

# Maximum number of buckets with debts, and of debts settled in one call.
DEBTS_KEPT = 65_536
SETTLED_AT_ONCE = 256

# Retry interval for unconfirmed debts.
SETTLE_AGAIN_S = 0.25

# Maximum age of local copies of buckets. Units that a bucket has regained since then are charged anyway, since it may
# have been emptier than the copy.
KNOWN_LATE_US = 2_000_000

Settle = Callable[[Sequence[Debt], int, str], Awaitable[Sequence[Debt]]]


class Fallback:
    """Decides while the store is away, as ``on_failure`` says.

    ``local`` holds copies of the store's buckets as last reported, so that an outage does not make empty buckets full
    again. Each of the ``workers`` in the fleet decides by its share of the limits. What is admitted meanwhile is
    charged to the store (``settle``) once it answers again.

    The same applies to requests admitted after a call that was never answered. That call may have charged them too, so
    they may be charged twice. One refusal too many after a failure is the lesser evil: otherwise a client that can slow
    down the store would not pay for its requests.
    """

    def __init__(
        self,
        on_failure: OnStoreFailure,
        local: WarmBuckets,
        workers: Callable[[], int],
        settle: Settle,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._local = local
        self._workers = workers
        self._settle = settle
        self._is_local = on_failure is OnStoreFailure.LOCAL
        self._debts = Debts(DEBTS_KEPT)
        self._name = token_hex(8)
        self._settling: asyncio.Task[None] | None = None
        self._settle_from_s = float("-inf")
        self._now_s = clock.now_s

    def remember(self, charges: Charges, outcome: Outcome) -> None:
        """Remember the state of buckets as reported by the store."""
        if self._is_local:
            self._local.remember(charges, outcome)

    def pay(self) -> None:
        """Settle debts in the background, since the store has just answered."""
        if self._debts and self._settling is None and self._now_s() >= self._settle_from_s:
            self._settling = under_way(asyncio.create_task(self._settle_all(), name="shieldmw debts"))

    def take_now(self, charges: Charges) -> TakeReply | None:
        """Decide locally; None unless ``on_failure`` is ``local``."""
        if not self._is_local:
            return None
        shares = worker_shares(charges, self._workers())
        outcome = self._local.take_now(shares)
        if outcome.allowed:
            self._debts.add(charges, shares, outcome)
        return TakeReply(shares, outcome, None)

    def refund(self, spent: tuple[Charges, Charges]) -> None:
        """Refund charges, also to this worker's shares, since another limit has refused the request."""
        charges, shares = spent
        self._local.refund_now(shares)
        self._debts.forgive(charges)

    async def _settle_all(self) -> None:
        """Charge the debts of this worker to the store; those whose charge is unconfirmed are kept for later."""
        debts = self._debts.collect(self._now_us())
        left: list[Debt] = []
        try:
            while debts:
                some = debts[:SETTLED_AT_ONCE]
                left += await self._settle(some, self._now_us(), self._name)
                del debts[:SETTLED_AT_ONCE]
        except StoreError:
            pass  # the remaining calls would fail as well
        finally:
            self._debts.restore((*left, *debts), self._now_us())
            self._settle_from_s = self._now_s() + (SETTLE_AGAIN_S if left or debts else 0)
            self._settling = None

    def _now_us(self) -> int:
        """The time on the clock by which debts are charged, in microseconds."""
        return self._local.now_us() - KNOWN_LATE_US

    def invalidate(self) -> None:
        """Forget the local buckets, because some were reset; debts are kept."""
        self._local.clear()

    def entries(self) -> Mapping[Table, int]:
        """How many buckets are copied, and how many have debts."""
        return {Table.FALLBACK_BUCKETS: len(self._local), Table.DEBTS: len(self._debts)}

    async def aclose(self) -> None:
        """Cancel settling."""
        if self._settling is not None:
            self._settling.cancel()
            await asyncio.gather(self._settling, return_exceptions=True)
            self._settling = None  # a task that was cancelled before it began has not done so
