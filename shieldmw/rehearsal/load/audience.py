"""The records of a drill's listeners: each stay, each refusal.

Pure: no sockets, no clock (times are seconds of one monotonic clock). Knows nothing of the shield.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

_ON_THEIR_WAY: Final = 2


@dataclass(slots=True)
class Stay:
    """One stream, from its answer to its end; ``ended_s`` is None while it lasts.

    Of its lines only the first, the last and their number are kept: comparison with what its worker
    has published shows whether one is missing. The stay of a listener who polls lasts from its first
    poll that is served to its first one that is not, and has no lines.
    """

    began_s: float
    ended_s: float | None = None
    told_why: bool = False
    """Whether it ended with ``event: shed``, or with a refused poll that gave the reason."""
    worker: str = ""
    first_id: int = 0
    last_id: int = 0
    lines: int = 0

    def at(self, at_s: float) -> bool:
        """Whether the stream existed at this moment."""
        return self.began_s <= at_s and (self.ended_s is None or self.ended_s > at_s)

    def lasted(self, begin_s: float, end_s: float) -> bool:
        """Whether the stream existed during the whole of a span."""
        return self.began_s <= begin_s and (self.ended_s is None or self.ended_s >= end_s)

    def overlaps(self, begin_s: float, end_s: float) -> bool:
        """Whether the stream existed at any time of a span."""
        return self.began_s < end_s and (self.ended_s is None or self.ended_s > begin_s)


@dataclass(frozen=True, slots=True)
class Refused:
    """One answer that was not a stream."""

    at_s: float
    status: int
    names_recording: bool


@dataclass(slots=True)
class Listener:
    """One listener: its stays and refusals."""

    name: str
    group: str
    came_s: float | None = None
    stays: list[Stay] = field(default_factory=list)
    refusals: list[Refused] = field(default_factory=list)

    @property
    def seated(self) -> bool:
        """Whether it listens now."""
        return bool(self.stays) and self.stays[-1].ended_s is None


class Audience:
    """All listeners, and every line that was sent to any of them."""

    def __init__(self, listeners: Sequence[Listener] = ()) -> None:
        self.listeners = tuple(listeners)
        self._published: dict[str, set[int]] = {}

    def heard(self, stay: Stay, worker: str, line_id: int) -> None:
        """Record a line. The same line twice counts once."""
        self._published.setdefault(worker, set()).add(line_id)
        if not stay.lines:
            stay.worker, stay.first_id, stay.last_id, stay.lines = worker, line_id, line_id, 1
        elif line_id > stay.last_id:
            stay.last_id = line_id
            stay.lines += 1

    def missed(self, stay: Stay) -> int:
        """The number of lines that its worker sent to others but not to this stream while it lasted.

        A number that no listener received is no gap: the event's clock skips seconds when its machine is late. If the
        stream is still open, the last two lines may be in transit.
        """
        published = self._published.get(stay.worker, set())
        newest = max(published, default=0) - _ON_THEIR_WAY
        until = max(stay.last_id, newest) if stay.ended_s is None else stay.last_id
        return sum(stay.first_id <= line_id <= until for line_id in published) - stay.lines

    def of(self, group: str) -> tuple[Listener, ...]:
        """The listeners of a group."""
        return tuple(listener for listener in self.listeners if listener.group == group)

    def groups(self) -> tuple[str, ...]:
        """The names of all groups, in order of appearance."""
        return tuple(dict.fromkeys(listener.group for listener in self.listeners))

    def stays(self, group: str, begin_s: float, end_s: float) -> Iterator[Stay]:
        """Every stay of a group in a span, however short."""
        for listener in self.of(group):
            yield from (stay for stay in listener.stays if stay.overlaps(begin_s, end_s))

    def present(self, group: str, at_s: float) -> int:
        """The number of a group's listeners with a stream at this time."""
        return sum(stay.at(at_s) for listener in self.of(group) for stay in listener.stays)

    def seated(self, group: str) -> int:
        """The number of a group's listeners with a stream now."""
        return sum(listener.seated for listener in self.of(group))

    def waiting(self, group: str) -> int:
        """The number of a group's listeners who have come and have no stream."""
        return sum(listener.came_s is not None and not listener.seated for listener in self.of(group))
