"""Counts the renewals of each ticket in the whole fleet. ``ClaimTable`` is the reference for ``claim.lua``. Pure.

They are counted in *rounds* of two thirds of a lease. A player renews its lease in the last third, so its ticket is
renewed once in each round. Further renewals in a round come from the same player, if it polls several playlists at once
or an answer was lost, or from other players that have a copy of its ticket.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

# The renewals of a ticket in one round that go on: the first, which is counted as a seat, and one more.
MOST_RENEWALS = 2

# Tickets that the fleet remembers in one slot of time, and in the next one: two such slots take 60 MB of the store.
MOST_TICKETS = 262_144

# A ticket without permission to renew asks for it in this last part of its lease: by then, others have renewed theirs.
ASKS_IN = 6


# Longest leases in a slot of time: a ticket that is renewed is then found there, or in the slot before.
LEASES_IN_SLOT = 2


def claim_slot_s(longest_s: int) -> int:
    """The length of a slot of time, in seconds."""
    return LEASES_IN_SLOT * max(1, longest_s)


def claim_slot(now_s: float, longest_s: int) -> int:
    """The number of the slot that a time is in."""
    return int(now_s // claim_slot_s(longest_s))


class Claim(NamedTuple):
    """One renewal: when, for how long, until when. ``digest``: 8 bytes for the ticket and the length of its lease.

    ``until_s`` 0: nothing was renewed, but a copy asks whether it may be, the one with this ``copy`` number (32 bits).
    All times are the store's, in whole seconds.
    """

    digest: bytes
    at_s: int
    lease_s: int
    until_s: int
    copy: int = 0


class Ranked(NamedTuple):
    """Which renewal of its round it is, from 1, and until when the ones before it hold the ticket's seat.

    For a copy that asks, 1 is yes; beyond ``MOST_RENEWALS`` is no.
    """

    rank: int
    until_s: int


@dataclass(slots=True)
class _Round:
    """The last round of a ticket: when it began, with a lease of which length; its seat is held ``until_s``.

    ``let``: the copy that asked and was let, which may ask again.
    """

    began_s: int
    lease_s: int
    until_s: int
    count: int
    let: int = 0


class ClaimTable:
    """Counts the renewals of tickets in rounds. ``slot`` is the number of a span of time longer than a lease.

    What was not renewed in a slot or the one before it is forgotten.
    """

    def __init__(self, most_tickets: int = MOST_TICKETS) -> None:
        self._most_tickets = most_tickets
        self._slots: dict[int, dict[bytes, _Round]] = {}

    def claim(self, slot: int, claims: Sequence[Claim]) -> list[Ranked]:
        """Count renewals, one after the other."""
        self._slots = {number: rounds for number, rounds in self._slots.items() if abs(number - slot) <= 1}
        return [self._ranked(slot, claim) for claim in claims]

    def _ranked(self, slot: int, claim: Claim) -> Ranked:
        rounds = self._slots.setdefault(slot, {})
        known = rounds.get(claim.digest) or self._slots.get(slot - 1, {}).get(claim.digest)
        if claim.digest not in rounds and len(rounds) >= self._most_tickets:
            return Ranked(1, 0)
        last_s = 0 if known is None else known.until_s
        if claim.until_s == 0:
            is_let = known is not None and known.count == 0 and known.let == claim.copy
            if ASKS_IN * (last_s - claim.at_s) > claim.lease_s and not is_let:
                return Ranked(MOST_RENEWALS + 1, last_s)
            # Its seat is held for it, and for no other that asks.
            rounds[claim.digest] = _Round(claim.at_s, claim.lease_s, claim.at_s + claim.lease_s, 0, claim.copy)
            return Ranked(1, last_s)
        # Times are whole seconds, so two thirds may look like a second less.
        if known is None or 3 * (claim.at_s - known.began_s + 1) >= 2 * known.lease_s:
            known = _Round(claim.at_s, claim.lease_s, last_s, 0)
        count = known.count + 1
        held_s = max(last_s, claim.until_s) if count <= MOST_RENEWALS else last_s
        rounds[claim.digest] = _Round(known.began_s, known.lease_s, held_s, count)
        return Ranked(count, last_s)
