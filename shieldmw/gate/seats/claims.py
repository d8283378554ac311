"""One ticket is one seat in the whole fleet: each worker tells the store of the renewals that it signed, in batches.

Renewals are signed at once, and counted afterwards. The first of a round (see ``core/claims.py``) is counted as a seat
by the worker that signed it; another one only from where the others end. Beyond the second, a copy and what it was
renewed to are *barred* on all workers: no further lease of that length is signed into them. A player with a barred copy
plays until its lease ends. Then, or shortly before, it may ask whether the others have stopped, and goes on if they
have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from shieldmw.core.cache import BoundedCache
from shieldmw.core.claims import MOST_RENEWALS, Claim, Ranked, claim_slot
from shieldmw.core.client import ListenerClass
from shieldmw.core.tickets import Ticket
from shieldmw.gate.refresher import Refresher
from shieldmw.store.port import LeaseRegister

from .seats import Seats

# Longest and shortest interval between two messages to the store; there is none while nothing is renewed.
EVERY_S = 5.0
LEAST_S = 1.0

# Most renewals in a message, and copies that ask. What is beyond is not claimed.
MOST_AT_ONCE = 512

# Renewals that a worker claims in a second, about: where there are more, only those of some tickets, by turns.
CLAIMS_PER_S = 32

# Barred copies that are remembered, for how many of the longest leases, and how many are announced in one message.
BARRED_KEPT = 16_384
BARRED_LEASES = 3
ANNOUNCED_AT_ONCE = 400

COPIES = "copies "

_BARRED, _FREED = "-", "+"


class _Renewal(NamedTuple):
    """A renewal that was signed here, of one copy of a ticket to another; it is counted from ``from_s`` on."""

    claim: Claim
    name: ListenerClass
    from_s: int
    copies: tuple[int, int]
    is_counted: bool


class Claims:
    """Claims renewals, and knows which copies of tickets are barred.

    ``number_of`` makes 64 bits of a text, as if random, the same on every worker. ``longest_s`` is the longest lease of
    any path. ``bars``: whether copies are barred, or only counted once.
    """

    def __init__(
        self,
        register: LeaseRegister,
        seats: Seats,
        number_of: Callable[[str], int],
        longest_s: int,
        *,
        bars: bool = True,
    ) -> None:
        self._register = register
        self._seats = seats
        self._number_of = number_of
        self._longest_s = longest_s
        self._bars = bars
        self._renewals: list[_Renewal] = []
        self._asking: dict[int, Claim] = {}
        self._barred: BoundedCache[int, float] = BoundedCache(BARRED_KEPT)
        self.refresher = Refresher("renewals", self.refresh, interval_s=EVERY_S, least_s=LEAST_S)

    def renewed(
        self, ticket: Ticket, to: Ticket, lease_s: int, now_s: float, *, from_s: int = 0, is_counted: bool = True
    ) -> None:
        """Note that a ticket was renewed here, counted from ``from_s`` on, or not ``is_counted`` a second time."""
        is_claimed = self._is_claimed(self._number_of(ticket.id), lease_s, now_s)
        if len(self._renewals) >= MOST_AT_ONCE or not is_claimed:
            return
        claim = Claim(self._digest(ticket, lease_s), int(now_s), lease_s, to.leased_until_s)
        copies = self._copy(ticket, lease_s), self._copy(to, lease_s)
        self._renewals.append(_Renewal(claim, ticket.listener_class, from_s, copies, is_counted))
        self.refresher.refresh_soon()

    def _is_claimed(self, number: int, lease_s: int, now_s: float) -> bool:
        """Whether a ticket's renewals are claimed now: of a large audience those of a part of all tickets, the same
        ones on every worker, and others in the next slot of time."""
        grant = self._seats.grant
        if grant is None:
            return True
        # A lease is renewed in its last third, by a poll somewhere in there.
        in_a_second = grant.leased.total * 6 // (5 * lease_s)
        parts = 1 << (in_a_second // (CLAIMS_PER_S * self._seats.workers)).bit_length()
        return (number - claim_slot(now_s, lease_s)) % parts == 0

    def is_barred(self, ticket: Ticket, lease_s: int) -> bool:
        """Whether no lease of this length is signed into this copy."""
        until_s = self._barred.get(self._copy(ticket, lease_s)) if len(self._barred) else None
        return until_s is not None and until_s > self._seats.now_s()

    def asks(self, ticket: Ticket, lease_s: int, now_s: float) -> None:
        """Ask in the background whether a barred copy may be renewed by now."""
        if len(self._asking) < MOST_AT_ONCE:
            claim = Claim(self._digest(ticket, lease_s), int(now_s), lease_s, 0, ticket.renewal)
            self._asking[self._copy(ticket, lease_s)] = claim
            self.refresher.refresh_soon()

    def _digest(self, ticket: Ticket, lease_s: int) -> bytes:
        """What renewals of a ticket count under. Each length of lease counts by itself: otherwise a ticket would get a
        further long lease, and another seat, in each round of its short ones."""
        return self._number_of(f"{ticket.id} {lease_s}").to_bytes(8, "big")

    def _copy(self, ticket: Ticket, lease_s: int) -> int:
        return self._number_of(f"{ticket.id} {ticket.renewal} {lease_s}")

    async def refresh(self) -> None:
        """Claim what was renewed since the last time. While the store is away nothing is claimed or barred."""
        self.refresher.least_s = self._seats.pace_s(LEAST_S)
        renewals, self._renewals = self._renewals, []
        asking, self._asking = self._asking, {}
        if not renewals and not asking:
            return
        claims = [*(renewal.claim for renewal in renewals), *asking.values()]
        try:
            ranked = await self._register.claim(claims, self._seats.now_s(), self._longest_s)
        except Exception:
            self._barred.clear()
            raise
        changes = [*self._counted(renewals, ranked), *self._answered(asking, ranked[len(renewals) :])]
        self._apply(changes)
        left = iter(changes)
        while some := list(islice(left, ANNOUNCED_AT_ONCE)):
            await self._register.tell(COPIES + ",".join(some))

    def _counted(self, renewals: Iterable[_Renewal], ranked: Iterable[Ranked]) -> Iterator[str]:
        """Count each ticket once; which copies are to be barred."""
        leases = self._seats.ledger.leases
        for (claim, name, from_s, copies, is_counted), (rank, until_s) in zip(renewals, ranked, strict=False):
            if rank > 1 and is_counted:
                leases.recount(name, from_s, claim.until_s, until_s)
            if rank > MOST_RENEWALS and self._bars:
                yield from (f"{_BARRED}{copy:x}" for copy in copies)

    def _answered(self, asking: Iterable[int], ranked: Iterable[Ranked]) -> Iterator[str]:
        """Which copies that asked may be renewed; the others stay barred, which is announced again in time."""
        soon_s = self._seats.now_s() + self._longest_s
        for copy, (rank, _) in zip(asking, ranked, strict=True):
            if rank <= MOST_RENEWALS:
                yield f"{_FREED}{copy:x}"
            elif (self._barred.get(copy) or 0.0) < soon_s:
                yield f"{_BARRED}{copy:x}"

    def heard(self, change: str) -> None:
        """Take in which copies another worker has barred or freed; none from the point where it is malformed."""
        with suppress(ValueError):
            self._apply(change.removeprefix(COPIES).split(","))

    def _apply(self, changes: Iterable[str]) -> None:
        until_s = self._seats.now_s() + BARRED_LEASES * self._longest_s
        for change in changes:
            copy = int(change[1:], 16)
            if change.startswith(_BARRED):
                self._barred.put(copy, until_s)
            else:
                self._barred.drop(copy)
