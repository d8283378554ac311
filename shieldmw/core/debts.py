"""What a worker admitted by itself while it could not ask the store, until the store can be charged with it. Pure.

A bucket that a worker kept alone has two TATs: the one it had before (*from*), which the store would have had as
well, and the one that it has now. What lies between them, and after now, is owed: so what has come back meanwhile
is not charged, neither twice nor at all. The worker decided against its share of a limit, whose units take longer
to come back; in the whole bucket they take up so much less.
"""

from __future__ import annotations

from typing import NamedTuple

from .bucket import Charge, Charges, Outcome
from .table import Table


class Owed(NamedTuple):
    """By how many microseconds a bucket's TAT must still move; the bucket is that of the charge."""

    charge: Charge
    owed_us: int


def settled_us(stored_us: int | None, owed: Owed, now_us: int) -> int:
    """The TAT once that is charged; a bucket cannot be emptier than empty. ``store/lua/settle.lua`` is its twin."""
    old_us = now_us if stored_us is None else max(stored_us, now_us)
    return min(old_us + owed.owed_us, now_us + owed.charge.limit.tau_us)


class _Debt(NamedTuple):
    """One bucket's TATs by the worker's clock, in the units of its share of the limit."""

    charge: Charge
    share_unit_us: int
    from_us: int
    tat_us: int


class Debts:
    """At most ``most`` buckets; those that were not charged for longest are forgiven."""

    def __init__(self, most: int) -> None:
        self._known: Table[str, _Debt] = Table(most)

    def __bool__(self) -> bool:
        return len(self._known) > 0

    def add(self, charges: Charges, shares: Charges, outcome: Outcome) -> None:
        """Charges that were allowed here, and what they were against this worker's share."""
        for charge, share, tat_us in zip(charges, shares, outcome.tats_us, strict=True):
            if charge.cost:
                known = self._known.get(charge.bucket)
                from_us = tat_us - share.step_us if known is None else known.from_us
                self._known.put(charge.bucket, _Debt(charge, share.limit.unit_us, from_us, tat_us))

    def collect(self, most: int, now_us: int) -> list[Owed]:
        """What is owed now of at most so many buckets, by the worker's clock; they are no longer held here."""
        owed = []
        for debt in self._known.pop_some(most):
            left_us = debt.tat_us - max(debt.from_us, now_us)
            if left_us > 0:
                owed.append(Owed(debt.charge, -(-left_us * debt.charge.limit.unit_us // debt.share_unit_us)))
        return owed
