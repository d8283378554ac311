"""What the mode and the limits have in common: operators change them, for a while or for good. Pure."""

from __future__ import annotations

from dataclasses import dataclass

# Actor of changes that the shield makes by itself.
SHIELD = "shieldmw"


@dataclass(frozen=True, slots=True)
class VersionedState:
    """The last change of a document, with its version. Times are Unix seconds by the store's clock.

    A higher version always wins, so a fleet can restore what its store has lost.
    """

    version: int = 0
    since_s: float = 0.0
    until_s: float | None = None
    actor: str = ""
    reason: str = ""

    def is_over(self, now_s: float) -> bool:
        """Whether its end time has passed."""
        return self.until_s is not None and now_s >= self.until_s
