"""Refusals that need no call: a TAT only grows, so one that is remembered refuses as surely as the store would.

A remembered TAT is a lower bound of the bucket's, on this worker's clock; if it refuses a client, so does the bucket.
Only buckets that have refused are kept, so a flood of new clients leaves no trace. When a lease is given back, its
client may be refused for longer than needed, at most by the time that the returned units take to refill.
"""

from __future__ import annotations

from shieldmw.core.bucket import FAR_BELIEVED_US, Outcome
from shieldmw.core.cache import BoundedCache
from shieldmw.core.made import made
from shieldmw.core.plan import TAG_BYTES, Requester

# Maximum number of buckets that are remembered.
BUCKETS_KEPT = 262_144


class KnownTats:
    """Known TATs of buckets that have refused, at most ``most_buckets``.

    A TAT that is far ahead is trusted only for ``FAR_BELIEVED_US``; then the store is queried again.
    """

    def __init__(self, most_buckets: int = BUCKETS_KEPT) -> None:
        self._tats_us: BoundedCache[bytes, int] = BoundedCache(most_buckets)
        self._far_until_us: BoundedCache[bytes, int] = BoundedCache(most_buckets)

    def __len__(self) -> int:
        return len(self._tats_us)

    def remember(self, requester: Requester, outcome: Outcome, sent_us: int) -> None:
        """Remember the TATs of a refusal requested at ``sent_us``, if they can only grow."""
        shift_us = sent_us - outcome.now_us
        first = outcome.refundable
        plan, tats_us = requester.plan, outcome.tats_us
        for bucket, term, tat_us in zip(
            plan.buckets(requester)[first:], plan.own[first:], tats_us[first:], strict=True
        ):
            if tat_us > outcome.now_us:
                self._tats_us.put(bucket, tat_us + shift_us)
                if tat_us - outcome.now_us > 2 * term.limit.tau_us:
                    self._far_until_us.put(bucket, sent_us + FAR_BELIEVED_US)

    def find(self, requester: Requester, now_us: int) -> Outcome | None:
        """The refusal, if the known state of the buckets is enough for one."""
        tats, plan = self._tats_us, requester.plan
        if plan.single is not None:
            name, step_us, tau_us = plan.single
            bucket = name + requester.key[TAG_BYTES:]
            tat_us = tats.young.get(bucket) or tats.get(bucket)
            if tat_us is None or not step_us:  # a charge of cost 0 is never refused
                return None
            ahead_us = tat_us - now_us
            if ahead_us + step_us <= tau_us or (
                ahead_us > tau_us and self._is_doubtful(bucket, ahead_us, tau_us, now_us)
            ):
                return None
            return made(Outcome, (False, now_us, (tat_us,), 0, 0))
        if not tats:
            return None
        buckets = plan.buckets(requester)
        known = [tats.get(bucket) for bucket in buckets]
        for bucket, tat_us, (_, limit, cost) in zip(buckets, known, plan.own, strict=True):
            if tat_us is None or not cost:
                continue
            ahead_us = tat_us - now_us
            if ahead_us + cost * limit.unit_us <= limit.tau_us:
                continue
            if ahead_us > limit.tau_us and self._is_doubtful(bucket, ahead_us, limit.tau_us, now_us):
                break
            return made(Outcome, (False, now_us, tuple([tat_us or now_us for tat_us in known]), 0, 0))
        return None

    def clear(self) -> None:
        """Forget everything, because a client's buckets were reset."""
        self._tats_us.clear()
        self._far_until_us.clear()

    def _is_doubtful(self, bucket: bytes, ahead_us: int, tau_us: int, now_us: int) -> bool:
        """Whether a TAT is far ahead and has been trusted for so long that the store must be queried again."""
        if ahead_us <= 2 * tau_us:
            return False
        until_us = self._far_until_us.get(bucket)
        return until_us is not None and now_us >= until_us
