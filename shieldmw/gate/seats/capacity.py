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


class FleetCapacity:
    """The capacity in the current mode: by the ``plan``, unless the operator chose another with the change of the mode.

    So in an emergency that was declared with a capacity, a later change of SHIELD_EMERGENCY_CAPACITY has no effect.
    """

    def __init__(self, plan: SeatPlan, mode_watch: ModeWatch) -> None:
        self.plan = plan
        self._mode_watch = mode_watch

    def now(self) -> Capacity | None:
        """The fleet's seats; None for no limit."""
        plan, state = self.plan, self._mode_watch.state
        if self._mode_watch.mode is Mode.NORMAL:
            return Capacity(plan.capacity, plan.capacity) if plan.capacity else None
        seats = plan.emergency_capacity if state.capacity is None else state.capacity
        return Capacity(seats, floor(seats * self.guest_share + 1e-9)) if seats else None

    @property
    def guest_share(self) -> float:
        """The share of the seats that guests may hold."""
        if self._mode_watch.mode is Mode.NORMAL:
            return 1.0
        share = self._mode_watch.state.guest_share
        return self.plan.emergency_guest_share if share is None else share
