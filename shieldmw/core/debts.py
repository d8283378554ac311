"""What a worker admitted by itself while it could not ask the store, until the store can be charged with it. Pure.

A bucket that a worker kept alone has two TATs: the one it had before (*from*), which the store would have had as
well, and the one that its charges have moved it to since. What lies between them, and after now, is owed: so nothing
is charged that has come back meanwhile, nor what else has moved the worker's bucket. The worker decided against its
share of a limit, whose units take longer to come back; in the whole bucket they take up so much less.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .bucket import Charge, Charges, Outcome
from .table import Table


class Debt(NamedTuple):
    """One bucket's TATs by the worker's clock, where one unit of the worker's share takes ``share_unit_us``."""

    charge: Charge
    share_unit_us: int
    from_us: int
    tat_us: int

    def owed(self, now_us: int) -> Owed:
        """What it comes to now, rounded up."""
        left_us = max(0, self.tat_us - max(self.from_us, now_us))
        return Owed(self.charge, -(-left_us * self.charge.limit.unit_us // self.share_unit_us), self)


class Owed(NamedTuple):
    """By how many microseconds the TAT of the charge's bucket must still move, for a debt."""

    charge: Charge
    owed_us: int
    debt: Debt


def settled_us(stored_us: int | None, owed: Owed, now_us: int) -> int:
    """The TAT once that is charged; a bucket cannot be emptier than empty. ``store/lua/settle.lua`` is its twin."""
    old_us = now_us if stored_us is None else max(stored_us, now_us)
    return min(old_us + owed.owed_us, now_us + owed.charge.limit.tau_us)


class Debts:
    """At most ``most`` buckets; those that were not charged for longest are forgiven."""

    def __init__(self, most: int) -> None:
        self._known: Table[str, Debt] = Table(most)

    def __bool__(self) -> bool:
        return len(self._known) > 0

    def add(self, charges: Charges, shares: Charges, outcome: Outcome) -> None:
        """Charges that were allowed here, and what they were against this worker's share."""
        for charge, share, tat_us in zip(charges, shares, outcome.tats_us, strict=True):
            if charge.cost:
                known = self._known.get(charge.bucket)
                debt = Debt(charge, share.limit.unit_us, tat_us - share.step_us, tat_us)
                if known is not None:
                    later_us = max(known.tat_us, outcome.now_us) + share.step_us
                    debt = debt._replace(from_us=known.from_us, tat_us=later_us)
                self._known.put(charge.bucket, debt)

    def collect(self, most: int, now_us: int) -> list[Owed]:
        """What is owed now of at most so many buckets, by the worker's clock; they are no longer held here."""
        return [owed for debt in self._known.pop_some(most) if (owed := debt.owed(now_us)).owed_us]

    def restore(self, uncharged: Iterable[Owed]) -> None:
        """What was collected, but could not be charged."""
        for _, _, debt in uncharged:
            since = self._known.get(debt.charge.bucket)
            self._known.put(debt.charge.bucket, debt if since is None else since._replace(from_us=debt.from_us))
