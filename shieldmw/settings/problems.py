"""What is said of a setting that is wrong: one line that names it, shows it and says what would be right."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydantic import SecretStr, ValidationError

ENV_PREFIX = "SHIELD_"

LONGEST_SHOWN = 120

# Never shown; the URL of the store is, but for its password.
SECRET_FIELDS = frozenset({"secret", "jwt_secret"})
_URL_PASSWORD = re.compile(r"(//[^/@:]*:)[^@]*@")

_WORDS = {
    "bool_parsing": "write true or false",
    "int_parsing": "write a whole number",
    "int_type": "write a whole number",
}


def variable(field: str) -> str:
    """The variable of a field."""
    return ENV_PREFIX + field.upper()


def shown(field: str, value: object) -> str:
    """The value as a message may show it: secrets masked, long ones cut, one line."""
    if field in SECRET_FIELDS or isinstance(value, SecretStr):
        return "********"
    if isinstance(value, tuple | list):
        value = ",".join(str(item) for item in value)
    text = masked_url(str(value)) if field == "redis_url" else str(value)
    return repr(text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "…")


def masked_url(url: str) -> str:
    """A URL without its password."""
    return _URL_PASSWORD.sub(r"\1***@", url)


def problem(field: str, value: object, right: str) -> str:
    """The line for one setting."""
    return f"{variable(field)}={shown(field, value)}: {right}"


def problems_of(error: ValidationError) -> Iterator[str]:
    """A line for each setting that pydantic found wrong."""
    seen = set()
    for detail in error.errors(include_url=False):
        field = str(detail["loc"][0])
        if field in seen:
            continue
        seen.add(field)
        if detail["type"] == "extra_forbidden":
            yield f"{field}: there is no such setting"
        else:
            message = _WORDS.get(detail["type"], detail["msg"].removeprefix("Value error, "))
            yield problem(field, detail["input"], message)
