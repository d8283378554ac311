"""Leases: charges are prefetched for a hot client, so that most of its requests need no call.

Whoever asks the store twice within a tenth of a second is hot, and is charged ahead for about what it spends in
that time. What is left of a lease after half a second is given back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from shieldmw.core.bucket import Charge, Charges
from shieldmw.core.lease import Lease, Unspent
from shieldmw.core.limits import AGGREGATE_FACTOR
from shieldmw.errors import StoreError
from shieldmw.gate import clock
from shieldmw.gate.refresher import Refresher

from .batch import TakeReply
from .client_state import ClientState

HOT_US = 100_000
FIRST_PREFETCH = 8
MOST_PREFETCH = 1024

# A lease shrinks while its bucket refills (core/lease.py): it is long enough to last as long as this.
LASTS_US = 100_000

# Clients charged ahead at once; the others ask for each request.
MOST_LEASES = 4096

OLD_US = 500_000
SWEEP_S = 0.25

GIVE_BACK_AT_ONCE = 256


class Leases:
    """Opens, spends and gives back leases."""

    def __init__(
        self,
        give_back: Callable[[Sequence[Unspent]], Awaitable[None]],
        *,
        most: int = MOST_LEASES,
        now_us: Callable[[], int] = clock.now_us,
    ) -> None:
        self._give_back = give_back
        self._most = most
        self._now_us = now_us
        self._open: dict[ClientState, None] = {}
        self._asking = 0
        self._sweeper = Refresher("leases", self.sweep, interval_s=SWEEP_S, least_s=SWEEP_S / 2)

    def __len__(self) -> int:
        return len(self._open)

    def exhausted(self, client_state: ClientState, now_us: int) -> None:
        """Close a lease that has too little left for the current request."""
        client_state.asked_us = now_us
        self._close(client_state)

    def prefetch(self, client_state: ClientState, now_us: int) -> int:
        """How many times more the next call should take the charges; its end must be reported (``answered``).

        0 for a client that is not hot. While one request asks for a lease the client's others ask for themselves alone.
        """
        hot = now_us - client_state.asked_us <= HOT_US
        client_state.asked_us = now_us
        if not hot:
            client_state.prefetch = 0
            return 0
        full = len(self._open) + self._asking >= self._most
        if full or client_state.asking or client_state.lease is not None or not _of_one_pace(client_state.charges):
            return 0
        if now_us - client_state.opened_us <= HOT_US:
            client_state.prefetch *= 2
        client_state.prefetch = min(max(FIRST_PREFETCH, client_state.prefetch), MOST_PREFETCH)
        client_state.asking = True
        self._asking += 1
        return client_state.prefetch + max(_while_refilling(charge) for charge in client_state.charges)

    def answered(self, client_state: ClientState, told: TakeReply | None) -> None:
        """The call that asked for a prefetch has ended; None if its reply must not be used."""
        client_state.asking = False
        self._asking -= 1
        if told is None or told.sent_us is None or not told.outcome.leased:
            return
        client_state.lease = Lease(client_state.charges, told.outcome, told.sent_us - told.outcome.now_us)
        client_state.opened_us = told.sent_us
        self._open[client_state] = None

    def clear(self) -> None:
        """Forget all leases, because buckets were reset."""
        for client_state in list(self._open):
            self._close(client_state)

    async def sweep(self) -> None:
        """Give back what old leases still hold."""
        until_us = self._now_us() - OLD_US
        await self._end([client_state for client_state in self._open if client_state.opened_us <= until_us])

    async def start(self) -> None:
        """Sweep in the background."""
        await self._sweeper.start(first_s=1.0)

    async def stop(self) -> None:
        """Stop sweeping."""
        await self._sweeper.stop()

    async def give_all_back(self) -> None:
        """Give everything back; if the store is away, the buckets refill by themselves."""
        with suppress(StoreError):
            await self._end(list(self._open))

    async def _end(self, client_states: Sequence[ClientState]) -> None:
        now_us = self._now_us()
        unspent: list[Unspent] = []
        for client_state in client_states:
            if client_state.lease is not None:
                unspent += client_state.lease.unspent(now_us)
                client_state.prefetch //= 2
            self._close(client_state)
        for start in range(0, len(unspent), GIVE_BACK_AT_ONCE):
            await self._give_back(unspent[start : start + GIVE_BACK_AT_ONCE])

    def _close(self, client_state: ClientState) -> None:
        client_state.lease = None
        self._open.pop(client_state, None)


def _of_one_pace(charges: Charges) -> bool:
    """Whether the buckets refill at a similar rate: otherwise the slow one would be charged for units never spent."""
    steps_us = [charge.step_us for charge in charges if charge.cost]
    return bool(steps_us) and max(steps_us) <= AGGREGATE_FACTOR * min(steps_us)


def _while_refilling(charge: Charge) -> int:
    """How many units of the charge's bucket refill while a lease lasts."""
    return LASTS_US // charge.step_us if charge.step_us else 0
