"""Events that the gate reports to observers, which count and log them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from shieldmw.core.client import ListenerClass
from shieldmw.core.decision import Decision
from shieldmw.core.facts import Facts
from shieldmw.core.mode import ModeState


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
