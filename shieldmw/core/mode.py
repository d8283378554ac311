"""The mode of the fleet, its start and end, and the operator who set it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from .versioned import SHIELD, VersionedState


class Mode(StrEnum):
    """The way the fleet admits clients: everyone within limits, or verified listeners first."""

    NORMAL = "normal"
    EMERGENCY = "emergency"

    __hash__ = str.__hash__  # as fast as that of a string


# Reason of the change with which the shield ends an emergency.
ENDED = "its end time has come"

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
        share = None if self.guest_share is None else 100 * self.guest_share
        given = {"for {} s": self.for_s, "capacity {}": self.capacity, "guest share {:.4g} %": share}
        return ", ".join([self.mode, *(text.format(value) for text, value in given.items() if value is not None)])


@dataclass(frozen=True, slots=True)
class ModeState(VersionedState):
    """The mode in force."""

    mode: Mode = Mode.NORMAL
    capacity: int | None = None
    guest_share: float | None = None

    def __str__(self) -> str:
        """In a word, for the audit log."""
        return self.mode

    def at(self, now_s: float) -> Mode:
        """The mode at a time: an emergency ends by itself."""
        return Mode.NORMAL if self.is_over(now_s) else self.mode

    def ended(self) -> ModeState:
        """The state that follows an emergency that has ended by itself: the one that the fleet will agree on, with the
        version of the emergency until then."""
        assert self.until_s is not None
        return ModeState(self.version, self.until_s, None, SHIELD, ENDED)
