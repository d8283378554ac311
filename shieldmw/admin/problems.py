"""Errors in answers: problem details, and what is wrong with each field of a request."""

from __future__ import annotations

import re
from difflib import get_close_matches

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from shieldmw.core.bounds import MOST_ERRORS
from shieldmw.settings import Settings
from shieldmw.settings.overrides import VARIABLES, OverriddenRule
from shieldmw.settings.problems import right_of, shown, variable

from .limits import LimitsAnswer
from .schema import StatusAnswer

# Where settings and rules are in a document of limits.
_IN_DOCUMENT = re.compile(r"^(settings|rules)\.")


class FieldError(BaseModel):
    """The error of one field of a request: its name, and what would be right."""

    field: str
    message: str


def field_errors(error: ValidationError) -> list[FieldError]:
    """Pydantic's errors, in our words."""
    return [
        FieldError(
            field=".".join(str(part) for part in detail["loc"]) or "body",
            message=_message(detail),
        )
        for detail in error.errors(include_url=False)
    ]


def _message(detail: ErrorDetails) -> str:
    """What would be right; in a document of several values it shows the wrong one, as for a variable."""
    right = right_of(detail)
    if len(detail["loc"]) < 2 or not isinstance(detail["loc"][0], str):
        return right
    if detail["type"] == "extra_forbidden":
        return _unknown(str(detail["loc"][-1]), is_variable=detail["loc"][0] == "settings")
    return f"{shown('', detail['input'])}: {right}"


def _unknown(name: str, *, is_variable: bool) -> str:
    """The line for a name that cannot be changed: of a variable that needs a restart, or of nothing."""
    if is_variable and name in map(variable, Settings.model_fields):
        return "cannot be changed without a restart"
    nearest = get_close_matches(name, VARIABLES if is_variable else OverriddenRule.model_fields, n=1)
    unknown = f"there is no such {'setting' if is_variable else 'field'}"
    return unknown + (f", did you mean {nearest[0]}?" if nearest else "")


def not_valid(errors: list[FieldError]) -> str:
    """The line that lists all errors. Settings and rules have their own names there, not their place in a document."""
    listed = "; ".join(f"{_IN_DOCUMENT.sub('', error.field)}: {error.message}" for error in errors[:MOST_ERRORS])
    return f"Nothing was changed. {listed}"


class ProblemAnswer(BaseModel):
    """Problem details (RFC 9457). ``current``, with a 412: what is in force instead of the expected version."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError] | None = None
    retry_after_ms: int | None = None
    current: StatusAnswer | LimitsAnswer | None = None
