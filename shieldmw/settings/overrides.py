"""Reads and applies overrides: the settings with some values replaced for a while. Pure.

Values are named and checked as in the settings. A limit that is replaced has its own amount as its burst, unless the
burst is replaced as well: the one in the settings belongs to the limit there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from shieldmw.core.limits import parse_limits, written_limits
from shieldmw.core.overrides import NOTHING, Overrides, RuleOverride
from shieldmw.core.rules import Limits, Policy, Rule, Scope
from shieldmw.core.seats import MOST_SEATS

from .fields import LimitText
from .model import Settings
from .policy import EMERGENCY_LIMIT_FIELDS, LIMIT_FIELDS, burst_field, rule_problems
from .problems import problem, right_of, shown, variable
from .table import written

# The settings that can be replaced. Those of failed credentials are not among them: they bound what a worker spends.
FIELDS = (
    *("ip_limit", "ip_burst", "token_limit", "token_burst", "address_limit", "address_burst"),
    *("guests_limit", "emergency_ip_limit", "emergency_guests_limit"),
    *("capacity", "emergency_capacity", "emergency_guest_share"),
)

# Longest text of a limit.
LONGEST_LIMIT = 200


def _field(name: str) -> Any:
    """The type of a setting with its bounds, and None for a value that is not given."""
    field = Settings.model_fields[name]
    bounds: list[Any] = list(field.metadata)
    if name.endswith("_limit"):
        bounds.append(Field(max_length=LONGEST_LIMIT))
    elif not name.endswith("_share"):
        bounds.append(Field(le=MOST_SEATS))
    kind = str if name.endswith("_limit") else float if name.endswith("_share") else int
    return Annotated[(kind, *bounds)]


_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

_FIELDS: dict[str, Any] = {
    variable(name): (_field(name) | None, Field(None, description=Settings.model_fields[name].description))
    for name in FIELDS
}
OverriddenSettings = create_model(
    "OverriddenSettings",
    __config__=_STRICT,
    __doc__="Values that replace those of the settings, by their variable.",
    **_FIELDS,
)


class OverriddenRule(BaseModel):
    """What replaces parts of one rule of SHIELD_RULES."""

    model_config = _STRICT

    limits: Annotated[LimitText, Field(max_length=LONGEST_LIMIT)] | None = Field(None, description="Its limits.")
    burst: int | None = Field(None, ge=1, le=MOST_SEATS, description="The burst of a single limit.")
    dry_run: bool | None = Field(None, description="Whether what it would refuse is only counted and logged.")


_CHECKS: Mapping[str, TypeAdapter[Any]] = {
    variable(name): TypeAdapter(_field(name), config=ConfigDict(strict=True, allow_inf_nan=False)) for name in FIELDS
}
_FIELD_OF = {variable(name): name for name in FIELDS}
VARIABLES = tuple(_FIELD_OF)


@dataclass(frozen=True, slots=True)
class LimitsInForce:
    """The settings that workers obey, with overrides applied.

    ``texts`` has the text of each variable that can be replaced, as it is in force; None if it is unset. ``ignored``
    has a line for each override that does not fit these settings: it names it and says what would be right.
    """

    policy: Policy
    capacity: int
    emergency_capacity: int
    emergency_guest_share: float
    texts: Mapping[str, str | None]
    ignored: tuple[str, ...] = ()

    @property
    def ignored_line(self) -> str:
        """All ignored overrides, in one line."""
        return "; ".join(self.ignored)


def limits_in_force(settings: Settings, overrides: Overrides = NOTHING) -> LimitsInForce:
    """The settings with overrides; those that do not fit are left out, and listed as ignored."""
    ignored: list[str] = []
    values = _values(overrides, ignored)
    default = {scope: _limits(settings, values, name, scope, ignored) for scope, name in LIMIT_FIELDS.items()}
    emergency = {
        scope: _limits(settings, values, name, scope, ignored) for scope, name in EMERGENCY_LIMIT_FIELDS.items()
    }
    rules = tuple(_rules(settings.policy.rules, overrides.rules, ignored))
    policy = replace(
        settings.policy,
        default=default,
        emergency=emergency,
        rules=rules,
    )
    capacity = values.get("capacity", settings.capacity)
    seats = values.get("emergency_capacity", settings.emergency_capacity)
    in_emergency = capacity if seats is None else seats
    share = values.get("emergency_guest_share", settings.emergency_guest_share)
    return LimitsInForce(policy, capacity, in_emergency, share, _texts(settings, values), tuple(ignored))


def problems(settings: Settings, overrides: Overrides) -> list[str]:
    """A line for each reason why overrides cannot be accepted; empty if they can."""
    applied = limits_in_force(settings, overrides)
    return [*applied.ignored, *rule_problems(applied.policy)]


def _values(overrides: Overrides, ignored: list[str]) -> dict[str, Any]:
    """The values that are valid, by their setting."""
    values = {}
    for name, value in overrides.values.items():
        field = _FIELD_OF.get(name)
        if field is None:
            ignored.append(f"{shown('', name)}: no such setting can be changed here")
            continue
        try:
            values[field] = _CHECKS[name].validate_python(value)
        except ValidationError as error:
            ignored.append(problem(field, value, right_of(error.errors(include_url=False)[0])))
    return values


def _limits(settings: Settings, values: dict[str, Any], field: str, scope: Scope, ignored: list[str]) -> Limits:
    """The limits of a setting; where limit and burst do not go together, both are those of the settings."""
    burst_name = burst_field(field)
    known = getattr(settings, burst_name, None)
    burst = values.get(burst_name, None if field in values else known)
    try:
        return parse_limits(values.get(field, getattr(settings, field)), name=scope, burst=burst)
    except ValueError as error:
        ignored.append(problem(burst_name, burst, str(error)))
    values.pop(field, None)
    values.pop(burst_name, None)
    return parse_limits(getattr(settings, field), name=scope, burst=known)


def _rules(rules: tuple[Rule, ...], changed: Mapping[str, RuleOverride], ignored: list[str]) -> Iterator[Rule]:
    for rule in rules:
        override = changed.get(rule.name)
        yield rule if override is None else _rule(rule, override, ignored)
    names = [rule.name for rule in rules]
    for name in changed:
        if name not in names:
            there_are = f"the rules are {', '.join(names)}" if names else "SHIELD_RULES has none"
            ignored.append(f"rule {shown('', name)}: there is no such rule here: {there_are}")


def _rule(rule: Rule, override: RuleOverride, ignored: list[str]) -> Rule:
    limits = rule.limits
    if override.limits is not None or override.burst is not None:
        text = written_limits(rule.limits) if override.limits is None else override.limits
        try:
            limits = parse_limits(text, name=rule.name, burst=override.burst)
        except ValueError as error:
            ignored.append(f"rule '{rule.name}': limits {shown('', text)}: {error}")
    dry_run = rule.dry_run if override.dry_run is None else override.dry_run
    return replace(rule, limits=limits, dry_run=dry_run)


def _texts(settings: Settings, values: Mapping[str, Any]) -> dict[str, str | None]:
    """The text of each variable, as it is in force; None for one that is unset."""
    texts: dict[str, str | None] = {}
    for name in FIELDS:
        value = values.get(name, getattr(settings, name))
        if name.endswith("_burst") and name not in values and name.replace("_burst", "_limit") in values:
            value = None
        texts[variable(name)] = None if value is None else written(value)
    return texts


def rule_texts(rule: Rule) -> RuleOverride:
    """The parts of a rule that can be replaced, as they are written."""
    burst = rule.limits[0].burst if len(rule.limits) == 1 and rule.limits[0].burst != rule.limits[0].amount else None
    return RuleOverride(written_limits(rule.limits), burst, rule.dry_run)
