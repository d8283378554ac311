"""The mode of the fleet, its start and end, and the operator who set it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class Mode(StrEnum):
    """The way the fleet admits clients: everyone within limits, or verified listeners first."""

    NORMAL = "normal"
    EMERGENCY = "emergency"

    __hash__ = str.__hash__  # as fast as that of a string


# Actor and reason of changes that the shield makes by itself, when an end time has come.
SHIELD, ENDED = "shieldmw", "its end time has come"

# Longest time for which an operator can declare an emergency, since it may be forgotten.
LONGEST_S = 7 * 86_400


@dataclass(frozen=True, slots=True)
class ModeChange:
    """A change that an operator requests. None means: as configured. ``for_s`` is in seconds."""

    mode: Mode
    actor: str
    reason: str = ""
    for_s: int | None = None
    capacity: int | None = None
    guest_share: float | None = None

    def with_end(self) -> ModeChange:
        """The same change; an emergency without an end lasts for ``LONGEST_S``."""
        endless = self.mode is Mode.EMERGENCY and self.for_s is None
        return replace(self, for_s=LONGEST_S) if endless else self

    def __str__(self) -> str:
        """The whole change in words, for the audit log."""
        given = {"for {} s": self.for_s, "capacity {}": self.capacity, "guest share {}": self.guest_share}
        return ", ".join([self.mode, *(text.format(value) for text, value in given.items() if value is not None)])


@dataclass(frozen=True, slots=True)
class ModeState:
    """The mode in force, with its version. Times are Unix seconds by the store's clock.

    A higher version always wins, so a fleet can restore what its store has lost.
    """

    version: int = 0
    mode: Mode = Mode.NORMAL
    since_s: float = 0.0
    until_s: float | None = None
    actor: str = ""
    reason: str = ""
    capacity: int | None = None
    guest_share: float | None = None

    def is_over(self, now_s: float) -> bool:
        """Whether its end time has passed."""
        return self.until_s is not None and now_s >= self.until_s

    def at(self, now_s: float) -> Mode:
        """The mode at a time: an emergency ends by itself."""
        return Mode.NORMAL if self.is_over(now_s) else self.mode

    def ended(self) -> ModeState:
        """The state that follows an emergency that has ended by itself: the one that the fleet will agree on, with the
        version of the emergency until then."""
        assert self.until_s is not None
        return ModeState(self.version, Mode.NORMAL, self.until_s, None, SHIELD, ENDED)
