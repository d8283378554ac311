"""A worker's counters. They are cells of an array, so an increment needs no object and no call of a library."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
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
    """

    __slots__ = ("cells", "worker")

    def __init__(self, worker: str = "0", cells: Cells | None = None) -> None:
        self.worker = worker
        self.cells = doubles(bytearray(8 * COUNT)) if cells is None else cells

    def decided(self, decisions: Iterable[Decision]) -> None:
        """Count requests that enter the app or are refused."""
        counted: dict[int, int] = {}  # adding to a cell takes longer than counting
        for decision in decisions:
            identity = decision.identity
            by_verdict = _OF_GUESTS if identity is None else _DECIDED[identity.listener_class]
            at = by_verdict[decision.verdict].get(decision.reason)
            if at is None:
                continue  # no such pair is decided; if one were, the others of its turn should not be lost for it
            counted[at] = counted.get(at, 0) + 1
        for at, count in counted.items():
            self.cells[at] += count

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
