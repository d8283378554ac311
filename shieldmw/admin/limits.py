"""The models of ``/limits``: a document of what is changed, and the answer with all that is in force."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from shieldmw.core.mode import LONGEST_S
from shieldmw.core.overrides import Overrides, RuleOverride
from shieldmw.gate.operator.limits_report import LimitsReport, RuleTexts
from shieldmw.settings.overrides import OverriddenRule, OverriddenSettings

from .masking import Answer
from .schema import Given, Reason

RuleName = Annotated[str, Field(min_length=1, max_length=48)]


class LimitsBody(Given):
    """All that shall differ from the settings. What is not named is as there, so an empty document ends all changes."""

    settings: OverriddenSettings = Field(
        default_factory=OverriddenSettings, description="Values by their variable, as in the environment."
    )
    rules: dict[RuleName, OverriddenRule] = Field(
        default_factory=dict, description="Parts of rules of SHIELD_RULES, by the rule's name."
    )
    for_seconds: int | None = Field(
        None, ge=1, le=LONGEST_S, description="When all of it ends by itself; it stays until it is undone if not given."
    )
    reason: Reason = ""

    def overrides(self) -> Overrides:
        """The document, as the core knows it."""
        settings: BaseModel = self.settings
        rules = {name: RuleOverride(rule.limits, rule.burst, rule.dry_run) for name, rule in self.rules.items()}
        named = {name: rule for name, rule in rules.items() if rule != RuleOverride()}
        return Overrides(settings.model_dump(exclude_none=True), named)


class RuleParts(BaseModel):
    """Parts of a rule, as they are written; null for a part that is not changed, or a burst that is the limit's own."""

    limits: str | None
    burst: int | None
    dry_run: bool | None

    @classmethod
    def of(cls, rule: RuleOverride) -> RuleParts:
        """Convert the core's rule."""
        return cls(limits=rule.limits, burst=rule.burst, dry_run=rule.dry_run)


class RuleItem(BaseModel):
    """A rule: as it is in force, and as the settings have it."""

    name: str
    in_force: RuleParts
    configured: RuleParts

    @classmethod
    def of(cls, rule: RuleTexts) -> RuleItem:
        """Convert the gate's rule."""
        return cls(name=rule.name, in_force=RuleParts.of(rule.in_force), configured=RuleParts.of(rule.configured))


class LimitsDocument(Answer):
    """What differs from the settings."""

    settings: dict[str, str | int | float]
    rules: dict[str, RuleParts]
    until: float | None
    seconds_left: int | None = Field(description="Until it ends by itself; null if it does not.")

    @classmethod
    def of(cls, overrides: Overrides, until_s: float | None, now_s: float) -> LimitsDocument:
        """Convert overrides that are in force, or would be, until then."""
        if not overrides:
            until_s = None
        return cls(
            settings=dict(overrides.values),
            rules={name: RuleParts.of(rule) for name, rule in overrides.rules.items()},
            until=until_s,
            seconds_left=None if until_s is None else max(1, round(until_s - now_s)),
        )


class LimitsAnswer(LimitsDocument):
    """The limits in force. Times are Unix seconds by the store's clock, which ``now`` shows."""

    version: int
    now: float
    since: float | None = Field(description="When operators last changed limits; null if they never did.")
    actor: str
    reason: str
    before: LimitsDocument = Field(description="What the last change replaced, and undoing it would restore.")
    in_force: dict[str, str | None] = Field(description="Every variable that can be changed; null if it is unset.")
    configured: dict[str, str | None] = Field(description="The same, as the settings of the answering worker have it.")
    rules_in_force: list[RuleItem]
    ignored: list[str] = Field(description="What does not fit the settings of the answering worker: the rest applies.")
    store: str = Field(description="`up` or `away`, as seen by the worker that answers.")

    @classmethod
    def of_report(cls, report: LimitsReport) -> LimitsAnswer:
        """Convert the gate's report."""
        state, now_s = report.state, report.now_s
        document = LimitsDocument.of(state.at(now_s), state.until_s, now_s)
        return cls(
            **dict(document),
            version=state.version,
            now=now_s,
            since=state.since_s if state.version else None,
            actor=state.actor,
            reason=state.reason,
            before=LimitsDocument.of(report.before.at(now_s), report.before.until_s, now_s),
            in_force=dict(report.in_force),
            configured=dict(report.configured),
            rules_in_force=[RuleItem.of(rule) for rule in report.rules],
            ignored=list(report.ignored),
            store="up" if report.store_is_up else "away",
        )
