"""The bucket: GCRA, the token bucket whose whole state is one number.

State is the *theoretical arrival time* (TAT): when the bucket would be full again, in whole
microseconds. This module is the reference; ``store/lua/take.lua`` is its twin inside Redis, and a
test compares the two. Source of the algorithm: ITU-T I.371, generic cell rate algorithm.

**Promise:** in any span D, the admitted cost of a bucket is at most burst + rate * D.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .client import Client
from .limits import Limit

# 2025-01-01T00:00:00Z: counting from here keeps a TAT exact in a double until the year 2310.
EPOCH_S = 1_735_689_600

NEVER_US = -1


@dataclass(frozen=True, slots=True)
class Charge:
    """One request's cost, in units, against the bucket of one limit for one client."""

    client: Client
    limit: Limit
    cost: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of charges that were taken together, all or nothing.

    ``tats_us`` are the TATs in force afterwards, in the order of the charges: the new ones where
    ``allowed``, else the old ones, since a refusal changes nothing.
    """

    allowed: bool
    now_us: int
    tats_us: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Level:
    """How one bucket stands after a decision, in units and microseconds.

    ``retry_after_us`` is 0 where the charge fits, ``NEVER_US`` where it never will.
    """

    limit: Limit
    remaining: int
    full_after_us: int
    retry_after_us: int

    @property
    def refuses(self) -> bool:
        """Whether this bucket is a reason for the refusal."""
        return self.retry_after_us != 0


def take(stored_us: Sequence[int | None], charges: Sequence[Charge], now_us: int) -> Outcome:
    """Decide charges against the TATs stored for them (None: a full bucket), all or nothing."""
    olds = []
    news = []
    allowed = True
    for stored, charge in zip(stored_us, charges, strict=True):
        limit = charge.limit
        old = now_us if stored is None else min(max(stored, now_us), now_us + limit.tau_us)
        new = old + charge.cost * limit.unit_us
        allowed = allowed and new - now_us <= limit.tau_us
        olds.append(old)
        news.append(new)
    return Outcome(allowed, now_us, tuple(news if allowed else olds))


def levels(charges: Sequence[Charge], outcome: Outcome) -> tuple[Level, ...]:
    """How each bucket of the charges stands after their outcome."""
    return tuple(_level(charge, tat_us, outcome) for charge, tat_us in zip(charges, outcome.tats_us, strict=True))


def _level(charge: Charge, tat_us: int, outcome: Outcome) -> Level:
    limit = charge.limit
    full_after_us = max(0, tat_us - outcome.now_us)
    retry_after_us = 0
    if not outcome.allowed:
        retry_after_us = max(0, full_after_us + charge.cost * limit.unit_us - limit.tau_us)
        if charge.cost > limit.burst:
            retry_after_us = NEVER_US
    remaining = max(0, (limit.tau_us - full_after_us) // limit.unit_us)
    return Level(limit, remaining, full_after_us, retry_after_us)
