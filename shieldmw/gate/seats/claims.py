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

# Maximum number of renewals in a message, and of copies that ask. Any beyond that are not claimed.
MOST_AT_ONCE = 512

# Approximate renewals that a worker claims in a second. If there are more, tickets take turns.
CLAIMS_PER_S = 32

# Maximum number of barred copies remembered, for how long (in longest leases), and how many one message announces.
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

    ``number_of`` hashes a text to 64 bits, the same on every worker. ``longest_s`` is the longest lease of any path, in
    seconds. Unless ``bars``, a ticket is only counted once, and its copies are not barred.
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
        """Claim the renewal of ``ticket`` to ``to`` in the next message; its seat counts from ``from_s`` on (0: now).

        ``is_counted`` is False if the renewal repeats one whose seat is counted already.
        """
        is_claimed = self._is_claimed(self._number_of(ticket.id), lease_s, now_s)
        if len(self._renewals) >= MOST_AT_ONCE or not is_claimed:
            return
        claim = Claim(self._digest(ticket, lease_s), int(now_s), lease_s, to.leased_until_s)
        copies = self._copy(ticket, lease_s), self._copy(to, lease_s)
        self._renewals.append(_Renewal(claim, ticket.listener_class, from_s, copies, is_counted))
        self.refresher.refresh_soon()

    def _is_claimed(self, number: int, lease_s: int, now_s: float) -> bool:
        """Whether a ticket's renewals are claimed now.

        In a large audience only a part of all tickets is: the same part on every worker, another in the next slot.
        """
        grant = self._seats.grant
        if grant is None:
            return True
        # A lease is renewed in its last third, by a poll somewhere in there.
        in_a_second = grant.leased.total * 6 // (5 * lease_s)
        parts = 1 << (in_a_second // (CLAIMS_PER_S * self._seats.workers)).bit_length()
        return (number - claim_slot(now_s, lease_s)) % parts == 0

    def is_barred(self, ticket: Ticket, lease_s: int) -> bool:
        """Whether this copy of a ticket must not be renewed to a lease of this length."""
        until_s = self._barred.get(self._copy(ticket, lease_s)) if len(self._barred) else None
        return until_s is not None and until_s > self._seats.now_s()

    def asks(self, ticket: Ticket, lease_s: int, now_s: float) -> None:
        """Ask in the background whether a barred copy may be renewed by now."""
        if len(self._asking) < MOST_AT_ONCE:
            claim = Claim(self._digest(ticket, lease_s), int(now_s), lease_s, 0, ticket.renewal)
            self._asking[self._copy(ticket, lease_s)] = claim
            self.refresher.refresh_soon()

    def _digest(self, ticket: Ticket, lease_s: int) -> bytes:
        """The key under which renewals of a ticket are counted.

        Each lease length has its own: otherwise a ticket would get another long lease, and another seat, in each round
        of its short ones.
        """
        return self._number_of(f"{ticket.id} {lease_s}").to_bytes(8, "big")

    def _copy(self, ticket: Ticket, lease_s: int) -> int:
        return self._number_of(f"{ticket.id} {ticket.renewal} {lease_s}")

    async def refresh(self) -> None:
        """Claim the renewals since the last call, and announce copies barred or freed.

        While the store is away nothing is claimed or barred.
        """
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
        """Correct this worker's count, so that each ticket counts once; yields the copies to bar, as in a message."""
        leases = self._seats.ledger.leases
        for (claim, name, from_s, copies, is_counted), (rank, until_s) in zip(renewals, ranked, strict=False):
            if rank > 1 and is_counted:
                leases.recount(name, from_s, claim.until_s, until_s)
            if rank > MOST_RENEWALS and self._bars:
                yield from (f"{_BARRED}{copy:x}" for copy in copies)

    def _answered(self, asking: Iterable[int], ranked: Iterable[Ranked]) -> Iterator[str]:
        """Yield the copies to free, and those whose bar must be announced again before it expires, as in a message."""
        soon_s = self._seats.now_s() + self._longest_s
        for copy, (rank, _) in zip(asking, ranked, strict=True):
            if rank <= MOST_RENEWALS:
                yield f"{_FREED}{copy:x}"
            elif (self._barred.get(copy) or 0.0) < soon_s:
                yield f"{_BARRED}{copy:x}"

    def heard(self, change: str) -> None:
        """Apply the bars that another worker has announced. Everything after the first malformed entry is ignored."""
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
