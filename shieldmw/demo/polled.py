"""The effects of an emergency on listeners who poll a playlist, in figures, and the promises about them. Pure.

They hold no connection between two polls. Their seats are leases, and share one capacity with the streams.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from shieldmw.demo import cut
from shieldmw.demo.cut import Guests, Members, Moments, Return
from shieldmw.rehearsal.load.audience import Audience
from shieldmw.rehearsal.load.verdict import Promise

# The shortest that there is; at a real event it would be half a minute.
LEASE_S: Final = 6
# As the example's playlist asks for, or a little sooner: a poll must fall in the last third of the lease.
POLL_EACH_S: Final = 1.5
# The cut, and the lease that a guest may still have at its end.
GONE_WITHIN_S: Final = cut.GUESTS_GONE_WITHIN_S + LEASE_S


@dataclass(frozen=True, slots=True)
class Count:
    """The seats of the fleet as its status told them at one moment: all of them, and those that are leases."""

    at_s: float
    seats: int
    leased: int


@dataclass(frozen=True, slots=True)
class Polled:
    """The whole cut, as those saw it who poll. ``refused``: polls of members after the flip. ``counts`` are in order of
    time, ``capacity`` is the emergency's."""

    members: Members
    refused: int
    guests: Guests
    back: Return
    counts: Sequence[Count]
    when: Moments
    capacity: int

    @property
    def most_after_the_cut(self) -> Count | None:
        """The most that were counted from when the cut must be over until the emergency ended; None: not counted."""
        begins_s = self.when.asked_s + GONE_WITHIN_S
        after = (count for count in self.counts if begins_s <= count.at_s < self.when.ends_s)
        return max(after, key=lambda count: count.seats, default=None)


def polled_in(
    audience: Audience, groups: tuple[str, str], when: Moments, counts: Sequence[Count], capacity: int, *, ended: bool
) -> Polled:
    """All figures, of the members and the guests whose ``groups`` these are."""
    members, guests = groups
    return Polled(
        cut.members_in(audience, members, when),
        sum(answer.at_s > when.asked_s for member in audience.of(members) for answer in member.refusals),
        cut.guests_in(audience, guests, when),
        cut.return_of(audience, guests, when, ended=ended),
        counts,
        when,
        capacity,
    )


def promises(polled: Polled) -> Iterable[Promise]:
    """The promises about those who poll."""
    yield _members(polled.members, polled.refused)
    yield _guests(polled.guests)
    yield _counts(polled)
    yield _back(polled.back)


def _members(members: Members, refused: int) -> Promise:
    words = f"polling: {members.kept} of {members.before} members were served at every poll to the end"
    words += f", and {refused or 'not one'} of their polls was refused (promised: all, none)"
    return Promise(0 < members.before == members.kept and not refused, words)


def _guests(guests: Guests) -> Promise:
    if guests.last_gone_s is None:
        return Promise(False, f"polling: no guest lost a seat, of {guests.streams}")
    words = f"polling: {guests.gone} of {guests.streams} guests lost their seat, from {guests.first_gone_s:.1f}"
    words += f" to {guests.last_gone_s:.1f} s after the flip, and {guests.told_why} were told why"
    kept = guests.streams == guests.gone == guests.told_why and guests.last_gone_s <= GONE_WITHIN_S
    promised = f"within {cut.GUESTS_GONE_WITHIN_S:g} s and a lease of {LEASE_S} s"
    return Promise(kept, f"{words} (promised: all of them, {promised})")


def _counts(polled: Polled) -> Promise:
    most = polled.most_after_the_cut
    if most is None:
        return Promise(False, "nobody saw how many seats were counted after the cut")
    words = (
        f"from {GONE_WITHIN_S:g} s after the flip the fleet counted at most {most.seats} seats, {most.leased} of them"
    )
    words += f" leases of those who poll (promised: never above the capacity of {polled.capacity}, streams and leases)"
    return Promise(most.leased > 0 and most.seats <= polled.capacity, words)


def _back(back: Return) -> Promise:
    if back.first_back_s is None:
        return Promise(False, "polling: no guest got a seat again after the emergency")
    words = f"polling: {back.guests_back} guests got a seat again, the first {back.first_back_s:.1f} s after the end"
    return Promise(True, words)
