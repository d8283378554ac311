"""Portions of a bucket that many clients share: a worker takes several units at once, and spends them here. Pure.

Each unit occupies ``unit_us`` of the bucket's timeline. The store grants a worker the units between two TATs, a
*piece* that nobody else gets. A unit is spent only while it begins in the future, the rule of a lease (``lease``): so
those spent in any span D occupy distinct units within D + tau, and that is the bucket's promise, over all workers to
the unit. An idle piece shrinks as the bucket refills.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from .bucket import Charge, counted_us
from .lease import Unspent
from .limits import US_PER_S, Limit

# How long a portion should last, and the shortest interval between two calls for an empty bucket.
AHEAD_US = 20_000

# By how much the waits of refused requests are spread at most, when many more are refused than units refill. A client
# that ignores its waits takes turn after turn: this is how far it can push those of the others.
LONGEST_SPREAD_US = 15 * US_PER_S

# A time before any time on any clock, in microseconds.
LONG_AGO_US = -1_000_000_000


class PortionRequest(NamedTuple):
    """A worker's request to a shared bucket: ``want`` units, or as many as it holds, but none if below ``least``.

    The charge names the bucket; its cost does not matter.
    """

    charge: Charge
    want: int
    least: int = 1


class Portion(NamedTuple):
    """The units that were granted, and the TAT of the bucket afterwards."""

    now_us: int
    units: int
    tat_us: int


def grant(stored_us: int | None, limit: Limit, want: int, least: int, now_us: int) -> Portion:
    """Decide a request for a portion against the stored TAT. ``store/lua/portion.lua`` is its twin."""
    tau_us, unit_us = limit.tau_us, limit.unit_us
    old_us = counted_us(stored_us, tau_us, now_us)
    units = min(want, (now_us + tau_us - old_us) // unit_us)
    if units < least:
        return Portion(now_us, 0, old_us)
    return Portion(now_us, units, old_us + units * unit_us)


class Piece:
    """Consecutive units, by the spender's clock: those between ``tat_us`` and ``ceiling_us`` are unspent.

    ``shift_us`` is the spender's clock minus the store's, or less (see ``lease.Lease``).
    """

    __slots__ = ("ceiling_us", "shift_us", "tat_us")

    def __init__(self, tat_us: int, ceiling_us: int, shift_us: int) -> None:
        self.tat_us = tat_us
        self.ceiling_us = ceiling_us
        self.shift_us = shift_us


# Maximum number of pieces held, since traversing them takes time. Units refunded beyond that are lost, unless they
# adjoin a piece, as they do if requests are refunded in the order in which they came, or in reverse.
MOST_PIECES = 32

# Spent units: each piece that some of them come from, with its TATs before and after. The last TAT is the bucket's.
Spent = tuple[tuple[Piece, int, int], ...]


class HeldUnits:
    """The units of one bucket that this worker holds. ``spent`` counts those spent since ``take_spent``."""

    __slots__ = ("_pieces", "_unit_us", "spent")

    def __init__(self, limit: Limit) -> None:
        self.spent = 0
        self._unit_us = limit.unit_us
        self._pieces: deque[Piece] = deque()

    def add(self, portion: Portion, shift_us: int) -> None:
        """Add what was granted."""
        ceiling_us = portion.tat_us + shift_us
        start_us = ceiling_us - portion.units * self._unit_us
        last = self._pieces[-1] if self._pieces else None
        if last is not None and last.ceiling_us - last.shift_us == start_us - shift_us:
            last.ceiling_us += portion.units * self._unit_us  # nobody charged the bucket in between
        elif portion.units:
            self._pieces.append(Piece(start_us, ceiling_us, shift_us))

    def spend(self, cost: int, now_us: int) -> int:
        """Spend units of one piece, by the spender's clock; returns the TAT after them.

        Returns 0 if there are too few, or only in several pieces, which ``take`` can spend as well.
        """
        pieces, step_us = self._pieces, cost * self._unit_us
        while pieces:
            piece = pieces[0]
            tat_us = piece.tat_us
            new_us = (tat_us if tat_us > now_us else now_us) + step_us
            if new_us <= piece.ceiling_us:
                piece.tat_us = new_us
                self.spent += cost
                return new_us
            if cost > 1 and self._units_of(piece, now_us):
                return 0
            pieces.popleft()
        return 0

    def undo(self, cost: int) -> None:
        """Undo ``spend``; to be called right after it."""
        self._pieces[0].tat_us -= cost * self._unit_us
        self.spent -= cost

    def take(self, cost: int, now_us: int) -> Spent:
        """Spend units, of several pieces if need be; returns what a refund needs, empty if there are too few."""
        if self.units(now_us) < cost:
            return ()
        self.spent += cost
        spent: Spent = ()
        while cost:
            piece = self._pieces[0]
            units = min(cost, self._units_of(piece, now_us))
            if units:
                start_us = max(piece.tat_us, now_us)
                piece.tat_us = start_us + units * self._unit_us
                spent += ((piece, start_us, piece.tat_us),)
                cost -= units
            else:
                self._pieces.popleft()
        return spent

    def refund(self, spent: Spent) -> None:
        """Put spent units back, since the request was not admitted after all."""
        for piece, start_us, end_us in spent:
            self.spent = max(0, self.spent - (end_us - start_us) // self._unit_us)
            if piece.tat_us == end_us:
                piece.tat_us = start_us
                if piece not in self._pieces:
                    self._put_back(piece)
            else:
                self._put_back(Piece(start_us, end_us, piece.shift_us))

    def _put_back(self, piece: Piece) -> None:
        """Put a piece in front, or merge it with the pieces that it adjoins.

        A piece that was merged into another is empty: a later refund of its units makes a piece of its own.
        """
        before = after = None
        for other in self._pieces:
            if other.shift_us == piece.shift_us:
                if other.ceiling_us == piece.tat_us:
                    before = other
                elif other.tat_us == piece.ceiling_us:
                    after = other
        if before is not None:
            before.ceiling_us = piece.ceiling_us
            piece.ceiling_us = piece.tat_us
        if after is not None:
            # Keep the later piece, in its place: the end of the last one may be the bucket's TAT (see ``end``).
            first = piece if before is None else before
            after.tat_us = first.tat_us
            first.ceiling_us = first.tat_us
            if before is not None:
                self._pieces.remove(before)
        elif before is None and len(self._pieces) < MOST_PIECES:
            self._pieces.appendleft(piece)

    def take_spent(self) -> int:
        """The number of units spent since the last call."""
        spent, self.spent = self.spent, 0
        return spent

    def units(self, now_us: int) -> int:
        """The number of units left."""
        return sum(self._units_of(piece, now_us) for piece in self._pieces)

    def end(self, charge: Charge, now_us: int) -> Unspent | None:
        """Give up all units; returns those of the last piece, the only ones that may be given back.

        Other workers have charged the bucket behind each of the other pieces.
        """
        unspent = None
        for piece in self._pieces:
            ceiling_us, tat_us = piece.ceiling_us, max(piece.tat_us, now_us)
            unspent = Unspent(charge, ceiling_us - piece.shift_us, ceiling_us - tat_us) if ceiling_us > tat_us else None
            piece.ceiling_us = piece.tat_us  # a refund brings back no more than what was spent
        self._pieces.clear()
        return unspent

    def _units_of(self, piece: Piece, now_us: int) -> int:
        return max(0, piece.ceiling_us - max(piece.tat_us, now_us)) // self._unit_us


class Demand:
    """Measures the units that requests need in ``AHEAD_US``, whether they get them or not."""

    __slots__ = ("_from_us", "_units", "refused")

    def __init__(self) -> None:
        self.refused = 0
        self._from_us = LONG_AGO_US
        self._units = 0

    def measure(self, held: HeldUnits, now_us: int) -> int:
        """The demand as last measured, or more if more has been needed since."""
        since_us = now_us - self._from_us
        if since_us < AHEAD_US:
            return max(self._units, held.spent + self.refused)
        self._units = (held.take_spent() + self.refused) * AHEAD_US // since_us
        self._from_us = now_us
        self.refused = 0
        return self._units


class Turns:
    """Schedules the return of refused requests: one after the other, each after the time its units take to refill.

    ``unit_us`` is the time in which this worker's share of the limit refills one unit.
    """

    __slots__ = ("_next_us", "unit_us")

    def __init__(self, unit_us: int) -> None:
        self.unit_us = unit_us
        self._next_us = LONG_AGO_US

    def next(self, cost: int, free_us: int, now_us: int) -> int:
        """The turn of a request whose units may be free at ``free_us``, at the earliest.

        A later turn is a whole number of seconds from now, so that refusals share an answer.
        """
        turn_us = min(max(free_us, self._next_us), free_us + LONGEST_SPREAD_US)
        self._next_us = min(turn_us + cost * self.unit_us, free_us + LONGEST_SPREAD_US)
        return turn_us if turn_us == free_us else turn_us + (now_us - turn_us) % US_PER_S
