"""The crowd of a drill, as data: groups of clients, their requests, and the phases with their pace.

Pure: no sockets, no clocks, no answers. Another act is other data, not another branch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. ``path`` is sent verbatim, ``//`` and dots included."""

    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "GET"


Behaviour = Callable[[Random], Ask]


@dataclass(frozen=True, slots=True)
class Client:
    """One client, which should have one bucket. ``source`` is its real address."""

    name: str
    source: str
    next_ask: Behaviour


@dataclass(frozen=True, slots=True)
class Group:
    """Clients of one kind. ``impatient`` clients drop a request that is late; others send it late."""

    name: str
    clients: tuple[Client, ...]
    impatient: bool = False


@dataclass(frozen=True, slots=True)
class Pace:
    """The rate of each client of a group: ``per_s`` requests per second, at most ``lanes`` in flight."""

    per_s: float
    lanes: int = 1

    def __post_init__(self) -> None:
        if self.per_s <= 0 or self.lanes < 1:
            raise ValueError(f"a pace needs a rate above 0 and a lane or more, not {self.per_s}, {self.lanes}")


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the drill. A group without a pace is silent in it."""

    name: str
    seconds: float
    paces: Mapping[str, Pace]


@dataclass(frozen=True, slots=True)
class Story:
    """The plan of a drill: the groups, and the phases in their order."""

    groups: tuple[Group, ...]
    phases: tuple[Phase, ...]

    @property
    def seconds(self) -> float:
        """The duration of the whole story."""
        return sum(phase.seconds for phase in self.phases)

    def phase_at(self, elapsed_s: float) -> Phase:
        """The phase at ``elapsed_s``; after the end, the last one."""
        for phase in self.phases[:-1]:
            if elapsed_s < phase.seconds:
                return phase
            elapsed_s -= phase.seconds
        return self.phases[-1]

    def lanes(self, group: Group) -> int:
        """The most requests that one client of this group has in flight."""
        paces = (phase.paces.get(group.name) for phase in self.phases)
        return max((pace.lanes for pace in paces if pace is not None), default=0)


def due_times(phases: Sequence[Phase], group: str, lane: int, rng: Random) -> Iterator[float]:
    """The times at which this lane of a client sends, in seconds since the start. The first in a phase is random, so
    that clients are not in step; after that the interval is constant."""
    begins = 0.0
    for phase in phases:
        ends = begins + phase.seconds
        pace = phase.paces.get(group)
        if pace is not None and lane < pace.lanes:
            interval = pace.lanes / pace.per_s
            first = begins + rng.random() * interval
            count = 0
            while (due := first + count * interval) < ends:
                yield due
                count += 1
        begins = ends
