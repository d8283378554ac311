"""How many seats the fleet has in the mode in force, and how many of them guests may hold."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor

from shieldmw.core.mode import Mode
from shieldmw.core.rules import LEASE_SEAT_S
from shieldmw.core.seats import Capacity
from shieldmw.gate.fleet.mode_watch import ModeWatch
from shieldmw.settings.overrides import LimitsInForce


@dataclass(frozen=True, slots=True)
class SeatPlan:
    """Capacity as configured, or as operators changed it since; 0 seats means no limit.

    ``longest_lease_s``: of any polled path.
    """

    capacity: int
    emergency_capacity: int
    emergency_guest_share: float
    longest_lease_s: int = LEASE_SEAT_S

    @classmethod
    def of(cls, limits: LimitsInForce) -> SeatPlan:
        """The plan that follows from the limits in force."""
        lease_s = limits.policy.longest_lease_s
        return cls(limits.capacity, limits.emergency_capacity, limits.emergency_guest_share, lease_s)

    def seats_in(self, mode: Mode, seats: int | None, guest_share: float | None) -> Capacity | None:
        """The fleet's seats in a mode, if an operator chose these values for an emergency; None for no limit."""
        if mode is Mode.NORMAL:
            return Capacity(self.capacity, self.capacity) if self.capacity else None
        seats = self.emergency_capacity if seats is None else seats
        return Capacity(seats, floor(seats * self.share_in(mode, guest_share) + 1e-9)) if seats else None

    def share_in(self, mode: Mode, guest_share: float | None) -> float:
        """The share of the seats that guests may hold in a mode, if an operator chose this one for an emergency."""
        if mode is Mode.NORMAL:
            return 1.0
        return self.emergency_guest_share if guest_share is None else guest_share


class FleetCapacity:
    """The capacity in the current mode: by the ``plan``, unless the operator chose another with the change of the mode.

    So in an emergency that was declared with a capacity, a later change of SHIELD_EMERGENCY_CAPACITY has no effect.
    """

    def __init__(self, plan: SeatPlan, mode_watch: ModeWatch) -> None:
        self.plan = plan
        self._mode_watch = mode_watch

    def now(self) -> Capacity | None:
        """The fleet's seats; None for no limit."""
        state = self._mode_watch.state
        return self.plan.seats_in(self._mode_watch.mode, state.capacity, state.guest_share)

    @property
    def guest_share(self) -> float:
        """The share of the seats that guests may hold."""
        return self.plan.share_in(self._mode_watch.mode, self._mode_watch.state.guest_share)
