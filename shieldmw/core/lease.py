"""A lease: charges prefetched from the store, spent here without a call. Pure; exact, since it cannot outlive its use.

The store's TAT already includes the whole lease: it is at the *ceiling*. What has really been spent is the TAT that the
store would have without the lease. That TAT is kept here and moved by GCRA's own rule, ``max(tat, now) + step``; a
request fits while it stays at or below the ceiling. So the store's TAT is never earlier than the true one, whatever
other workers add to it, and the bucket's promise holds to the unit. An idle lease shrinks as the bucket refills.

If the next charge behind the lease is its own worker's, it moves both TATs, as if it had been charged first. Then the
ceiling is the store's TAT again, and what is unspent can still be given back.
"""

from __future__ import annotations

from typing import NamedTuple

from .bucket import Charge, Charges, Outcome
from .made import made


class Unspent(NamedTuple):
    """What may be given back to one bucket: ``give_us`` of its TAT, if that is still exactly ``ceiling_us``.

    Otherwise another worker has charged the bucket since, and may hold a lease behind this one that relies on it.
    """

    charge: Charge
    ceiling_us: int
    give_us: int


class Lease:
    """Prefetched charges that are not spent yet. ``opened_us`` is when they were fetched.

    ``shift_us`` converts the store's times into the spender's: it is at most the spender's clock minus the store's. A
    value that is too small makes the lease end too early, which is safe; one that is too large would let too much pass.
    """

    __slots__ = ("_shift_us", "_steps", "_tats_us", "charges", "opened_us")

    def __init__(self, charges: Charges, outcome: Outcome, shift_us: int = 0, opened_us: int = 0) -> None:
        self.charges = charges
        self.opened_us = opened_us
        self._shift_us = shift_us
        ceilings_us = [tat_us + shift_us for tat_us in outcome.tats_us]
        steps_us = [charge.step_us for charge in charges]
        self._steps = tuple(zip(range(len(charges)), ceilings_us, steps_us, strict=True))
        self._tats_us = tuple([tat_us + shift_us for tat_us in without_lease(charges, outcome).tats_us])

    def spend(self, now_us: int) -> Outcome | None:
        """Spend the charges once, by the spender's clock; None if less than that is left."""
        if len(self._steps) == 1:  # the same in half the time, for each request of a hot client
            ((_, ceiling_us, step_us),), (tat_us,) = self._steps, self._tats_us
            new_us = (tat_us if tat_us > now_us else now_us) + step_us
            if new_us > ceiling_us:
                return None
            self._tats_us = (new_us,)
            return made(Outcome, (True, now_us, self._tats_us, 0, 0))
        tats_us = []
        for at, ceiling_us, step_us in self._steps:
            tat_us = self._tats_us[at]
            new_us = (tat_us if tat_us > now_us else now_us) + step_us
            if new_us > ceiling_us:
                return None
            tats_us.append(new_us)
        self._tats_us = tuple(tats_us)
        return made(Outcome, (True, now_us, self._tats_us, 0, 0))

    def look(self, now_us: int) -> Outcome | None:
        """What ``spend`` would return, with the TATs as they are; spends nothing."""
        tats_us = self._tats_us
        outcome = self.spend(now_us)
        self._tats_us = tats_us
        return None if outcome is None else outcome._replace(tats_us=tats_us)

    def absorb(self, outcome: Outcome) -> None:
        """Absorb the same charges, which the store allowed behind the lease, as if they had been made before it.

        Only in buckets whose TAT is exactly one step above the ceiling, so that nobody else charged them in between. An
        outcome from before the lease is never that far ahead. Spends in between count as earlier, which makes the TAT
        later by at most the time that the answer took.
        """
        if not outcome.allowed:
            return
        now_us = outcome.now_us + self._shift_us
        steps, tats_us = [], []
        for (at, ceiling_us, step_us), tat_us, stored_us in zip(
            self._steps, self._tats_us, outcome.tats_us, strict=True
        ):
            is_next = stored_us + self._shift_us == ceiling_us + step_us
            steps.append((at, ceiling_us + step_us if is_next else ceiling_us, step_us))
            tats_us.append(max(tat_us, now_us) + step_us if is_next else tat_us)
        self._steps, self._tats_us = tuple(steps), tuple(tats_us)

    def unspent(self, now_us: int) -> tuple[Unspent, ...]:
        """What can be given back of each bucket."""
        return tuple(
            Unspent(charge, ceiling_us - self._shift_us, ceiling_us - max(tat_us, now_us))
            for charge, (_, ceiling_us, _), tat_us in zip(self.charges, self._steps, self._tats_us, strict=True)
            if ceiling_us > max(tat_us, now_us)
        )


def without_lease(charges: Charges, outcome: Outcome) -> Outcome:
    """The outcome as if nothing had been prefetched."""
    if not outcome.leased:
        return outcome
    tats_us = [
        tat_us - outcome.leased * charge.step_us for tat_us, charge in zip(outcome.tats_us, charges, strict=True)
    ]
    return Outcome(outcome.allowed, outcome.now_us, tuple(tats_us))
