"""The effects of an emergency on the audience, in figures, and the promises about them. Pure.

It knows only the records of listeners, and when the switch was flipped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from shieldmw.rehearsal.load.audience import Audience, Stay
from shieldmw.rehearsal.load.verdict import Promise

OPERATOR_HEARD_WITHIN_S: Final = 1.0
OBEDIENCE_WITHIN_S: Final = 1.0
GUESTS_GONE_WITHIN_S: Final = 12.0

# Tolerance: workers and this drill end the emergency by clocks of their own.
_CLOCKS_DIFFER_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Roles:
    """The names of the groups by role."""

    members: str
    new_members: str
    guests: str


@dataclass(frozen=True, slots=True)
class Moments:
    """Times on one monotonic clock. The switch was flipped between ``asked_s`` and ``answered_s``: a worker may obey
    before the operator has the answer, so the audience is judged from the former and propagation is measured from the
    latter."""

    asked_s: float
    answered_s: float
    ends_s: float
    over_s: float


@dataclass(frozen=True, slots=True)
class Members:
    """Members listening when the switch was flipped, how many of them never stopped, and the lines they missed."""

    before: int
    kept: int
    lines_missed: int


@dataclass(frozen=True, slots=True)
class Guests:
    """Guests' streams in the emergency, and how long after the flip the first and the last ended."""

    streams: int
    gone: int
    told_why: int
    first_gone_s: float | None
    last_gone_s: float | None


@dataclass(frozen=True, slots=True)
class Door:
    """Answers to guests who tried to get in during the emergency."""

    answers: Mapping[int, int]
    named_recording: int

    @property
    def knocks(self) -> int:
        """The number of all answers."""
        return sum(self.answers.values())


@dataclass(frozen=True, slots=True)
class Return:
    """Whether the emergency ended by itself, how many guests got back in, and how soon the first did."""

    ended: bool
    guests_back: int
    first_back_s: float | None


@dataclass(frozen=True, slots=True)
class Cut:
    """The whole cut. ``shares`` are parts (0..1) of the requests that reached the app."""

    flip_took_s: float
    """Time until the operator had the answer."""
    obeyed_after_s: float | None
    workers: int
    members: Members
    newcomers: tuple[int, int]
    """Members who came in the emergency, and how many of them got in."""
    guests: Guests
    door: Door
    back: Return
    present: Mapping[str, tuple[int, int, int]]
    """Listeners of each group at the flip, at the end of the emergency and at the end of the act."""
    shares: tuple[float | None, float | None]
    """The attacker's shares, in the attack before the flip and in the emergency."""


def members_in(audience: Audience, group: str, when: Moments) -> Members:
    """Members; one is kept if it held the same stream from the flip to the end of the act."""
    at_flip = [stay for stay in audience.stays(group, when.asked_s, when.over_s) if stay.at(when.asked_s)]
    kept = [stay for stay in at_flip if stay.lasted(when.asked_s, when.over_s)]
    return Members(len(at_flip), len(kept), sum(audience.missed(stay) for stay in kept))


def newcomers_in(audience: Audience, group: str, when: Moments) -> tuple[int, int]:
    """The number of new members before the end of the emergency, and of those who got in by then."""
    came = [one for one in audience.of(group) if one.came_s is not None and one.came_s < when.ends_s]
    return len(came), sum(any(stay.began_s < when.ends_s for stay in one.stays) for one in came)


def guests_in(audience: Audience, group: str, when: Moments) -> Guests:
    """Every stream that a guest had in the emergency, including those that slipped in."""
    streams = list(audience.stays(group, when.asked_s, when.ends_s - _CLOCKS_DIFFER_S))
    gone = [stay for stay in streams if _ended_before(stay, when.ends_s)]
    after = [stay.ended_s - when.asked_s for stay in gone if stay.ended_s is not None]
    told = sum(stay.told_why for stay in gone)
    return Guests(len(streams), len(gone), told, min(after, default=None), max(after, default=None))


def door_in(audience: Audience, group: str, when: Moments) -> Door:
    """Answers to guests between the flip and the end of the emergency."""
    refusals = [
        refusal
        for listener in audience.of(group)
        for refusal in listener.refusals
        if when.asked_s < refusal.at_s < when.ends_s
    ]
    answers = Counter(refusal.status for refusal in refusals)
    return Door(dict(answers), sum(refusal.names_recording for refusal in refusals))


def return_of(audience: Audience, group: str, when: Moments, *, ended: bool) -> Return:
    """Guests who were admitted again once the emergency was over."""
    back = [
        stay.began_s - when.ends_s
        for stay in audience.stays(group, when.ends_s, when.over_s)
        if stay.began_s >= when.ends_s - _CLOCKS_DIFFER_S
    ]
    first_s = max(0.0, min(back)) if back else None
    return Return(ended, len(back), first_s)


def present_in(audience: Audience, when: Moments) -> dict[str, tuple[int, int, int]]:
    """Listeners of each group at the three moments."""
    return {
        group: (
            audience.present(group, when.asked_s),
            audience.present(group, when.ends_s - _CLOCKS_DIFFER_S),
            audience.present(group, when.over_s),
        )
        for group in audience.groups()
    }


def share(name: str, before: Mapping[str, int], after: Mapping[str, int]) -> float | None:
    """A group's part of what was let through between two snapshots; None if nothing was."""
    passed = {group: after[group] - before.get(group, 0) for group in after}
    total = sum(passed.values())
    return passed[name] / total if total else None


def promises(cut: Cut) -> Iterable[Promise]:
    """The promises about the switch."""
    words = f"the operator's PUT /mode was answered after {cut.flip_took_s:.2f} s"
    words += f" (promised: within {OPERATOR_HEARD_WITHIN_S:g} s)"
    yield Promise(cut.flip_took_s <= OPERATOR_HEARD_WITHIN_S, words)
    yield _propagation(cut)
    yield _members_kept(cut.members)
    came, entered = cut.newcomers
    words = f"{entered} of {came} members who came during the emergency got in"
    yield Promise(0 < came == entered, words)
    yield _guests_gone(cut.guests)
    yield _door(cut.door)
    yield _ended(cut.back)


def _propagation(cut: Cut) -> Promise:
    promised = f"promised: within {OBEDIENCE_WITHIN_S:g} s"
    after_s = cut.obeyed_after_s
    if after_s is None:
        return Promise(False, f"not every one of {cut.workers} workers was seen to obey the switch ({promised})")
    words = f"the last of {cut.workers} workers obeyed {after_s:.2f} s after the switch was flipped ({promised})"
    return Promise(after_s <= OBEDIENCE_WITHIN_S, words)


def _members_kept(members: Members) -> Promise:
    words = f"{members.kept} of {members.before} members kept their stream to the end"
    words += f", and missed {members.lines_missed or 'not one'} of its lines (promised: all, none)"
    return Promise(0 < members.before == members.kept and not members.lines_missed, words)


def _guests_gone(guests: Guests) -> Promise:
    if guests.last_gone_s is None:
        return Promise(False, f"no guest left, of {guests.streams}")
    words = f"{guests.gone} of {guests.streams} guests were let go, from {guests.first_gone_s:.1f}"
    words += f" to {guests.last_gone_s:.1f} s after the flip, and {guests.told_why} told why"
    kept = guests.streams == guests.gone == guests.told_why and guests.last_gone_s <= GUESTS_GONE_WITHIN_S
    return Promise(kept, f"{words} (promised: all of them, within {GUESTS_GONE_WITHIN_S:g} s)")


def _door(door: Door) -> Promise:
    words = f"{door.answers.get(503, 0)} of {door.knocks} knocks of guests were answered 503"
    kept = 0 < door.knocks == door.answers.get(503, 0) == door.named_recording
    return Promise(kept, f"{words}, {door.named_recording} with the recording's address (promised: all)")


def _ended(back: Return) -> Promise:
    if not back.ended:
        return Promise(False, "the emergency had not ended by the end of the act")
    if back.first_back_s is None:
        return Promise(False, "the emergency ended, but no guest got back in")
    words = f"the emergency ended by itself, and {back.guests_back} guests got back in"
    return Promise(True, f"{words}, the first {back.first_back_s:.1f} s after")


def _ended_before(stay: Stay, at_s: float) -> bool:
    return stay.ended_s is not None and stay.ended_s <= at_s
