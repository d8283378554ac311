"""The limits in force for operators: plain values, beside what the settings say and what can be undone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shieldmw.core.overrides import Earlier, OverridesState, RuleOverride
from shieldmw.gate.fleet.limits_watch import LimitsWatch
from shieldmw.settings import Settings
from shieldmw.settings.overrides import limits_in_force, rule_texts


@dataclass(frozen=True, slots=True)
class LimitsStatus:
    """The version of the last change, and a line for each part of it that does not fit this worker's settings."""

    version: int
    ignored: Sequence[str] = ()

    @classmethod
    def of(cls, watch: LimitsWatch) -> LimitsStatus:
        """The status on this worker."""
        return cls(watch.state.version, watch.in_force.ignored)


@dataclass(frozen=True, slots=True)
class RuleTexts:
    """The parts of a rule that can be changed, as they are written: in force, and in the settings."""

    name: str
    in_force: RuleOverride
    configured: RuleOverride


@dataclass(frozen=True, slots=True)
class LimitsReport:
    """All about the limits at ``now_s`` (Unix seconds by the store's clock).

    ``state`` is the last change, which may have ended by itself. ``in_force`` and ``configured`` hold the text of each
    variable that can be changed. ``ignored``: what does not fit the settings of the worker that answers.
    """

    now_s: float
    state: OverridesState
    before: Earlier
    in_force: Mapping[str, str | None]
    configured: Mapping[str, str | None]
    rules: Sequence[RuleTexts]
    ignored: Sequence[str]
    store_is_up: bool

    @classmethod
    def of(cls, watch: LimitsWatch, settings: Settings, now_s: float, *, store_is_up: bool) -> LimitsReport:
        """The report of this worker."""
        now, configured = watch.in_force, limits_in_force(settings)
        rules = [
            RuleTexts(here.name, rule_texts(here), rule_texts(there))
            for here, there in zip(now.policy.rules, configured.policy.rules, strict=True)
        ]
        state = watch.state
        return cls(now_s, state, state.before, now.texts, configured.texts, rules, now.ignored, store_is_up)
