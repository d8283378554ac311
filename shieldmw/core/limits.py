"""Limits: a rate and a burst, read from the notation of the ``limits`` library.

Knows nothing of clients or buckets. Except in the notation, all times are whole microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from limits import parse_many

US_PER_S = 1_000_000

# Longest time to fill a bucket: a TAT, at most now + tau, must be exact in Lua's doubles (2**53 us = 285 years from
# 2025).
LONGEST_TAU_US = 250 * 365 * 86_400 * US_PER_S

# The same for a limit as written in the settings. More would be a mistake, and the margin is needed for aggregates,
# whose units cannot be shorter than 1 us.
LONGEST_WRITTEN_US = 100 * 366 * 86_400 * US_PER_S

# The limit of an IPv6 /56, as a multiple of that of each of its /64s: a household or small site uses a handful of
# /64s, while an attacker who rotates addresses has all 256.
AGGREGATE_FACTOR = 4


@dataclass(frozen=True, slots=True)
class Limit:
    """``amount`` units every ``period_s`` seconds on average, at most ``burst`` at once.

    ``unit_us`` is the time one unit takes to refill (GCRA's emission interval T, rounded up, so that rounding never
    admits more), and ``tau_us`` the time an empty bucket takes to fill.

    Raises:
        ValueError: an amount, period or burst below 1, a rate above 1,000,000 a second, or a
            bucket that would take more than 250 years to fill.
    """

    name: str
    amount: int
    period_s: int
    burst: int
    unit_us: int = field(init=False)
    tau_us: int = field(init=False)

    def __post_init__(self) -> None:
        if self.amount < 1 or self.period_s < 1:
            raise ValueError(f"'{self.amount} per {self.period_s} s' never admits anything: use at least 1")
        if self.burst < 1:
            raise ValueError(f"a burst of {self.burst} never admits anything: use at least 1")
        if self.amount > self.period_s * US_PER_S:
            raise ValueError(f"'{self.amount} per {self.period_s} s' is above 1000000/second, the highest rate")
        unit_us = -(-self.period_s * US_PER_S // self.amount)
        object.__setattr__(self, "unit_us", unit_us)
        object.__setattr__(self, "tau_us", unit_us * self.burst)
        if self.tau_us > LONGEST_TAU_US:
            raise ValueError(f"a burst of {self.burst} would take more than 250 years to fill: use a smaller one")

    def __hash__(self) -> int:
        return hash(self.name)  # nearly unique, and much faster than hashing all fields

    @property
    def rate_per_s(self) -> float:
        """Units admitted per second in the long run, after rounding."""
        return US_PER_S / self.unit_us


def parse_limits(text: str, *, name: str, burst: int | None = None) -> tuple[Limit, ...]:
    """Parse limits such as ``300/minute`` or ``10/second,300/minute``.

    ``off`` gives none. The first is called ``name``, the second ``name-2`` and so on. Without ``burst``, a limit's
    burst is its amount: a client may spend a whole period's worth at once.

    Raises:
        ValueError: not in the notation, out of range, or a burst with several limits or with none.
    """
    if text.strip().lower() == "off":
        if burst is not None:
            raise ValueError(f"a burst of {burst} has no meaning beside 'off': remove it")
        return ()
    try:
        items = parse_many(text)
    except ValueError:
        raise ValueError(
            "not a limit: write it like '300/minute', '5 per 10 seconds', '10/second,300/minute', or 'off'; "
            "the units are second, minute, hour, day, month and year"
        ) from None
    if burst is not None and len(items) > 1:
        raise ValueError(f"a burst of {burst} goes only with a single limit: remove it, or keep one limit")
    limits = tuple(
        Limit(
            name=name if index == 0 else f"{name}-{index + 1}",
            amount=item.amount,
            period_s=item.get_expiry(),
            burst=item.amount if burst is None else burst,
        )
        for index, item in enumerate(items)
    )
    if any(limit.tau_us > LONGEST_WRITTEN_US for limit in limits):
        raise ValueError(f"a burst of {limits[0].burst} would take more than 100 years to fill: use a smaller one")
    return limits


_PERIODS_S = {1: "second", 60: "minute", 3600: "hour", 86_400: "day"}


def written_limits(limits: Sequence[Limit]) -> str:
    """Limits as they are written, such as ``300/minute``; their bursts are not."""
    return ",".join(_written(limit) for limit in limits) or "off"


def _written(limit: Limit) -> str:
    if limit.period_s in _PERIODS_S:
        return f"{limit.amount}/{_PERIODS_S[limit.period_s]}"
    unit_s = next(unit_s for unit_s in sorted(_PERIODS_S, reverse=True) if limit.period_s % unit_s == 0)
    return f"{limit.amount} per {limit.period_s // unit_s} {_PERIODS_S[unit_s]}s"


@lru_cache(maxsize=1024)
def aggregate(limit: Limit) -> Limit:
    """The limit that all /64s of an IPv6 /56 share if each has ``limit``."""
    return replace(
        limit,
        name=f"{limit.name}-prefix",
        amount=min(limit.amount * AGGREGATE_FACTOR, limit.period_s * US_PER_S),
        burst=min(limit.burst * AGGREGATE_FACTOR, LONGEST_TAU_US // limit.unit_us),
    )


@lru_cache(maxsize=1024)
def of_preflights(limit: Limit) -> Limit:
    """The limit of preflights under a rule with ``limit``: the same, in a bucket of its own."""
    return replace(limit, name=f"{limit.name}-preflight")


@lru_cache(maxsize=1024)
def share(limit: Limit, workers: int, cost: int = 1) -> Limit:
    """One worker's share of a limit while each of ``workers`` keeps its own bucket: 1/workers of rate and burst.

    The time to fill is unchanged, so a TAT means the same share of the bucket for any number of workers, and the
    remainder of a divided burst is kept as time. It is longer only if a charge of ``cost``, which fits into the whole
    burst, would otherwise not fit into the share. **Promise:** in any span D, all workers together admit at most the
    larger of burst and workers * cost, plus rate * D.
    """
    cost = max(cost, 1)
    # A share that would take more than 250 years to fill is made larger.
    workers = min(workers, LONGEST_TAU_US // (cost * limit.unit_us))
    unit_us = limit.unit_us * workers
    tau_us = max(limit.tau_us, cost * unit_us)
    shared = replace(limit, period_s=limit.period_s * workers, burst=tau_us // unit_us)
    object.__setattr__(shared, "unit_us", unit_us)
    object.__setattr__(shared, "tau_us", tau_us)
    return shared
