"""The state of the fleet as the page shows it: one document, made of what the other routes tell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Literal, Self

from pydantic import BaseModel, Field

from shieldmw.core.mode import Mode
from shieldmw.core.service import Served, service
from shieldmw.core.traffic import Outcome, Rates
from shieldmw.core.waiting import QueueCounters
from shieldmw.errors import StoreError
from shieldmw.gate.operator.control import Control
from shieldmw.gate.operator.recent import Sample
from shieldmw.gate.operator.status import Status

from .auth import Role
from .load import RatesByClass
from .masking import Answer
from .schema import AuditItem, DenyItem, PreviewAnswer, StatusAnswer

# Entries of the audit log and the deny list that the page shows.
AUDIT_SHOWN = 30
DENIED_SHOWN = 100


class Members(BaseModel):
    """Whether hosts and members are being served, and how many of their requests a second are let in and refused."""

    served: Served
    percent: float | None
    why: str
    let_in: float
    refused: float

    @classmethod
    def of(cls, status: Status, lately: Mapping[Outcome, Rates], excused: Rates) -> Members:
        """The last seconds: the fleet's seats, and the requests of this `serve`'s workers, but no ``excused`` ones:
        the seats tell of those, or the operator wants them."""
        seats = status.seats
        let_in = lately[Outcome.LET_IN].favoured
        refused = sum(rates.favoured for outcome, rates in lately.items() if outcome is not Outcome.LET_IN)
        told = service(seats.present, seats.demand or seats.present, let_in, max(0.0, refused - excused.favoured))
        return cls(
            served=told.served, percent=told.percent, why=told.why, let_in=round(let_in, 1), refused=round(refused, 1)
        )


class Traffic(BaseModel):
    """Requests of this `serve`'s workers by outcome: since the start, and of each class a second lately."""

    workers: int
    totals: dict[Outcome, int]
    lately: dict[Outcome, RatesByClass]

    @classmethod
    def of(cls, now: Sample, lately: Mapping[Outcome, Rates]) -> Traffic:
        """Convert what the gate counted."""
        return cls(
            workers=now.workers,
            totals={outcome: of.total for outcome, of in now.totals.items()},
            lately={
                outcome: RatesByClass(host=round(of.hosts, 1), member=round(of.members, 1), guest=round(of.guests, 1))
                for outcome, of in lately.items()
            },
        )


class Obedience(BaseModel):
    """The workers that report, and those of them that do not follow the mode in force, by name."""

    version: int
    follow: int
    behind: list[str]
    silent: int = Field(description="Workers that share the seats, but have not reported for seven seconds.")


class WaitingRoom(BaseModel):
    """Members that wait for a seat with a number, and numbers that were called since the room began."""

    waiting: int
    called: int

    @classmethod
    def of(cls, counters: QueueCounters) -> WaitingRoom:
        """Convert the fleet's counters."""
        return cls(waiting=max(0, counters.given - counters.called), called=counters.called)


class LiveState(Answer):
    """What the page shows. ``switch``: what the other mode would do now, as configured."""

    role: Role = Role.ADMIN
    status: StatusAnswer
    members: Members
    traffic: Traffic
    obedience: Obedience
    switch: PreviewAnswer
    waiting_room: WaitingRoom | None
    denied: list[DenyItem]
    denied_count: int
    audit: list[AuditItem]
    lists: Literal["current", "stale"] = Field(
        description="`stale`: the store is away, so the waiting room, deny list and audit are those last known."
    )

    def json_for(self, role: Role) -> bytes:
        """The state for pages with this role: with the view token, addresses are masked."""
        shown = self if role is Role.ADMIN else self.masked()
        return shown.model_dump_json(by_alias=True, exclude={"status": {"settings"}}).encode()

    def masked(self) -> Self:
        """The same for pages with the view token."""
        return super().masked().model_copy(update={"role": Role.VIEWER})


async def live_state(control: Control, known: LiveState | None) -> LiveState:
    """The state now. While the store is away, its lists are those ``known`` before."""
    status = await control.status()
    answer, now = StatusAnswer.of(status), control.recent.now()
    lately = control.recent.lately(now)
    other = Mode.NORMAL if answer.mode is Mode.EMERGENCY else Mode.EMERGENCY
    state = LiveState(
        status=answer,
        members=Members.of(status, lately, control.recent.excused(now)),
        traffic=Traffic.of(now, lately),
        obedience=_obedience(status),
        switch=PreviewAnswer.of(await control.preview(other, None, None)),
        waiting_room=None if known is None else known.waiting_room,
        denied=[] if known is None else known.denied,
        denied_count=0 if known is None else known.denied_count,
        audit=[] if known is None else known.audit,
        lists="stale",
    )
    if status.store_is_up:
        with suppress(StoreError):
            return state.model_copy(update={**await _lists(control), "lists": "current"})
    return state


async def _lists(control: Control) -> dict[str, object]:
    room, denied, now_s = await control.waiting_room(), await control.denials.denied(), control.now_s()
    latest = sorted(denied, key=lambda entry: entry.until_s, reverse=True)[:DENIED_SHOWN]
    return {
        "waiting_room": None if room is None else WaitingRoom.of(room),
        "denied": [DenyItem.of(entry, now_s) for entry in latest],
        "denied_count": len(denied),
        "audit": [AuditItem.of(entry) for entry in await control.audit(AUDIT_SHOWN)],
    }


def _obedience(status: Status) -> Obedience:
    version, workers = status.mode.version, status.overload.workers
    behind = [
        f"{load.host}, process {load.pid}"
        for load in workers
        if load.mode_version is not None and load.mode_version < version
    ]
    silent = max(0, (status.seats.workers or 0) - len(workers)) if status.overload.fleet_wide and workers else 0
    return Obedience(version=version, follow=len(workers) - len(behind), behind=behind, silent=silent)


def history(control: Control) -> bytes:
    """The last quarter of an hour for a page that has just been opened: a row for each sample, the oldest first.

    Each has the time, the totals by outcome, members and guests with a seat, listeners without one, and the seats.
    """
    rows = [
        (
            sample.at_s,
            *(sample.totals[outcome].total for outcome in Outcome),
            sample.present.favoured,
            sample.present.guests,
            max(0, sample.demand.total - sample.present.total),
            sample.seats,
        )
        for sample in control.recent.samples()
    ]
    return json.dumps(rows, separators=(",", ":")).encode()
