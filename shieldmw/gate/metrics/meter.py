"""Measures a worker: reads the values that are not counted as they change, every few seconds and for each scrape."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import NamedTuple

from shieldmw.core.client import ListenerClass
from shieldmw.core.lane import Rank
from shieldmw.core.load import by_class
from shieldmw.core.metrics import (
    CAPACITY,
    CREDENTIALS_REFUSED,
    DEMAND,
    EVICTIONS,
    LANE_INSIDE,
    LANE_LIMIT,
    LANE_SHED,
    LANE_WAITING,
    MODE,
    MODE_UNTIL,
    PID,
    SEATS,
    STORE_UP,
    TABLE_ENTRIES,
    TURN,
    UPDATED,
    Metric,
    Table,
    cell,
)
from shieldmw.core.mode import Mode
from shieldmw.core.seats import Audience
from shieldmw.gate.auth.identity import Identifier
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock
from shieldmw.gate.decided import DecidedRequests
from shieldmw.gate.fleet.deny_watch import DenyWatch
from shieldmw.gate.fleet.mode_watch import ModeWatch
from shieldmw.gate.limiter.limiter import Limiter
from shieldmw.gate.limiter.lookups import Lookups
from shieldmw.gate.overload.overload import Overload
from shieldmw.gate.seats.seats import Seats

from .slots import Slots, WorkerValues


class Parts(NamedTuple):
    """The parts of a worker that are measured."""

    decided: DecidedRequests
    seats: Seats
    mode_watch: ModeWatch
    deny_watch: DenyWatch
    limiter: Limiter
    identifier: Identifier
    lookups: Lookups
    overload: Overload | None


class Meter:
    """Writes the values of a worker's ``parts`` beside the decisions counted. ``slots`` are all workers', if shared.

    If a worker is killed, additions to totals since the last read are lost. Decisions and calls of the store are not.
    """

    def __init__(self, parts: Parts, slots: Slots | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        self.counts = parts.decided.counts
        self._parts = parts
        self._slots = slots
        self._unix_s = clock.unix_s
        self._counted: dict[int, float] = {}

    async def start(self) -> None:
        """Read now."""
        self.read()

    async def stop(self) -> None:
        """Read once more, and leave: the gauges no longer hold."""
        self.read()
        self.counts.cells[PID] = 0

    def workers(self) -> Sequence[WorkerValues]:
        """The values of all workers of this ``serve``: this one's as of now; gauges of others may be seconds old."""
        self.read()
        if self._slots is None:
            return [WorkerValues(self.counts.worker, self.counts.cells.tolist(), is_running=True)]
        return self._slots.values()

    def read(self) -> None:
        """Read all values."""
        cells, parts = self.counts.cells, self._parts
        parts.decided.count()
        now_s, state = parts.mode_watch.store_now_s(), parts.mode_watch.state
        cells[cell(STORE_UP)] = not parts.limiter.is_away
        for mode in Mode:
            cells[cell(MODE, mode)] = parts.mode_watch.mode is mode
        has_end = state.mode is Mode.EMERGENCY and not state.is_over(now_s)
        cells[cell(MODE_UNTIL)] = (state.until_s or 0) if has_end else 0
        capacity = parts.seats.capacity()
        cells[cell(CAPACITY)] = math.inf if capacity is None else capacity.seats
        self._by_class(SEATS, parts.seats.ledger.held())
        self._by_class(DEMAND, parts.seats.demand())
        for name in ListenerClass:
            self._catch_up(cell(EVICTIONS, name), parts.seats.ledger.evicted[name])
        for (reason,), count in parts.identifier.failures.items():
            self._catch_up(cell(CREDENTIALS_REFUSED, reason), count)
        for table, entries in self._entries().items():
            cells[cell(TABLE_ENTRIES, table)] = entries
        if parts.overload is not None:
            self._read_lane(parts.overload)
        cells[cell(UPDATED)] = self._unix_s()
        cells[PID] = os.getpid()

    def _read_lane(self, overload: Overload) -> None:
        cells, lane = self.counts.cells, overload.lane
        self._by_class(LANE_WAITING, by_class([lane.waiting_of(rank) for rank in Rank]))
        shed = by_class(overload.shed_by_rank)
        for name, count in zip(ListenerClass, (shed.hosts, shed.members, shed.guests), strict=True):
            self._catch_up(cell(LANE_SHED, name), count)
        cells[cell(LANE_INSIDE)] = lane.places.inside
        cells[cell(LANE_LIMIT)] = lane.places.limit
        cells[cell(TURN)] = overload.longest_turn_us / 1_000_000

    def _catch_up(self, at: int, total: float) -> None:
        """Count what has been added to a total of this worker since the last time."""
        self.counts.cells[at] += total - self._counted.get(at, 0)
        self._counted[at] = total

    def _by_class(self, metric: Metric, numbers: Audience) -> None:
        for name, number in zip(ListenerClass, (numbers.hosts, numbers.members, numbers.guests), strict=True):
            self.counts.cells[cell(metric, name)] = number

    def _entries(self) -> dict[Table, int]:
        parts = self._parts
        return {
            **parts.limiter.entries(),
            **parts.identifier.entries(),
            Table.ROUTES: len(parts.lookups.routes),
            Table.DENY_LIST: len(parts.deny_watch.deny_list.entries),
        }
