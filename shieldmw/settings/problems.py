"""What is said of a setting that is wrong: one line that names it, shows it and says what would be right."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydantic import SecretStr, ValidationError

ENV_PREFIX = "SHIELD_"

# Variables that a command reads for itself and that are no settings of the shield: no mistake where workers see them.
COMMAND_VARIABLES = frozenset({"SHIELD_ADMIN_URL"})

LONGEST_SHOWN = 120

# Never shown; URLs are, but for their passwords.
SECRET_FIELDS = frozenset({"secret", "jwt_secret", "admin_token", "view_token"})
URLS_WITH_SECRETS = frozenset({"redis_url", "jwt_jwks_url"})
PUBLIC_URLS = frozenset({"recording_url", "sign_in_url"})  # told to everyone, unless by mistake with a password
_HARMLESS = re.compile(r"(?:[\w.-]*|\[[0-9a-fA-F:.]*\])(?::\d{1,6})?(?:,[\w.-]+(?::\d+)?)*(?:/[\w./:-]*)?")

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
    if field == "jwt_public_key" and str(value).startswith("-----"):
        return f"'{str(value)[:27]}…'"  # somebody may have taken the private key for the public one
    if isinstance(value, tuple | list):
        value = ",".join(str(item) for item in value)
    text = str(value)
    if field in URLS_WITH_SECRETS or (field in PUBLIC_URLS and "@" in text):
        text = masked_url(text)
    return repr(text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "…")


def masked_url(url: str) -> str:
    """A URL without its password, however it is written.

    What follows the last @ is shown while it looks like a host and a path; all before it, and all
    that is in the query, may be part of a password, and so may all before a query with an @ in it.
    """
    scheme, mark, rest = url.partition("://")
    if not mark:
        return "***" if "@" in url else url
    rest, _, query = rest.partition("?")
    account, at, place = rest.rpartition("@")
    user, colon, _ = account.partition(":")
    shown_account = (user if _HARMLESS.fullmatch(user) else "***") + (":***" if colon else "") + at
    shown_place = place if _HARMLESS.fullmatch(place) and "@" not in query else "***"
    return f"{scheme}://{shown_account}{shown_place}{'?***' if query else ''}"


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
