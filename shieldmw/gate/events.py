"""What happened, told to whoever listens; the gate itself neither counts nor logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from shieldmw.core.decision import Decision
from shieldmw.core.facts import Facts


@dataclass(frozen=True, slots=True)
class Decided:
    """One request was decided."""

    facts: Facts
    decision: Decision


class Observer(Protocol):
    """Listens. Must be quick and must not raise: it is called on the request's way."""

    def decided(self, event: Decided) -> None:
        """A request was decided."""
