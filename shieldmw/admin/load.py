"""The models of the workers' load in the answer of `/status`; the command line parses it with them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from shieldmw.core.load import WorkerLoad
from shieldmw.core.seats import Audience
from shieldmw.gate.operator.status import OverloadStatus


class ByClass(BaseModel):
    """Numbers of listeners or requests by class; returning guests count as guests."""

    host: int
    member: int
    guest: int

    @classmethod
    def of(cls, counts: Audience) -> ByClass:
        """Convert counts by class."""
        return cls(host=counts.hosts, member=counts.members, guest=counts.guests)


class RatesByClass(BaseModel):
    """Requests per second by class."""

    host: float
    member: float
    guest: float


class WorkerLoadItem(BaseModel):
    """The load of one worker's app."""

    worker: str
    host: str = Field(description="The machine that the worker runs on.")
    pid: int
    turn_ms: float = Field(description="The longest turn of its event loop in the last seconds.")
    in_flight: int = Field(description="Requests inside the app whose responses have not begun.")
    in_flight_limit: int
    waiting: ByClass = Field(description="Requests that wait for their turn.")
    shed: ByClass = Field(description="Requests refused for overload since the worker's start.")
    shed_per_second: RatesByClass = Field(description="The same, in the last seconds.")
    mode_version: int | None = Field(
        None, description="The version of the mode that the worker follows; null if its release does not say."
    )

    @classmethod
    def of(cls, load: WorkerLoad) -> WorkerLoadItem:
        """Convert a worker's report."""
        lately = load.shed_lately
        rates = [round(load.shed_per_s(count), 1) for count in (lately.hosts, lately.members, lately.guests)]
        return cls(
            worker=load.worker,
            host=load.host,
            pid=load.pid,
            turn_ms=round(load.turn_us / 1000, 1),
            in_flight=load.in_flight,
            in_flight_limit=load.in_flight_limit,
            waiting=ByClass.of(load.waiting),
            shed=ByClass.of(load.shed),
            shed_per_second=RatesByClass(host=rates[0], member=rates[1], guest=rates[2]),
            mode_version=load.mode_version,
        )


class OverloadAnswer(BaseModel):
    """The load of all workers' apps, a few seconds ago."""

    setting: Literal["on", "shadow", "off"] = Field(
        description="SHIELD_OVERLOAD on the worker that answers; with `shadow`, `shed` counts what would be shed."
    )
    counted: Literal["fleet", "worker"] = Field(description="`worker`: the store is away, so the others are unknown.")
    workers: list[WorkerLoadItem] = Field(description="One for each worker that has lately reported.")

    @classmethod
    def of(cls, status: OverloadStatus) -> OverloadAnswer:
        """Convert the gate's status."""
        workers = [WorkerLoadItem.of(load) for load in status.workers]
        return cls(setting=status.setting, counted="fleet" if status.fleet_wide else "worker", workers=workers)
