"""The busiest clients, networks, paths and user agents of a worker, and of the fleet. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

# Maximum age of a worker's report. Workers report every 5 s, in the largest fleets every 10 s.
FRESH_S = 20.0


class Kind(StrEnum):
    """What requests are counted by: the client's network, its /24 or /48, the verified subject, the path, and the user
    agent."""

    ADDRESS = "address"
    NETWORK = "network"
    SUBJECT = "subject"
    PATH = "path"
    USER_AGENT = "user_agent"

    __hash__ = str.__hash__  # as fast as that of a string


@dataclass(frozen=True, slots=True)
class Ranking:
    """The most frequent names of one kind, with the least count of each, and how far the counts may be too low.

    A name that is not among them occurred at most ``unlisted`` times.
    """

    counts: Mapping[str, int]
    error: int = 0
    unlisted: int = 0


@dataclass(frozen=True, slots=True)
class Tally:
    """``total`` requests, by kind."""

    total: int
    of: Mapping[Kind, Ranking]


@dataclass(frozen=True, slots=True)
class TopReport:
    """What one worker counted in the ``seconds`` before ``at_s`` (Unix time by the store's clock)."""

    worker: str
    at_s: float
    seconds: float
    requests: Tally
    refusals: Tally

    def is_fresh(self, now_s: float) -> bool:
        """Whether the report still counts. One from the future was not written by us, or the clock has stepped back."""
        return abs(now_s - self.at_s) <= FRESH_S


class Bounds(NamedTuple):
    """Bounds of a count that is not known exactly, both inclusive."""

    least: int
    most: int


class Entry(NamedTuple):
    """A name with its requests, and the refused ones among them."""

    name: str
    requests: Bounds
    refused: Bounds


@dataclass(frozen=True, slots=True)
class FleetTop:
    """What the fleet counted: the busiest of each kind, those with the most requests first."""

    workers: int
    seconds: float
    requests: int
    refused: int
    of: Mapping[Kind, Sequence[Entry]]


def fleet_top(reports: Sequence[TopReport], count: int) -> FleetTop:
    """Merge the workers' reports: of each kind the ``count`` names with the most requests, and as many of the most
    refused.
    """
    return FleetTop(
        workers=len(reports),
        seconds=max((report.seconds for report in reports), default=0.0),
        requests=sum(report.requests.total for report in reports),
        refused=sum(report.refusals.total for report in reports),
        of={kind: _entries(kind, reports, count) for kind in Kind},
    )


def _entries(kind: Kind, reports: Sequence[TopReport], count: int) -> list[Entry]:
    requests = _merged(report.requests.of[kind] for report in reports)
    refusals = _merged(report.refusals.of[kind] for report in reports)
    names = {*_busiest(requests, count), *_busiest(refusals, count)}
    entries = [Entry(name, _bounds(requests, name), _bounds(refusals, name)) for name in names]
    return sorted(entries, key=lambda entry: (-entry.requests.least, -entry.refused.least, entry.name))


@dataclass(frozen=True, slots=True)
class _Merged:
    """Sums over all workers: a name occurred at least ``least`` and at most ``least + surplus + unlisted`` times."""

    least: Mapping[str, int]
    surplus: Mapping[str, int]
    unlisted: int


def _merged(rankings: Iterable[Ranking]) -> _Merged:
    least: dict[str, int] = {}
    surplus: dict[str, int] = {}
    unlisted = 0
    for ranking in rankings:
        unlisted += ranking.unlisted
        for name, count in ranking.counts.items():
            least[name] = least.get(name, 0) + count
            surplus[name] = surplus.get(name, 0) + ranking.error - ranking.unlisted
    return _Merged(least, surplus, unlisted)


def _busiest(merged: _Merged, count: int) -> list[str]:
    return sorted(merged.least, key=lambda name: (-merged.least[name], name))[:count]


def _bounds(merged: _Merged, name: str) -> Bounds:
    least = merged.least.get(name, 0)
    return Bounds(least, least + merged.surplus.get(name, 0) + merged.unlisted)
