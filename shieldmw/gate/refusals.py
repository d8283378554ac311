"""Refusals that need no call: a TAT only grows, so one that is remembered refuses as surely as the store would.

What is kept is a lower bound of the true TAT, on this worker's clock (``ticks``); whoever is refused by a lower
bound is refused by the bucket. Only buckets that have refused are kept, so a flood of new clients leaves no
trace. A lease that is given back makes a refusal late by what was given back, at most.
"""

from __future__ import annotations

from shieldmw.core.bucket import Charges, Outcome
from shieldmw.core.table import Table

BUCKETS_KEPT = 131_072


class Refusals:
    """What is known of buckets that have refused, at most ``most_buckets``."""

    def __init__(self, most_buckets: int = BUCKETS_KEPT) -> None:
        self._tats_us: Table[str, int] = Table(most_buckets)

    def __len__(self) -> int:
        return len(self._tats_us)

    def remember(self, charges: Charges, outcome: Outcome, sent_us: int) -> None:
        """Keep the TATs of a refusal that was asked for at ``sent_us``; of those that can only grow."""
        shift_us = sent_us - outcome.now_us
        first = outcome.refundable
        for charge, tat_us in zip(charges[first:], outcome.tats_us[first:], strict=True):
            if tat_us > outcome.now_us:
                self._tats_us.put(charge.bucket, tat_us + shift_us)

    def look(self, charges: Charges, now_us: int) -> Outcome | None:
        """The refusal, if what is known of the charges' buckets is enough for one."""
        if not self._tats_us:
            return None
        refused = False
        tats_us = []
        for charge in charges:
            tat_us = self._tats_us.get(charge.bucket) or now_us
            tats_us.append(tat_us)
            refused = refused or tat_us + charge.step_us - now_us > charge.limit.tau_us
        return Outcome(False, now_us, tuple(tats_us)) if refused else None

    def clear(self) -> None:
        """Forget everything: somebody's buckets were made full again."""
        self._tats_us.clear()
