"""Events for observers; the gate itself neither counts nor logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from shieldmw.core.client import ListenerClass
from shieldmw.core.decision import Decision
from shieldmw.core.facts import Facts


@dataclass(frozen=True, slots=True)
class Evicted:
    """Listeners of one class had to leave in one step of a cut."""

    listener_class: ListenerClass
    count: int


class Observer(Protocol):
    """Listens. Must be quick and must not raise: it is called while a request waits."""

    def decided(self, facts: Facts, decision: Decision) -> None:
        """A request was refused, or would have been without a dry run."""

    def evicted(self, event: Evicted) -> None:
        """Listeners had to leave."""
