"""Refusals that need no call: a TAT only grows, so one that is remembered refuses as surely as the store would.

A remembered TAT is a lower bound of the bucket's, on this worker's clock; if it refuses a client, so does the bucket.
Only buckets that have refused are kept, so a flood of new clients leaves no trace. When a lease is given back, its
client may be refused for longer than needed, by what was given back at most.
"""

from __future__ import annotations

from shieldmw.core.bucket import Outcome
from shieldmw.core.cache import BoundedCache
from shieldmw.core.made import made
from shieldmw.core.plan import TAG_BYTES, Requester

BUCKETS_KEPT = 262_144


class KnownTats:
    """Known TATs of buckets that have refused, at most ``most_buckets``."""

    def __init__(self, most_buckets: int = BUCKETS_KEPT) -> None:
        self._tats_us: BoundedCache[bytes, int] = BoundedCache(most_buckets)

    def __len__(self) -> int:
        return len(self._tats_us)

    def remember(self, requester: Requester, outcome: Outcome, sent_us: int) -> None:
        """Remember the TATs of a refusal requested at ``sent_us``, if they can only grow."""
        shift_us = sent_us - outcome.now_us
        first = outcome.refundable
        for bucket, tat_us in zip(requester.plan.buckets(requester)[first:], outcome.tats_us[first:], strict=True):
            if tat_us > outcome.now_us:
                self._tats_us.put(bucket, tat_us + shift_us)

    def find(self, requester: Requester, now_us: int) -> Outcome | None:
        """The refusal, if the known state of the buckets is enough for one."""
        tats, plan = self._tats_us, requester.plan
        if plan.single is not None:
            name, step_us, tau_us = plan.single
            bucket = name + requester.key[TAG_BYTES:]
            tat_us = tats.young.get(bucket) or tats.get(bucket)
            # A look, which costs nothing, is never refused.
            if tat_us is None or not step_us or tat_us + step_us - now_us <= tau_us:
                return None
            return made(Outcome, (False, now_us, (tat_us,), 0, 0))
        if not tats:
            return None
        known = [tats.get(bucket) for bucket in plan.buckets(requester)]
        for tat_us, (_, limit, cost) in zip(known, plan.own, strict=True):
            if tat_us is not None and cost and tat_us + cost * limit.unit_us - now_us > limit.tau_us:
                return made(Outcome, (False, now_us, tuple([tat_us or now_us for tat_us in known]), 0, 0))
        return None

    def clear(self) -> None:
        """Forget everything, because a client's buckets were reset."""
        self._tats_us.clear()
