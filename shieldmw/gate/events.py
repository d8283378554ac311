"""Events that the gate reports to observers, which count and log them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shieldmw.core.alarms import Alarm
from shieldmw.core.client import ListenerClass
from shieldmw.core.decision import Decision
from shieldmw.core.deny import DenyEntry
from shieldmw.core.facts import Facts
from shieldmw.core.mode import ModeState
from shieldmw.core.overrides import OverridesState


@dataclass(frozen=True, slots=True)
class Evicted:
    """Listeners of one class were evicted in one step of a cut."""

    listener_class: ListenerClass
    count: int


class Observer(Protocol):
    """Receives events. Must be fast and must not raise, since a request waits for it."""

    def decided(self, facts: Facts, decision: Decision) -> None:
        """A request was refused, or would have been if not for the dry run."""

    def evicted(self, event: Evicted) -> None:
        """Listeners were evicted."""


class ModeObserver(Protocol):
    """Receives changes of the mode. Must be fast and must not raise."""

    def mode_changed(self, state: ModeState) -> None:
        """The mode or the terms of an emergency have changed on this worker; ``state.mode`` is the one in force."""


class NewsObserver(Protocol):
    """Receives what operators are told without asking, beside changes of the mode. All workers may report the same."""

    def limits_changed(self, state: OverridesState) -> None:
        """Operators have changed limits, or the end of such a change has come."""

    def denied(self, entries: Sequence[DenyEntry], now_s: float) -> None:
        """Networks were denied."""

    def alarm_begun(self, alarm: Alarm, why: str, mode: ModeState, begun_s: float) -> None:
        """An alarm has begun, maybe a while ago, under the last change of the mode."""

    def alarm_ended(self, alarm: Alarm, now_s: float) -> None:
        """An alarm is over."""
