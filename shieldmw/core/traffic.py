"""Requests by what became of them, in the few groups that an operator thinks in. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from .client import ListenerClass
from .decision import Reason, Verdict
from .metrics import DECISIONS, cell
from .seats import Audience


class Outcome(StrEnum):
    """What became of a request: let in, or why not. ``SENT_AWAY``: by an emergency, for want of a seat, or since the
    store is away or the worker stops."""

    LET_IN = "let_in"
    OVER_LIMIT = "over_limit"
    SENT_AWAY = "sent_away"
    OVERLOAD = "overload"
    DENIED = "denied"


_REFUSED = {
    **dict.fromkeys((Reason.QUOTA, Reason.TOO_MANY_STREAMS, Reason.REPLACED), Outcome.OVER_LIMIT),
    **dict.fromkeys((Reason.EMERGENCY, Reason.NO_SEAT, Reason.STORE_CLOSED, Reason.RESTARTING), Outcome.SENT_AWAY),
    Reason.OVERLOAD: Outcome.OVERLOAD,
    **dict.fromkeys((Reason.DENY_LIST, Reason.CREDENTIAL_ENDED), Outcome.DENIED),
}

# Requests since the start, by outcome and class. None of them ever falls.
Totals = Mapping[Outcome, Audience]


def _outcome(verdict: str, reason: str) -> Outcome:
    if Verdict(verdict) is not Verdict.REFUSED:
        return Outcome.LET_IN
    return _REFUSED[Reason(reason)]


def _cells(outcome: Outcome, name: ListenerClass) -> tuple[int, ...]:
    found = [labels for labels in DECISIONS.series if _outcome(labels[0], labels[1]) is outcome]
    return tuple(cell(DECISIONS, *labels) for labels in found if labels[2] == name)


_CELLS = {outcome: tuple(_cells(outcome, name) for name in ListenerClass) for outcome in Outcome}


def totals(workers: Iterable[Sequence[float]]) -> Totals:
    """The requests that all workers have decided, by their cells."""
    workers = tuple(workers)
    return {
        outcome: Audience(*(sum(int(cells[at]) for cells in workers for at in places) for places in of_classes))
        for outcome, of_classes in _CELLS.items()
    }


_EXCUSED = tuple(
    [cell(DECISIONS, Verdict.REFUSED, reason, name) for reason in (Reason.NO_SEAT, Reason.EMERGENCY)]
    for name in ListenerClass
)


def excused(workers: Iterable[Sequence[float]]) -> Audience:
    """The requests that all workers have sent away for a reason that is told elsewhere or meant: no seat was free, or
    the operator's emergency closes the path."""
    workers = tuple(workers)
    return Audience(*(sum(int(cells[at]) for cells in workers for at in places) for places in _EXCUSED))


@dataclass(frozen=True, slots=True)
class Rates:
    """Requests of one outcome per second, by class."""

    hosts: float = 0.0
    members: float = 0.0
    guests: float = 0.0

    @property
    def favoured(self) -> float:
        """The requests of hosts and members per second."""
        return self.hosts + self.members


def rates(before: Totals, now: Totals, seconds: float) -> Mapping[Outcome, Rates]:
    """The requests per second between two totals; none if no time has passed."""
    return {outcome: rate(before[outcome], now[outcome], seconds) for outcome in Outcome}


def rate(before: Audience, now: Audience, seconds: float) -> Rates:
    """The same for one outcome."""
    if seconds <= 0:
        return Rates()
    more = now - before
    return Rates(*(max(0, count) / seconds for count in (more.hosts, more.members, more.guests)))
