"""The state of the fleet for operators: plain values, and settings as text without secrets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from pydantic import SecretStr

from shieldmw.core.load import WorkerLoad
from shieldmw.core.mode import ModeState
from shieldmw.core.seats import Audience, Capacity, Fleet
from shieldmw.errors import StoreError
from shieldmw.gate.overload.load_reports import LoadReports
from shieldmw.gate.seats.seats import Seats
from shieldmw.settings import Settings
from shieldmw.settings.problems import SECRET_FIELDS, URLS_WITH_SECRETS, masked_url, variable
from shieldmw.settings.table import written

from .limits_report import LimitsStatus

MASK = "********"


@dataclass(frozen=True, slots=True)
class SeatStatus:
    """Seats in the current mode. ``capacity`` None means no limit.

    If ``fleet_wide``, then ``present``, ``demand`` and ``workers`` are those of the whole fleet, a few seconds old;
    otherwise ``present`` is this worker's, and the others are None. ``demand``: those present, and those who lately
    found no seat, each of whom counts once however many workers it asked. ``granted``: the seats that this worker may
    give. ``leased``: those of ``present`` that poll, and hold a lease seat.
    """

    capacity: Capacity | None
    guest_share: float
    granted: Capacity | None
    fleet_wide: bool
    present: Audience
    demand: Audience | None
    workers: int | None
    leased: Audience

    @classmethod
    def of(cls, seats: Seats, fleet: Fleet | None, granted: Capacity | None = None) -> SeatStatus:
        """The status of the whole ``fleet``; None if only this process is known."""
        capacity, share = seats.capacity(), seats.guest_share
        if fleet is None:
            return cls(capacity, share, None, False, seats.ledger.held(), None, None, seats.ledger.leases.present())
        return cls(capacity, share, granted, True, fleet.present, fleet.demand, fleet.workers, fleet.leased)


@dataclass(frozen=True, slots=True)
class OverloadStatus:
    """The workers' load, a few seconds ago. ``setting``: ``on``, ``shadow`` or ``off``, as in force here.

    ``workers`` are those of the whole fleet if ``fleet_wide``, otherwise only the worker that answers.
    """

    setting: Literal["on", "shadow", "off"]
    fleet_wide: bool
    workers: Sequence[WorkerLoad]

    @classmethod
    async def of(cls, settings: Settings, load_reports: LoadReports, *, store_answers: bool = True) -> OverloadStatus:
        """The load of all workers; only of this one if the store does not answer."""
        setting = settings.overload_in_force
        if store_answers:
            with suppress(StoreError):
                return cls(setting, True, await load_reports.of_fleet())
        return cls(setting, False, load_reports.here())


@dataclass(frozen=True, slots=True)
class Status:
    """The whole status at ``now_s`` (Unix seconds by the store's clock).

    ``mode`` is the last change, so an emergency in it may have ended by itself. ``settings`` holds the text of each
    variable as it is in force, None if it is unset. In a ``dry_run`` nothing is refused, whatever the mode.
    """

    now_s: float
    mode: ModeState
    seats: SeatStatus
    store_is_up: bool
    settings: Mapping[str, str | None]
    overload: OverloadStatus
    dry_run: bool
    limits: LimitsStatus


def shown_settings(settings: Settings) -> dict[str, str | None]:
    """All settings as their variables would be written, secrets masked."""
    return {variable(name): _shown(name, getattr(settings, name)) for name in type(settings).model_fields}


def _shown(name: str, value: object) -> str | None:
    if value is None:
        return None
    if name in SECRET_FIELDS or isinstance(value, SecretStr) or str(value).startswith("-----"):
        return MASK
    if name in URLS_WITH_SECRETS:
        return masked_url(str(value))
    return written(value)
