"""What a change of the mode would do now, for operators who are about to make it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shieldmw.core.forecast import Forecast, forecast, most_refused
from shieldmw.core.mode import Mode
from shieldmw.core.rules import Access, Rule
from shieldmw.core.seats import Capacity
from shieldmw.core.traffic import Rates
from shieldmw.gate.seats.seats import Seats
from shieldmw.settings.overrides import LimitsInForce

from .status import SeatStatus


@dataclass(frozen=True, slots=True)
class Preview:
    """The seats and the limits in a mode, and what that means for the ``listeners`` that are here now.

    ``capacity`` None means no limit. ``guest_limit``, of one address, and ``guests_limit``, of all guests together: as
    they would be written. ``most_refused``: at most so many of the requests let in now would be refused, per second, of
    those of this ``serve``'s workers. ``closed`` and ``members_only`` are
    the names of rules whose paths are closed to everyone, or to guests.
    """

    mode: Mode
    capacity: Capacity | None
    guest_share: float
    fleet_wide: bool
    listeners: Forecast
    guest_limit: str
    guests_limit: str
    most_refused: float
    closed: tuple[str, ...]
    members_only: tuple[str, ...]

    @classmethod
    def of(
        cls,
        limits: LimitsInForce,
        seats: Seats,
        now: SeatStatus,
        mode: Mode,
        count: int | None,
        share: float | None,
        *,
        before: Mode,
        let_in: Rates,
    ) -> Preview:
        """The preview of a mode, with as many seats and the guests' share if these are given. ``let_in``: requests
        per second in the mode ``before``."""
        capacity, guest_share = seats.seats_in(mode, count, share), seats.share_in(mode, share)
        is_emergency = mode is Mode.EMERGENCY
        rules = limits.policy.rules if is_emergency else ()
        listeners = forecast(capacity, guest_share, now.present, now.demand or now.present)
        return cls(
            mode,
            capacity,
            guest_share,
            now.fleet_wide,
            listeners,
            limits.texts["SHIELD_EMERGENCY_IP_LIMIT" if is_emergency else "SHIELD_IP_LIMIT"] or "off",
            limits.texts["SHIELD_EMERGENCY_GUESTS_LIMIT" if is_emergency else "SHIELD_GUESTS_LIMIT"] or "off",
            most_refused(limits.policy, before, mode, listeners, let_in),
            _names(rules, Access.CLOSED),
            _names(rules, Access.MEMBERS),
        )


def _names(rules: Iterable[Rule], access: Access) -> tuple[str, ...]:
    return tuple(rule.name for rule in rules if rule.emergency is access and not rule.dry_run)
