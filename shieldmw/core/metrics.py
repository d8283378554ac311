"""All metrics: names, types, labels and help, and the cell in which a worker keeps each value. Pure.

A worker's values are an array of doubles, so that processes can share them; whole numbers are exact there up to 2**53.
Label values come from enums and the tuples below only, never from a client.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import product

from .client import ListenerClass
from .credentials import Failure
from .decision import Reason, Verdict
from .mode import Mode

Labels = tuple[str, ...]


class Kind(StrEnum):
    """The type of a metric, as Prometheus names it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. ``series`` are the values of its ``labels``; ``bounds`` the upper ends of a histogram's buckets."""

    name: str
    kind: Kind
    help: str
    labels: Labels = ()
    series: tuple[Labels, ...] = ((),)
    bounds: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """The number of cells of one series; a histogram has one per bucket (the last is unbounded), plus the sum."""
        return len(self.bounds) + 2 if self.bounds else 1


# The reasons to let a request pass; all others refuse it.
PASSING = (Reason.WITHIN_LIMITS, Reason.UNLIMITED, Reason.EXEMPT, Reason.ALLOW_LIST, Reason.STORE_OPEN)
REFUSING = tuple(reason for reason in Reason if reason not in PASSING)

# Failures of the app's own check, beside those of credentials (``gate/auth/host.py``).
HOST_FAILURES = ("host_error", "host_timeout", "host_type")


class DecisionPath(StrEnum):
    """Where a request was decided: in the worker, or with a call to the store."""

    LOCAL = "local"
    STORE = "store"


class Script(StrEnum):
    """The store's scripts: the files in ``store/lua/``."""

    CHANGE = "change"
    CLAIM = "claim"
    DECIDED = "decided"
    GIVE_BACK = "give_back"
    MODE = "mode"
    PORTION = "portion"
    QUEUE = "queue"
    REFUND = "refund"
    SEATS = "seats"
    SETTLE = "settle"
    TAKE = "take"


class CallResult(StrEnum):
    """How a call to the store ended."""

    OK = "ok"
    UNAVAILABLE = "unavailable"
    ERROR = "error"
    CANCELLED = "cancelled"


class Table(StrEnum):
    """The tables of a worker whose sizes are reported."""

    LEASES = "leases"
    DEBTS = "debts"
    KNOWN_REFUSALS = "known_refusals"
    FALLBACK_BUCKETS = "fallback_buckets"
    MEMORY_BUCKETS = "memory_buckets"
    CREDENTIALS = "credentials"
    FAILED_CREDENTIALS = "failed_credentials"
    ROUTES = "routes"
    DENY_LIST = "deny_list"


def _each(values: type[StrEnum] | Labels) -> tuple[Labels, ...]:
    return tuple((str(value),) for value in values)


_CLASSES = _each(ListenerClass)

DECISIONS = Metric(
    "shield_decisions_total",
    Kind.COUNTER,
    "Requests decided, each counted once, when it enters the app or is refused.",
    ("outcome", "reason", "class"),
    (
        *((Verdict.ALLOWED.value, reason.value, name.value) for reason, name in product(PASSING, ListenerClass)),
        *(
            (verdict.value, reason.value, name.value)
            for verdict, reason, name in product((Verdict.REFUSED, Verdict.DRY_RUN), REFUSING, ListenerClass)
        ),
    ),
)
DECISION_SECONDS = Metric(
    "shield_decision_seconds",
    Kind.HISTOGRAM,
    "Time of a decision. path=store: those with a call to the store, from when the limits are checked; all are "
    "measured. path=local: in the worker; one is measured every few seconds, so its count is not that of requests.",
    ("path",),
    _each(DecisionPath),
    (0.00001, 0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25),
)
STORE_CALLS = Metric(
    "shield_store_calls_total",
    Kind.COUNTER,
    "Calls of the store's scripts. unavailable: no answer in time, or one that means 'not now'.",
    ("script", "result"),
    tuple((script.value, result.value) for script, result in product(Script, CallResult)),
)
STORE_BATCH_SIZE = Metric(
    "shield_store_batch_size",
    Kind.HISTOGRAM,
    "Requests decided by one call to the store.",
    bounds=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
STORE_UP = Metric("shield_store_up", Kind.GAUGE, "1; 0 while the breaker is open and the store is not asked.")
MODE = Metric("shield_mode", Kind.GAUGE, "1 for the mode in force on this worker.", ("mode",), _each(Mode))
MODE_UNTIL = Metric(
    "shield_mode_until_timestamp_seconds", Kind.GAUGE, "When the emergency ends by itself (Unix time); 0 if none does."
)
SEATS = Metric("shield_seats", Kind.GAUGE, "Seats in use on this worker.", ("class",), _CLASSES)
DEMAND = Metric(
    "shield_demand",
    Kind.GAUGE,
    "Listeners on this worker that have a seat or lately asked for one.",
    ("class",),
    _CLASSES,
)
CAPACITY = Metric(
    "shield_capacity", Kind.GAUGE, "Seats of the whole fleet in the mode in force here; +Inf for no limit."
)
EVICTIONS = Metric(
    "shield_evictions_total", Kind.COUNTER, "Listeners asked to leave, for any reason.", ("class",), _CLASSES
)
TABLE_ENTRIES = Metric("shield_table_entries", Kind.GAUGE, "Entries of this worker's tables.", ("table",), _each(Table))
CREDENTIALS_REFUSED = Metric(
    "shield_credentials_refused_total",
    Kind.COUNTER,
    "Credentials not accepted when first seen, and failures of the app's own check (host_…).",
    ("reason",),
    _each((*Failure, *HOST_FAILURES)),
)
LANE_WAITING = Metric(
    "shield_lane_waiting", Kind.GAUGE, "Requests that wait for their turn in the app.", ("class",), _CLASSES
)
LANE_SHED = Metric(
    "shield_lane_shed_total",
    Kind.COUNTER,
    "Requests shed for overload; with SHIELD_OVERLOAD=shadow or a dry run, those that would have been.",
    ("class",),
    _CLASSES,
)
LANE_INSIDE = Metric("shield_lane_inside", Kind.GAUGE, "Requests inside the app whose responses have not begun.")
LANE_LIMIT = Metric("shield_lane_limit", Kind.GAUGE, "Requests that may be inside the app at once.")
TURN = Metric("shield_turn_seconds", Kind.GAUGE, "The longest turn of the event loop in the last few seconds.")
UPDATED = Metric(
    "shield_worker_updated_timestamp_seconds",
    Kind.GAUGE,
    "When this worker last wrote its gauges (Unix time): every two seconds or so, unless its event loop hangs.",
)

# In the order in which they are reported.
METRICS = (
    *(DECISIONS, DECISION_SECONDS, STORE_CALLS, STORE_BATCH_SIZE, STORE_UP, MODE, MODE_UNTIL, SEATS, DEMAND, CAPACITY),
    *(EVICTIONS, TABLE_ENTRIES, CREDENTIALS_REFUSED, LANE_WAITING, LANE_SHED, LANE_INSIDE, LANE_LIMIT, TURN, UPDATED),
)

# Metrics of the whole fleet, as the store last reported them to this worker. They have no cells.
FLEET_SEATS = Metric("shield_fleet_seats", Kind.GAUGE, "Seats in use in the whole fleet.", ("class",), _CLASSES)
FLEET_DEMAND = Metric(
    "shield_fleet_demand", Kind.GAUGE, "Listeners of the whole fleet that have or want a seat.", ("class",), _CLASSES
)
FLEET_WORKERS = Metric("shield_fleet_workers", Kind.GAUGE, "Workers that report to the store.")
FLEET_DECISIONS = Metric(
    "shield_fleet_decisions_total",
    Kind.COUNTER,
    "Requests decided by all workers that there have been, as they report them every few seconds.",
    ("outcome", "class"),
    tuple((verdict.value, name.value) for verdict, name in product(Verdict, ListenerClass)),
)
FLEET_METRICS = (FLEET_SEATS, FLEET_DEMAND, FLEET_WORKERS, FLEET_DECISIONS)

# The first cell: the process id of the worker that writes the others; 0 if there is none.
PID = 0


def _placed() -> tuple[dict[tuple[str, Labels], int], int]:
    cells: dict[tuple[str, Labels], int] = {}
    at = PID + 1
    for metric in METRICS:
        for labels in metric.series:
            cells[metric.name, labels] = at
            at += metric.width
    return cells, at


_CELLS, COUNT = _placed()


def cell(metric: Metric, *labels: str) -> int:
    """The first cell of one series.

    Raises:
        KeyError: the metric has no such series.
    """
    return _CELLS[metric.name, labels]


_DECIDED_CELLS = tuple(
    tuple(cell(DECISIONS, *labels) for labels in DECISIONS.series if (labels[0], labels[2]) == series)
    for series in FLEET_DECISIONS.series
)


def by_outcome(cells: Sequence[float]) -> list[int]:
    """A worker's decisions by outcome and class, in the order of the series of ``FLEET_DECISIONS``."""
    return [sum(int(cells[at]) for at in places) for places in _DECIDED_CELLS]
