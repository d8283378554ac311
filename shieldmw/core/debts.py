"""Debts: what a worker admitted while the store was away, kept until the store has been charged for it. Pure.

What a worker has *admitted* from a bucket is owed, except for what has refilled in the meantime: so at most the time
between now and the TAT to which its charges moved the bucket. The worker decided by its share of a limit, whose units
take longer to refill; in the whole bucket they take up correspondingly less.

A debt is charged once, however often it is sent: beside the bucket, the store records which debt of the worker it
charged last, and how much of it. So a call whose answer was lost is simply repeated.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .bucket import Charge, Charges, Outcome, counted_us
from .cache import BoundedCache
from .limits import LONGEST_TAU_US, Limit


class Debt(NamedTuple):
    """The charges that a worker admitted from one bucket without the store, and the resulting TAT, by its own clock.

    Both are measured by the worker's share of the limit among ``workers``: the number of workers when the debt began,
    whatever it has become since. ``number`` is unique among this worker's debts.
    """

    charge: Charge
    workers: int
    admitted_us: int
    tat_us: int
    number: int

    def owed_us(self, now_us: int, charged_us: int = 0) -> int:
        """By how much the bucket's TAT must still move, rounded up, once ``charged_us`` of the debt is charged."""
        left_us = max(0, min(self.tat_us - now_us, self.admitted_us - charged_us))
        return -(-left_us // self.workers)


def deepest_us(limit: Limit) -> int:
    """How far ahead the TAT of an overdrawn bucket may be: one bucket more than that of an empty one.

    Workers without the store know less about a bucket, so together they may admit more than was left. That is paid
    back, but nobody is refused for longer than two buckets take to fill.
    """
    return min(2 * limit.tau_us, LONGEST_TAU_US)


def settled_us(stored_us: int | None, owed_us: int, limit: Limit, now_us: int) -> int:
    """The TAT after a debt is charged, never below the stored one as it counts. ``store/lua/settle.lua`` is its twin.

    A longer limit may have charged the bucket further ahead than debts do.
    """
    old_us = counted_us(stored_us, limit.tau_us, now_us)
    return max(old_us, min(old_us + owed_us, now_us + deepest_us(limit)))


class Debts:
    """The debts on at most ``most`` buckets; beyond that, those charged longest ago are forgiven."""

    def __init__(self, most: int) -> None:
        self._known: BoundedCache[str, Debt] = BoundedCache(most)
        self._most = most
        self._last = 0

    def __len__(self) -> int:
        return len(self._known)

    def add(self, charges: Charges, shares: Charges, outcome: Outcome) -> None:
        """Add charges that were allowed here, with the same charges against this worker's share."""
        for charge, share, tat_us in zip(charges, shares, outcome.tats_us, strict=True):
            if not charge.cost:
                continue
            known = self._known.get(charge.bucket)
            if known is None:
                self._last += 1
                workers = share.limit.unit_us // charge.limit.unit_us
                debt = Debt(charge, workers, share.step_us, tat_us, self._last)
            else:
                step_us = charge.step_us * known.workers
                later_us = max(known.tat_us, outcome.now_us) + step_us
                debt = known._replace(admitted_us=known.admitted_us + step_us, tat_us=later_us)
            self._known.put(charge.bucket, debt)

    def forgive(self, charges: Charges) -> None:
        """Take back charges that were added; one that has been collected since stays owed."""
        for charge in charges:
            known = self._known.get(charge.bucket)
            if known is not None:
                step_us = min(charge.step_us * known.workers, known.admitted_us)
                debt = known._replace(admitted_us=known.admitted_us - step_us, tat_us=known.tat_us - step_us)
                self._known.put(charge.bucket, debt)

    def collect(self, now_us: int) -> list[Debt]:
        """Take out all debts; returns those of which something is still owed, by the worker's clock."""
        debts: list[Debt] = []
        while some := self._known.pop_some(self._most):
            debts += [debt for debt in some if debt.owed_us(now_us)]
        return debts

    def restore(self, uncharged: Iterable[Debt], now_us: int) -> None:
        """Put back debts that were collected but are not known to be charged. They precede what was admitted since."""
        for debt in uncharged:
            bucket = debt.charge.bucket
            since = self._known.get(bucket)
            if since is None:
                self._known.put(bucket, debt)
            else:
                self._known.put(bucket, _joined(debt, since, now_us))


def _joined(debt: Debt, since: Debt, now_us: int) -> Debt:
    """The older debt plus what was admitted since, in the older one's measure."""
    left_us = max(0, min(since.tat_us - now_us, since.admitted_us))
    return debt._replace(
        admitted_us=debt.admitted_us + _measured(since.admitted_us, since, debt),
        tat_us=max(debt.tat_us, now_us) + _measured(left_us, since, debt),
    )


def _measured(length_us: int, one: Debt, other: Debt) -> int:
    """A length of time of one debt in the measure of another, rounded up."""
    return -(-length_us * other.workers // one.workers)
