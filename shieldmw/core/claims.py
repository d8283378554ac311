"""Counts the renewals of each ticket in the whole fleet. ``ClaimTable`` is the reference for ``claim.lua``. Pure.

They are counted in *rounds* of two thirds of a lease. A player renews its lease in the last third, so its ticket is
renewed once in each round. Further renewals in a round come from the same player, if it polls several playlists at once
or an answer was lost, or from other players that have a copy of its ticket.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

# Renewals of a ticket permitted in one round: the first, which is counted as a seat, and one more.
MOST_RENEWALS = 2

# Tickets that the fleet remembers in one slot of time, and in the next one: two such slots take 60 MB of the store.
MOST_TICKETS = 262_144

# A copy without permission to renew may get it in the last 1/ASKS_IN of its lease: by then, other copies have been
# renewed.
ASKS_IN = 6


# Length of a slot, in longest leases: long enough that a ticket still being renewed is in this slot or the last one.
LEASES_IN_SLOT = 2


def claim_slot_s(longest_s: int) -> int:
    """The length of a slot of time, in seconds."""
    return LEASES_IN_SLOT * max(1, longest_s)


def claim_slot(now_s: float, longest_s: int) -> int:
    """The number of the slot that contains ``now_s``."""
    return int(now_s // claim_slot_s(longest_s))


class Claim(NamedTuple):
    """A renewal at ``at_s`` to a lease of ``lease_s`` that ends at ``until_s``, in whole seconds of the store's clock.

    ``digest`` is 8 bytes that identify the ticket and its lease length. If ``until_s`` is 0, nothing was renewed: the
    copy of the ticket with the 32-bit number ``copy`` asks whether it may be renewed.
    """

    digest: bytes
    at_s: int
    lease_s: int
    until_s: int
    copy: int = 0


class Ranked(NamedTuple):
    """The answer to a claim: its ``rank`` in the round, from 1, and until when earlier renewals hold the ticket's seat.

    For a copy that asks, rank 1 means yes, and a rank above ``MOST_RENEWALS`` means no.
    """

    rank: int
    until_s: int


@dataclass(slots=True)
class _Round:
    """The last round of a ticket: its start, the length of its lease, the end of its seat, and its number of renewals.

    ``permitted`` is the copy that asked and got permission, which may ask again; 0 if there is none.
    """

    began_s: int
    lease_s: int
    until_s: int
    count: int
    permitted: int = 0


class ClaimTable:
    """Counts the renewals of tickets in rounds. ``slot`` is the number of a span of time longer than a lease.

    A ticket that was renewed neither in the current slot nor in the one before is forgotten.
    """

    def __init__(self, most_tickets: int = MOST_TICKETS) -> None:
        self._most_tickets = most_tickets
        self._slots: dict[int, dict[bytes, _Round]] = {}

    def claim(self, slot: int, claims: Sequence[Claim]) -> list[Ranked]:
        """Count the renewals in order; returns an answer for each."""
        self._slots = {number: rounds for number, rounds in self._slots.items() if abs(number - slot) <= 1}
        return [self._ranked(slot, claim) for claim in claims]

    def _ranked(self, slot: int, claim: Claim) -> Ranked:
        rounds = self._slots.setdefault(slot, {})
        known = rounds.get(claim.digest) or self._slots.get(slot - 1, {}).get(claim.digest)
        if claim.digest not in rounds and len(rounds) >= self._most_tickets:
            return Ranked(1, 0)
        last_s = 0 if known is None else known.until_s
        if claim.until_s == 0:
            is_permitted = known is not None and known.count == 0 and known.permitted == claim.copy
            if ASKS_IN * (last_s - claim.at_s) > claim.lease_s and not is_permitted:
                return Ranked(MOST_RENEWALS + 1, last_s)
            # The seat is now held for this copy; any other that asks is refused.
            rounds[claim.digest] = _Round(claim.at_s, claim.lease_s, claim.at_s + claim.lease_s, 0, claim.copy)
            return Ranked(1, last_s)
        # Times are whole seconds, so two thirds may look like a second less.
        if known is None or 3 * (claim.at_s - known.began_s + 1) >= 2 * known.lease_s:
            known = _Round(claim.at_s, claim.lease_s, last_s, 0)
        count = known.count + 1
        held_s = max(last_s, claim.until_s) if count <= MOST_RENEWALS else last_s
        rounds[claim.digest] = _Round(known.began_s, known.lease_s, held_s, count)
        return Ranked(count, last_s)
