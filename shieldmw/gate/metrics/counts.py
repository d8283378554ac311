"""A worker's counters. They are cells of an array, so an increment needs no object and no call of a library."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any, Protocol

from shieldmw.core.client import ListenerClass
from shieldmw.core.decision import Decision, Reason, Verdict
from shieldmw.core.metrics import (
    COUNT,
    DECISION_SECONDS,
    DECISIONS,
    STORE_BATCH_SIZE,
    STORE_CALLS,
    CallResult,
    DecisionPath,
    Metric,
    cell,
)

# The cells of decisions, by class, verdict and reason: nested, since looking up a tuple takes twice as long.
_DECIDED: dict[ListenerClass, dict[Verdict, dict[Reason, int]]] = {
    name: {verdict: {} for verdict in Verdict} for name in ListenerClass
}
for _verdict, _reason, _name in DECISIONS.series:
    _cells = _DECIDED[ListenerClass(_name)][Verdict(_verdict)]
    _cells[Reason(_reason)] = cell(DECISIONS, _verdict, _reason, _name)
_OF_GUESTS = _DECIDED[ListenerClass.GUEST]

_CALLED = {labels: cell(STORE_CALLS, *labels) for labels in STORE_CALLS.series}
_LOCAL, _STORE = cell(DECISION_SECONDS, DecisionPath.LOCAL), cell(DECISION_SECONDS, DecisionPath.STORE)
_BATCH = cell(STORE_BATCH_SIZE)
_BOUNDS_US = [bound * 1_000_000 for bound in DECISION_SECONDS.bounds]


class Cells(Protocol):
    """The values of one worker: a view of doubles."""

    def __getitem__(self, at: int, /) -> float: ...

    def __setitem__(self, at: int, value: float, /) -> None: ...

    def tolist(self) -> list[float]:
        """A copy."""


def doubles(memory: Any) -> Cells:
    """Memory as doubles."""
    view: Any = memoryview(memory).cast("B").cast("d")  # for the type checker items of a view are whole numbers
    cells: Cells = view
    return cells


class Counts:
    """The counters of one worker. ``cells`` holds all its values (``core/metrics.py``); by default its own memory.

    ``worker`` is its label. Each cell is an aligned double, so another process reads it before or after an addition,
    never in between. If the cells already hold values, it goes on from these.

    Adding to a cell takes as long as everything else here together. So decisions are added at the end of the event
    loop's turn, by ``later``; without it, at once. A worker that is killed loses those of the turn under way.
    """

    __slots__ = ("_decided", "_is_due", "cells", "later", "worker")

    def __init__(self, worker: str = "0", cells: Cells | None = None) -> None:
        self.worker = worker
        self.cells = doubles(bytearray(8 * COUNT)) if cells is None else cells
        self.later: Callable[[Callable[[], None]], object] | None = None
        self._is_due = False
        self._decided: dict[int, int] = {}

    def decided(self, decision: Decision) -> None:
        """Count a request that enters the app or is refused. To be called once for each."""
        identity = decision.identity
        by_verdict = _OF_GUESTS if identity is None else _DECIDED[identity.listener_class]
        at = by_verdict[decision.verdict][decision.reason]
        self._decided[at] = self._decided.get(at, 0) + 1
        if self._is_due:
            return
        if self.later is None:
            self.add()
        else:
            self._is_due = True
            self.later(self.add)

    def add(self) -> None:
        """Add the decisions counted since the last time to their cells."""
        cells = self.cells
        for at, count in self._decided.items():
            cells[at] += count
        self._decided.clear()
        self._is_due = False

    def decided_locally(self, took_us: int) -> None:
        """Count a sampled decision that was made in the worker."""
        self._observe(DECISION_SECONDS, _LOCAL, bisect_left(_BOUNDS_US, took_us), took_us / 1_000_000)

    def decided_by_store(self, took_us: int) -> None:
        """Count a decision that took a call to the store."""
        self._observe(DECISION_SECONDS, _STORE, bisect_left(_BOUNDS_US, took_us), took_us / 1_000_000)

    def batch(self, requests: int) -> None:
        """Count a call to the store that decides this many requests."""
        self._observe(STORE_BATCH_SIZE, _BATCH, bisect_left(STORE_BATCH_SIZE.bounds, requests), requests)

    def called(self, script: str, result: CallResult) -> None:
        """Count a call of one of the store's scripts."""
        self.cells[_CALLED[script, result]] += 1

    def _observe(self, metric: Metric, first: int, bucket: int, value: float) -> None:
        self.cells[first + bucket] += 1
        self.cells[first + len(metric.bounds) + 1] += value


# For parts that are used on their own: nobody reads these.
UNREAD = Counts()
