"""Builds parts of the policy from settings, and checks rules that concern several of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from shieldmw.core.client import Identity, ListenerClass
from shieldmw.core.limits import aggregate, of_preflights
from shieldmw.core.paths import PLAYLISTS, playlist_kind
from shieldmw.core.rules import Limits, Policy, Scope

from .problems import problem

# The setting that holds each scope's limits, and the one that replaces it in an emergency.
LIMIT_FIELDS = {
    Scope.IP: "ip_limit",
    Scope.TOKEN: "token_limit",
    Scope.ADDRESS: "address_limit",
    Scope.FAILED_AUTH: "failed_auth_limit",
    Scope.PREFLIGHT: "ip_limit",
    Scope.GUESTS: "guests_limit",
}
EMERGENCY_LIMIT_FIELDS = {Scope.IP: "emergency_ip_limit", Scope.GUESTS: "emergency_guests_limit"}

# Scopes whose limits are charged a rule's cost. PREFLIGHT is left out, since its limits are those of IP.
_CHARGED_THE_COST = [scope for scope in Scope if scope not in (Scope.FAILED_AUTH, Scope.PREFLIGHT)]

_DIGEST = re.compile(r"[0-9a-f]{64}")


def burst_field(limit_field: str) -> str:
    """The setting of a limit's burst, which only some have."""
    return f"{limit_field.removesuffix('_limit')}_burst"


def rule_problems(policy: Policy) -> Iterator[str]:
    """Check the rules against each other and the default limits; yields a line for each problem."""
    for rule in policy.rules:
        if rule.name in list(Scope):
            yield f"rule '{rule.name}': this name belongs to a default limit, use another"
        charged = [limit for scope in _CHARGED_THE_COST for limit in policy.limits(scope)]
        for limit in rule.limits if rule.dry_run else (*rule.limits, *charged):
            if rule.cost > limit.burst:
                yield (
                    f"rule '{rule.name}': a cost of {rule.cost} is above the burst of limit '{limit.name}' "
                    f"({limit.burst}), so it can never be charged in full: lower the cost or raise the burst"
                )
    yield from _name_clashes(policy)


def redirect_problems(policy: Policy, recording_url: str | None) -> Iterator[str]:
    """The reasons why polls cannot be redirected to the recording, one line for each."""
    if recording_url is None:
        right = "SHIELD_RECORDING_URL is unset: set it to a playlist, such as https://example.org/recording.m3u8"
        yield problem("redirect_to_recording", "true", right)
        return
    path = unquote(urlsplit(recording_url).path)
    if playlist_kind(path) is None:
        right = f"SHIELD_REDIRECT_TO_RECORDING needs a playlist, whose path ends in {' or '.join(PLAYLISTS)}"
        yield problem("recording_url", recording_url, right)
    polled = [*policy.polled, *(rule.path for rule in policy.rules if rule.lease_s)]
    pattern = next((pattern for pattern in polled if pattern.matches(path)), None)
    if pattern is not None:
        right = (
            f"'{pattern.text}' is polled and matches its path, so guests would be refused there as well: "
            "serve the recording from another path, or name only the live playlists"
        )
        yield problem("recording_url", recording_url, right)


def _name_clashes(policy: Policy) -> Iterator[str]:
    owners: dict[str, str] = {}
    default = [limit for limits in (policy.default, policy.emergency) for scope in limits for limit in limits[scope]]
    groups: list[tuple[str, Limits]] = [("the default limits", tuple(default))]
    groups += [
        (f"rule '{rule.name}'", (*rule.limits, *map(of_preflights, rule.limits)))
        for rule in policy.rules
        if rule.name not in list(Scope)  # rejected already
    ]
    for owner, limits in groups:
        names = [name for limit in limits for name in (limit.name, aggregate(limit).name)]
        clash = next((name for name in names if name in owners), None)
        if clash is not None:
            yield f"{owner}: its limit would be called '{clash}', as one of {owners[clash]} is: use another name"
        owners.update(dict.fromkeys(names, owner))
    names = [rule.name for rule in policy.rules]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"rule '{name}': there are {names.count(name)} rules of this name, give each its own"


def read_api_keys(path: Path) -> Mapping[str, Identity]:
    """The identities in a file of lines ``sha256-hex subject [class]``, by digest; # begins a comment.

    Raises:
        ValueError: it cannot be read, or a line has another form. The line itself is not shown.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}: name a readable file") from None
    except UnicodeDecodeError:
        raise ValueError("is not text in UTF-8") from None
    entries = {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) not in (2, 3) or not _DIGEST.fullmatch(words[0].lower()):
            raise ValueError(f"line {number} is not of the form 'sha256-hex subject [class]'")
        if len(words) == 3 and words[2] not in list(ListenerClass):
            raise ValueError(f"line {number}: the class is one of host, member, guest")
        try:
            entries[words[0].lower()] = Identity(words[1], ListenerClass([*words, "member"][2]))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    return entries


def read_public_key(value: str) -> str:
    """The PEM text of ``SHIELD_JWT_PUBLIC_KEY``, or of the file that it names.

    Raises:
        ValueError: the value is neither a PEM text nor a readable file with one.
    """
    if value.startswith("-----BEGIN"):
        return value.replace("\\n", "\n")
    try:
        return Path(value).read_text("ascii")
    except UnicodeDecodeError:
        raise ValueError("the file is not PEM text") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise ValueError(f"neither a PEM text nor a file that can be read: {reason}") from None
