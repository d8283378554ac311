"""Rules as operators write them: JSON in a variable, or a JSON or TOML file."""

from __future__ import annotations

import json
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from shieldmw.core.limits import parse_limits
from shieldmw.core.paths import PathPattern
from shieldmw.core.rules import LEASE_SEAT_S, Access, Per, Rule

from .problems import right_of

# The name of a rule.
_NAME = re.compile(r"[A-Za-z0-9_-]{1,48}")

# Bounds of a lease seat in seconds: three target durations of 2 s, and the longest time that a cut may take.
SHORTEST_LEASE_S, LONGEST_LEASE_S = 6, 600

_METHOD = re.compile(r"[A-Z-]{1,32}")


def _methods(value: object) -> object:
    if isinstance(value, list) and all(isinstance(method, str) for method in value):
        return [method.upper() for method in value]
    return value


class RuleSpec(BaseModel):
    """One rule as operators write it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    path: str
    methods: Annotated[list[str], BeforeValidator(_methods)] = []
    limits: str = "off"
    burst: int | None = Field(None, ge=1)
    cost: int = Field(1, ge=0)
    per: str = "client"
    live: bool = False
    polled: bool = False
    lease_seconds: int | None = Field(None, ge=SHORTEST_LEASE_S, le=LONGEST_LEASE_S)
    emergency: Literal["open", "members", "closed"] = "open"
    dry_run: bool = False

    def rule(self) -> Rule:
        """The rule that it describes.

        Raises:
            ValueError: an invalid name, path, method or limit.
        """
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name '{self.name}': use 1 to 48 letters, digits, '_' and '-'")
        for method in self.methods:
            if not _METHOD.fullmatch(method):
                raise ValueError(f"methods: '{method}' is not a method such as GET")
        if self.per not in list(Per):
            raise ValueError(f"per '{self.per}': use client, guests or everyone")
        try:
            limits = parse_limits(self.limits, name=self.name, burst=self.burst)
        except ValueError as error:
            raise ValueError(f"limits '{self.limits}': {error}") from None
        if self.per != Per.CLIENT and not limits:
            raise ValueError(f"per '{self.per}' says who shares the rule's limits, and it has none: add 'limits'")
        try:
            path = PathPattern(self.path)
        except ValueError as error:
            raise ValueError(f"path: {error}") from None
        if self.live and self.polled:
            raise ValueError(
                f"path '{self.path}' is live and polled: a response holds a seat or its client does, not both"
            )
        if self.lease_seconds is not None and not self.polled:
            raise ValueError(f'lease_seconds {self.lease_seconds} is for polled paths: add "polled": true')
        methods, access = frozenset(self.methods), Access(self.emergency)
        lease_s = (self.lease_seconds or LEASE_SEAT_S) if self.polled else 0
        per = Per(self.per)
        return Rule(self.name, path, methods, limits, self.cost, self.live, access, per, lease_s, self.dry_run)


_SPECS = TypeAdapter(list[RuleSpec])


def parse_rules(value: object) -> object:
    """The rules in a JSON text; any other value is returned for pydantic to check."""
    if not isinstance(value, str):
        return value
    try:
        rules = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error}): write a list such as [{_EXAMPLE}]") from None
    return _rules(rules)


def read_rules(path: Path) -> tuple[Rule, ...]:
    """The rules of a file: a JSON list, or a TOML file of ``[[rules]]``.

    Raises:
        ValueError: it cannot be read, or a rule in it is wrong.
    """
    try:
        text = path.read_text("utf-8")
        return _rules(_of_toml(text) if path.suffix == ".toml" else json.loads(text))
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}: name a readable file") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        kind = "TOML" if path.suffix == ".toml" else "JSON"
        way = "" if path.suffix in (".json", ".toml") else "; write the rules in a .json or .toml file"
        raise ValueError(f"not {kind}: {error}{way}") from None


def _of_toml(text: str) -> object:
    import tomllib

    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"not TOML: {error}") from None
    if wrong := [name for name in document if name != "rules"]:
        raise ValueError(f"a rules file has no '{wrong[0]}': begin each rule with [[rules]]")
    return document.get("rules", [])


_EXAMPLE = '{"name": "search", "path": "/search/*", "limits": "10/minute", "cost": 2}'


def _meant(error: ErrorDetails) -> str:
    """A hint at the field that was probably meant, if the error is an unknown field; otherwise empty."""
    if error["type"] != "extra_forbidden":
        return ""
    nearest = get_close_matches(str(error["loc"][-1]), RuleSpec.model_fields, n=1)
    return f", did you mean '{nearest[0]}'?" if nearest else ""


def _rules(value: object) -> tuple[Rule, ...]:
    try:
        specs = _SPECS.validate_python(value)
    except ValidationError as error:
        found = error.errors()
        # A misspelt field is more helpful than the one that is missing because of it.
        first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
        where = " ".join(f"rule {part + 1}" if isinstance(part, int) else f"'{part}'" for part in first["loc"][:2])
        raise ValueError(
            f"{where or 'rules'}: {right_of(first)}{_meant(first)}; a rule is written like {_EXAMPLE}"
        ) from None
    rules = []
    for number, spec in enumerate(specs, 1):
        try:
            rules.append(spec.rule())
        except ValueError as error:
            raise ValueError(f"rule {number}: {error}") from None
    return tuple(rules)
