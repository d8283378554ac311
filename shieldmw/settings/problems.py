"""The message for a setting that is wrong: one line that names it, shows it and says what would be right."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails

from .store_url import scheme_of

ENV_PREFIX = "SHIELD_"

# Variables that only commands read: they are not settings of the shield, but may be in a worker's environment.
COMMAND_VARIABLES = frozenset({"SHIELD_ADMIN_URL"})

# Maximum number of characters of a value that are shown.
LONGEST_SHOWN = 120

# Settings that are never shown, and URLs that are shown without passwords.
SECRET_FIELDS = frozenset({"secret", "jwt_secret", "admin_token", "view_token", "webhook_url", "webhook_secret"})
URLS_WITH_SECRETS = frozenset({"redis_url", "jwt_jwks_url"})
PUBLIC_URLS = frozenset({"recording_url", "sign_in_url"})  # shown in full, unless they contain a password by mistake
_HARMLESS = re.compile(r"(?:[\w.-]*|\[[0-9a-fA-F:.]*\])(?::\d{1,6})?(?:,[\w.-]+(?::\d+)?)*(?:/[\w./:-]*)?")

# For schemes whose stores cannot be shared: the reason, and what would be right.
_NOT_SHARED = {
    "memory": "is private to each process, so only the workers' own admin routes reach it: embedded:// is shared",
    "embedded": "is found by its own workers only: set it to the unix:// URL that 'shieldmw serve' prints at its start",
}

# A whole number with its thousands separated. A point may be a decimal one.
_SEPARATED = re.compile(r"[0-9]{1,3}(?:[ ,'\u2019\u00a0\u202f][0-9]{3})+")

# What would be right, by pydantic's type of error; names in {} are replaced from the error's context. All bounds are
# whole numbers, and every setting that takes a fraction is a share.
_WORDS = {
    **dict.fromkeys(("bool_parsing", "bool_type"), "write true or false"),
    **dict.fromkeys(("dict_type", "model_type"), "write an object"),
    **dict.fromkeys(("enum", "literal_error"), "write {expected}"),
    **dict.fromkeys(("finite_number", "float_parsing", "float_type"), "write a share from 0 to 1, such as 0.1"),
    **dict.fromkeys(("int_from_float", "int_parsing", "int_parsing_size", "int_type"), "write a whole number"),
    **dict.fromkeys(("list_type", "tuple_type"), "write a list"),
    **dict.fromkeys(("string_too_short", "string_type"), "write text"),
    "extra_forbidden": "there is no such field",
    "greater_than_equal": "write {ge:.0f} or more",
    "less_than_equal": "write {le:.0f} or less",
    "missing": "is missing",
    "path_type": "write the path of a file",
    "string_too_long": "write at most {max_length} characters",
}


def variable(field: str) -> str:
    """The variable of a field."""
    return ENV_PREFIX + field.upper()


def shown(field: str, value: object) -> str:
    """The value as a message may show it: secrets masked, long values cut, on one line."""
    if field in SECRET_FIELDS or isinstance(value, SecretStr):
        return "********"
    if field == "jwt_public_key" and str(value).lstrip("'\"").startswith("-----"):
        return f"'{str(value)[:27]}…'"  # it may be the private key, set by mistake
    if isinstance(value, tuple | list):
        value = ",".join(str(item) for item in value)
    text = str(value)
    if field in URLS_WITH_SECRETS or (field in PUBLIC_URLS and "@" in text):
        text = masked_url(text)
    return repr(text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "…")


def masked_url(url: str) -> str:
    """The URL with its password masked, even if it is not well-formed.

    What follows the last @ is shown if it looks like a host and a path. Anything before it, and anything in the query,
    may be part of a password; if the query contains an @, so may anything before the query.
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


def not_shared(url: str) -> str:
    """The line for a store that commands and other processes cannot reach; '' if they can."""
    why = _NOT_SHARED.get(scheme_of(url))
    return f"{variable('redis_url')}='{masked_url(url)}' {why}" if why else ""


def problem(field: str, value: object, right: str) -> str:
    """The line for one setting."""
    return f"{variable(field)}={shown(field, value)}: {right}"


def problems_of(error: ValidationError) -> Iterator[str]:
    """A line for each setting that pydantic rejects."""
    seen = set()
    for detail in error.errors(include_url=False):
        field = str(detail["loc"][0])
        if field in seen:
            continue
        seen.add(field)
        if detail["type"] == "extra_forbidden":
            yield f"{field}: there is no such setting"
        else:
            yield problem(field, detail["input"], right_of(detail))


def right_of(detail: ErrorDetails) -> str:
    """What would be right instead: our words for pydantic's error, or the message of our own check."""
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    if detail["type"] == "int_parsing" and _SEPARATED.fullmatch(str(detail["input"])):
        return f"write it without separators: {re.sub(r'[^0-9]', '', detail['input'])}"
    return _WORDS.get(detail["type"], "not a value of the right type").format_map(detail.get("ctx", {}))
