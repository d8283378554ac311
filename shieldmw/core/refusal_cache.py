"""Prepared refusals: clients of one plan that must wait about equally long share one, rendered as JSON once. Pure.

Most requests of a flood are answered with one of these.
"""

from __future__ import annotations

from collections.abc import Sequence

from .bucket import Outcome, Term
from .cache import BoundedCache
from .client import Address, Identity
from .decision import REFUSED, Decision, combine
from .made import made
from .mode import Mode

# Maximum refusals kept per plan; fewer if it has several limits, since such plans are many, and a refusal is kilobytes.
DECISIONS_KEPT = 512
DECISIONS_OF_SEVERAL = 32

# Upper bound of the step by which a wait is rounded up; a tenth of the time to refill one unit if that is less.
LONGEST_GRAIN_US = 250_000


class RefusalCache:
    """The refusals of one plan, by how long its buckets take to fill, in grains."""

    __slots__ = ("_decisions", "_grains_us", "_live", "_mode", "_terms")

    def __init__(self, terms: Sequence[Term], mode: Mode, *, live: bool) -> None:
        self._terms = terms
        self._mode = mode
        self._live = live
        self._grains_us = [max(1, min(LONGEST_GRAIN_US, term.limit.unit_us // 10)) for term in terms]
        self._decisions: BoundedCache[object, Decision] = BoundedCache(
            DECISIONS_KEPT if len(terms) == 1 else DECISIONS_OF_SEVERAL
        )

    def decision(self, outcome: Outcome, address: Address | None, identity: Identity | None) -> Decision:
        """The refusal of a client. Its waits are rounded up, by at most one grain."""
        key: object
        if len(self._grains_us) == 1:
            key = -((outcome.now_us - outcome.tats_us[0]) // self._grains_us[0])
        else:
            key = self._full_after_us(outcome)
        shared = self._decisions.young.get(key) or self._decisions.get(key)
        if shared is None:
            in_grains = Outcome(False, 0, self._full_after_us(outcome))
            shared = combine(self._terms, in_grains, None, None, self._mode, self._live)
            self._decisions.put(key, shared)
        _, reason, _, _, terms, rounded, wait_us, mode, live, _, _, rendered, _ = shared
        return made(
            Decision, (REFUSED, reason, address, identity, terms, rounded, wait_us, mode, live, None, None, rendered, 0)
        )

    def _full_after_us(self, outcome: Outcome) -> tuple[int, ...]:
        """The time that each bucket takes to fill, in whole grains: rounded up if it refuses, and down if it does
        not."""
        full_after_us = []
        for (_, limit, cost), grain_us, tat_us in zip(self._terms, self._grains_us, outcome.tats_us, strict=True):
            exact_us = tat_us - outcome.now_us
            refuses = cost and exact_us + cost * limit.unit_us > limit.tau_us
            grains = -(-exact_us // grain_us) if refuses else exact_us // grain_us
            full_after_us.append(grains * grain_us)
        return tuple(full_after_us)
