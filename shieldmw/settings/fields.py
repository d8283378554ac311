"""Parsers of single settings: from a variable's text to the value that the core works with."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_settings import NoDecode

from shieldmw.core.address import UNIX_PEER, Networks, parse_networks
from shieldmw.core.limits import parse_limits
from shieldmw.core.paths import PathPattern
from shieldmw.core.text import counted

from .store_url import CLUSTERS, SENTINELS, parse_servers, scheme_of

# Minimum lengths in characters: of the secret and of JWT secrets, and of the tokens for the admin routes.
SHORTEST_SECRET = 32
SHORTEST_TOKEN = 16

# The schemes of SHIELD_REDIS_URL.
STORE_SCHEMES = ("memory", "redis", "rediss", "unix", "embedded", *CLUSTERS, *SENTINELS)

# Algorithms that SHIELD_JWT_ALGORITHMS may pin: with a shared secret, and with public keys (RFC 7518, section 3.1).
HMAC_ALGORITHMS = ("HS256", "HS384", "HS512")
SIGNATURE_ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "ES256K", "EdDSA"),
)


def _words(text: str) -> list[str]:
    """The entries of a list, separated by commas or spaces."""
    if ";" in text:
        raise ValueError("';' separates nothing here: write a comma between two entries")
    if text.startswith("["):
        raise ValueError("not read as JSON: write the entries without brackets and quotes, with commas between them")
    return text.replace(",", " ").split()


def _split(value: object) -> object:
    return tuple(_words(value)) if isinstance(value, str) else value


def _networks(value: object) -> object:
    if not isinstance(value, str):
        return value
    words = _words(value)
    networks = parse_networks(" ".join(word for word in words if word != UNIX_PEER))
    return Networks(networks, UNIX_PEER in words)


def _patterns(value: object) -> object:
    words = _split(value)
    if not isinstance(words, tuple | list):
        return words
    return tuple(PathPattern(word) if isinstance(word, str) else word for word in words)


def _limit(value: str) -> str:
    parse_limits(value, name="limit")
    return value


def _http_url(example: str) -> Callable[[str], str]:
    """A check that a text is a web address; ``example`` shows one that would be right."""

    def check(value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.netloc or not value.isprintable() or " " in value:
            raise ValueError(f"not a web address: write it like {example}")
        return value

    return check


# An origin, and the ports that browsers leave out of it (RFC 6454, section 6.2).
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_USUAL_PORT = {"http": ":80", "https": ":443"}


def _origin(word: str) -> str:
    """An origin as browsers write it."""
    if word.lower() == "null":
        raise ValueError("'null' is what every sandboxed page calls itself: name origins such as https://example.org")
    scheme, _, rest = word.lower().rpartition("://")
    host = re.split(r"[/?#]", rest, maxsplit=1)[0].removesuffix(_USUAL_PORT.get(scheme, ":443"))
    right = f"{scheme or 'https'}://{host}"
    if word.lower() == right and _ORIGIN.fullmatch(right):
        return right
    meant = f": did you mean '{right}'?" if _ORIGIN.fullmatch(right) else ", such as https://example.org"
    raise ValueError(f"'{word}' is not an origin, which is only a scheme, a host and an unusual port{meant}")


def _origins(value: object) -> object:
    words = _split(value)
    if not isinstance(words, tuple | list) or not all(isinstance(word, str) for word in words):
        return words
    if "*" in words and len(words) > 1:
        raise ValueError("'*' means every origin: write it alone, or name the origins")
    return tuple(word if word == "*" else _origin(word) for word in words)


def _store_url(value: str) -> str:
    if "://" in value and scheme_of(value) in (*CLUSTERS, *SENTINELS):
        parse_servers(value)
        return value
    parts = urlsplit(value)
    if parts.scheme not in STORE_SCHEMES or "://" not in value:
        schemes = ", ".join(f"{scheme}://" for scheme in STORE_SCHEMES)
        raise ValueError(f"not a store: it begins with one of {schemes}")
    if parts.scheme in ("redis", "rediss") and (parts.fragment or "@" in parts.path):
        raise ValueError("a '#' or '/' ends the host: in a password write %-escapes, such as %23 for # and %2F for /")
    if parts.scheme in ("redis", "rediss") and not parts.hostname:
        raise ValueError(f"no host: write it like {parts.scheme}://localhost:6379/0")
    if parts.scheme == "unix" and not parts.path:
        raise ValueError("no path: write it like unix:///run/redis/redis.sock")
    try:
        parts.port  # noqa: B018  (raises if it is invalid)
    except ValueError:
        raise ValueError("its port is not a number from 0 to 65535; a password is written with %-escapes") from None
    return value


def at_least(length: int) -> Callable[[SecretStr], SecretStr]:
    """A check that a secret has at least ``length`` characters."""

    def check(value: SecretStr) -> SecretStr:
        if (has := len(value.get_secret_value())) < length:
            raise ValueError(f"has {counted(has, 'character')}: use at least {length} random ones")
        return value

    return check


def _fits_a_header(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~](?:[ -~]*[!-~])?", value.get_secret_value()):
        raise ValueError(
            "has a character that no header can carry, such as a typographic quote: use visible ASCII only"
        )
    return value


def _secret_url(value: SecretStr) -> SecretStr:
    try:
        _http_url("https://hooks.example.org/...")(value.get_secret_value())
    except ValueError:
        raise ValueError("not a web address: write it like https://hooks.example.org/...") from None
    return value


def _admin_path(value: str) -> str:
    pattern = PathPattern(value)
    if pattern.prefix is not None or value == "/":
        raise ValueError(f"'{value}' cannot be the admin path: write it like /-/shield")
    return value


def _algorithms(value: tuple[str, ...]) -> tuple[str, ...]:
    known = (*HMAC_ALGORITHMS, *SIGNATURE_ALGORITHMS)
    if unknown := [name for name in value if name not in known]:
        raise ValueError(f"'{unknown[0]}' is not an algorithm to sign with: use some of {', '.join(known)}")
    return value


def _none_if_off(value: object) -> object:
    return None if isinstance(value, str) and value.lower() == "off" else value


def _no_point(value: object) -> object:
    """Reject text with a point: Pydantic would read 50.000 as 50."""
    if isinstance(value, str) and "." in value:
        raise ValueError("write a whole number, without a point")
    return value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def matching(pattern: str, right: str) -> Callable[[str], str]:
    """A check that the whole text matches; ``right`` says what would be right."""
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError(right)
        return value

    return check


# The name of a header in lower case, a token of RFC 9110, section 5.6.2, of bounded length.
_HEADER_NAME = r"[!#$%&'*+.^_`|~0-9a-z-]{1,64}"
_NOT_A_HEADER = "not the name of a header: write the name alone, such as"
_NAME = matching(r"[A-Za-z0-9_.-]{1,64}", "not a name: use 1 to 64 letters, digits, '.', '_' and '-'")

Whole = Annotated[int, BeforeValidator(_no_point)]
LimitText = Annotated[str, AfterValidator(_limit)]
NetworkSet = Annotated[Networks, NoDecode, BeforeValidator(_networks)]
Patterns = Annotated[tuple[PathPattern, ...], NoDecode, BeforeValidator(_patterns)]
Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_origins)]
Algorithms = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_algorithms)]
RecordingUrl = Annotated[str, AfterValidator(_http_url("https://example.org/recording"))]
SignInUrl = Annotated[str, AfterValidator(_http_url("https://example.org/sign-in"))]
JwksUrl = Annotated[str, AfterValidator(_http_url("https://example.org/.well-known/jwks.json"))]
StoreUrl = Annotated[str, AfterValidator(_store_url)]
Secret = Annotated[SecretStr, AfterValidator(at_least(SHORTEST_SECRET))]
AdminToken = Annotated[SecretStr, AfterValidator(at_least(SHORTEST_TOKEN)), AfterValidator(_fits_a_header)]
WebhookUrl = Annotated[SecretStr, AfterValidator(_secret_url)]
AdminPath = Annotated[str, AfterValidator(_admin_path)]
ForwardedHeader = Annotated[
    str, BeforeValidator(_lower), AfterValidator(matching(_HEADER_NAME, f"{_NOT_A_HEADER} x-forwarded-for"))
]
TokenHeader = Annotated[
    str, BeforeValidator(_lower), AfterValidator(matching(_HEADER_NAME, f"{_NOT_A_HEADER} authorization or x-api-key"))
]
Name = Annotated[str, AfterValidator(_NAME)]
OptionalTokenHeader = Annotated[TokenHeader | None, BeforeValidator(_none_if_off)]
KeyPrefix = Annotated[
    str, AfterValidator(matching(r"[A-Za-z0-9_.:-]{1,64}", "use 1 to 64 letters, digits, '.', '_', ':' and '-'"))
]
