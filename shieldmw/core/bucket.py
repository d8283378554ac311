"""The bucket: GCRA, the token bucket whose whole state is one number.

The state is the *theoretical arrival time* (TAT): when the bucket will be full again, in whole microseconds. This
module is the reference; ``store/lua/take.lua`` is its twin inside Redis, and a test compares the two. Source of the
algorithm: ITU-T I.371, generic cell rate algorithm.

Values that are created for each request are named tuples: immutable like frozen dataclasses, but created in a third of
the time.

**Promise:** in any span D, the admitted cost of a bucket is at most burst + rate * D.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from .client import Client
from .limits import Limit, share

# 2025-01-01T00:00:00Z: counting from here keeps a TAT exact in a double until the year 2310.
EPOCH_S = 1_735_689_600

# A TAT further in the future than this counts as this far, unless its limit itself can move it further. A TAT that is
# further ahead than its limit explains was set under a longer limit, which a deploy or an emergency has shortened. It
# counts in full: the bucket refuses until then, and clients are given that wait. Foreign data in the store may be
# arbitrarily far ahead, hence the bound: a day, which is also the longest wait that an operator can set
# (SHIELD_RETRY_AFTER). After a day clients try again.
FURTHEST_US = 86_400 * 1_000_000

# Time for which a worker trusts a remembered TAT that is too far ahead for its limit, even with debts
# (``debts.deepest_us``). After that it asks the store again, where the wrong value may have been removed.
FAR_BELIEVED_US = 60 * 1_000_000


class Charge(NamedTuple):
    """One request's cost, in units, against the bucket of one limit for one client.

    It is at most the limit's burst (the policy caps it), since more would never fit.
    """

    client: Client
    limit: Limit
    cost: int = 1

    @property
    def bucket(self) -> str:
        """The bucket's name within a process. Unambiguous, since names of kinds and limits contain no spaces."""
        client, limit, _ = self
        return f"{limit.name} {client.kind}:{client.text}"

    @property
    def number(self) -> int:
        """The hash of the bucket's name: smaller, and seeded per process, so clients cannot cause collisions."""
        client, limit, _ = self
        return hash((limit.name, client.kind, client.text))

    @property
    def step_us(self) -> int:
        """The time by which the charge moves the bucket's TAT, in microseconds."""
        return self.cost * self.limit.unit_us


Charges = tuple[Charge, ...]


class Party(IntEnum):
    """The party whose requests a limit counts: an address, the site around it, a verified subject, or many clients."""

    ADDRESS = 0
    SITE = 1
    SUBJECT = 2
    MANY = 3


class Term(NamedTuple):
    """One limit of a plan: the party that is charged, and the cost in units."""

    party: Party
    limit: Limit
    cost: int = 1


# Charges or terms: interpreting an outcome takes only limits and costs.
Costs = Sequence[Charge] | Sequence[Term]


def worker_shares(charges: Charges, workers: int) -> Charges:
    """The charges against one worker's share of their limits, among ``workers`` of them."""
    if workers == 1:
        return charges
    return tuple([charge._replace(limit=share(charge.limit, workers, charge.cost)) for charge in charges])


class TakeRequest(NamedTuple):
    """One request's charges, and how many more times to take them in advance if the buckets allow it."""

    charges: Charges
    prefetch: int = 0


class Outcome(NamedTuple):
    """The result of taking charges together, all or none.

    ``tats_us`` are the TATs afterwards, in the order of the charges: the new ones if ``allowed``, otherwise the old
    ones, since a refusal changes nothing. ``leased``: the charges were taken this many more times in advance, which the
    TATs include. The TATs of the first ``refundable`` charges may include charges of others that will be refunded.
    """

    allowed: bool
    now_us: int
    tats_us: tuple[int, ...]
    leased: int = 0
    refundable: int = 0


def joined(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of several parts together, on the clock of the first; each part was decided by its own clock."""
    now_us = outcomes[0].now_us
    tats_us = tuple([tat_us + now_us - part.now_us for part in outcomes for tat_us in part.tats_us])
    return Outcome(all(part.allowed for part in outcomes), now_us, tats_us)


class LimitStatus(NamedTuple):
    """One bucket after a decision, in units and microseconds. ``retry_after_us`` is 0 if the charge fits."""

    limit: Limit
    remaining: int
    full_after_us: int
    retry_after_us: int


def take(stored_us: Sequence[int | None], request: TakeRequest, now_us: int) -> Outcome:
    """Decide a request against the TATs stored for its charges (None: a full bucket), all or nothing."""
    olds = []
    allowed = True
    leased = request.prefetch
    for stored, charge in zip(stored_us, request.charges, strict=True):
        tau_us, step_us = charge.limit.tau_us, charge.step_us
        old = counted_us(stored, tau_us, now_us)
        used_us = old + step_us - now_us
        allowed = allowed and (used_us <= tau_us or not step_us)  # a cost of 0 fits even into an overdrawn bucket
        if step_us:
            leased = min(leased, _leasable(tau_us, used_us, step_us))
        olds.append(old)
    if not allowed:
        return Outcome(False, now_us, tuple(olds))
    leased = max(leased, 0)
    times = 1 + leased
    news = [old + times * charge.step_us for old, charge in zip(olds, request.charges, strict=True)]
    return Outcome(True, now_us, tuple(news), leased)


def counted_us(stored_us: int | None, tau_us: int, now_us: int) -> int:
    """The effective TAT of a bucket: the stored one (None: a full bucket), but not in the past, and at most
    ``FURTHEST_US`` or twice ``tau_us`` ahead, whichever is more.

    The upper bound changes no decision, since it only applies where the charge is refused anyway. It is never below
    what an overdrawn bucket may owe (``debts.deepest_us``).
    """
    if stored_us is None or stored_us <= now_us:
        return now_us
    return min(stored_us, now_us + max(2 * tau_us, FURTHEST_US))


def _leasable(tau_us: int, used_us: int, step_us: int) -> int:
    """The number of charges that may be taken in advance: a quarter of the units that the bucket holds above half.

    A bucket that is less than half full is charged for each request alone, so its limit is reached exactly; and several
    workers that prefetch at the same time leave units for one that does not.
    """
    return (tau_us - 2 * used_us) // (8 * step_us)


def statuses(charges: Costs, outcome: Outcome) -> tuple[LimitStatus, ...]:
    """The state of each charged bucket after the outcome."""
    allowed, now_us, tats_us, *_ = outcome
    return tuple(
        [
            _status(limit, cost, tat_us - now_us, allowed)
            for (_, limit, cost), tat_us in zip(charges, tats_us, strict=True)
        ]
    )


def remaining(limit: Limit, full_after_us: int) -> int:
    """The units left in a bucket that will be full in ``full_after_us``."""
    spare_us = limit.tau_us - full_after_us if full_after_us > 0 else limit.tau_us
    return spare_us // limit.unit_us if spare_us > 0 else 0


def _status(limit: Limit, cost: int, full_after_us: int, allowed: bool) -> LimitStatus:
    full_after_us = max(full_after_us, 0)
    retry_after_us = 0 if allowed else _retry_after_us(limit, cost, limit.tau_us - full_after_us)
    return LimitStatus(limit, remaining(limit, full_after_us), full_after_us, retry_after_us)


def wait_us(charges: Costs, outcome: Outcome) -> int:
    """The time until all refused charges fit."""
    now_us = outcome.now_us
    return max(
        _retry_after_us(limit, cost, limit.tau_us - max(tat_us - now_us, 0))
        for (_, limit, cost), tat_us in zip(charges, outcome.tats_us, strict=True)
    )


def _retry_after_us(limit: Limit, cost: int, spare_us: int) -> int:
    return max(0, cost * limit.unit_us - spare_us) if cost else 0
