"""Limits that operators changed during the event: values that replace those of the settings for a while. Pure.

Knows values as they are written, not what they mean: ``settings.overrides`` reads and applies them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from .versioned import VersionedState

Value = str | int | float


@dataclass(frozen=True, slots=True)
class RuleOverride:
    """What replaces parts of one rule; None leaves a part as it is."""

    limits: str | None = None
    burst: int | None = None
    dry_run: bool | None = None

    def __str__(self) -> str:
        """The replaced parts as the audit log shows them: ``limits=5/minute dry_run=true``."""
        given = {"limits": self.limits, "burst": self.burst, "dry_run": self.dry_run}
        texts = {name: str(value).lower() for name, value in given.items() if value is not None}
        return " ".join(f"{name}={text}" for name, text in texts.items())


@dataclass(frozen=True, slots=True)
class Overrides:
    """Values by their variable, and parts of rules by the rule's name. All others are as in the settings."""

    values: Mapping[str, Value] = field(default_factory=dict)
    rules: Mapping[str, RuleOverride] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.values or self.rules)

    def __str__(self) -> str:
        """All overrides in one line, for the log and the audit log."""
        return ", ".join(self._words()) or "as in the settings"

    def _words(self) -> Iterator[str]:
        yield from (f"{name}={value}" for name, value in self.values.items())
        yield from (f"rule {name}: {rule}" for name, rule in self.rules.items())


NOTHING = Overrides()

# Reason of the change with which the shield ends overrides.
ENDED = "their end time has come"


@dataclass(frozen=True, slots=True)
class Earlier:
    """Overrides that were in force before others, with the end time that they had (Unix seconds)."""

    overrides: Overrides = NOTHING
    until_s: float | None = None

    def at(self, now_s: float) -> Overrides:
        """The overrides in force at ``now_s`` (Unix time): none after the end."""
        return NOTHING if self.until_s is not None and now_s >= self.until_s else self.overrides


@dataclass(frozen=True, slots=True)
class OverridesChange:
    """A change that an operator requests. ``for_s`` is in seconds, None for no end; ``before`` is what it replaces."""

    overrides: Overrides
    actor: str
    reason: str = ""
    for_s: int | None = None
    before: Earlier = field(default_factory=Earlier)

    def __str__(self) -> str:
        """The whole change in words, for the audit log."""
        return f"{self.overrides}" if self.for_s is None else f"{self.overrides}, for {self.for_s} s"


@dataclass(frozen=True, slots=True)
class OverridesState(VersionedState):
    """The last change."""

    overrides: Overrides = NOTHING
    before: Earlier = field(default_factory=Earlier)

    def __str__(self) -> str:
        """In one line, for the audit log."""
        return str(self.overrides)

    def at(self, now_s: float) -> Overrides:
        """The overrides at a time: they end by themselves."""
        return self.earlier().at(now_s)

    def earlier(self) -> Earlier:
        """These overrides, as those that another change replaces."""
        return Earlier(self.overrides, self.until_s)
