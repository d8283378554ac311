"""Finds variables whose names are wrong, and the ones that were probably meant."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from difflib import get_close_matches

from .problems import COMMAND_VARIABLES, ENV_PREFIX

# The package's name as a prefix, which is easily mistaken for that of the settings.
_WRONG_PREFIX = "SHIELDMW_"


def wrong_names(names: Collection[str], known: Collection[str]) -> Iterator[str]:
    """A line for each name with our prefix that is neither a ``known`` setting nor a variable of a command."""
    for name in names:
        if name.upper().startswith(ENV_PREFIX) and name not in known and name not in COMMAND_VARIABLES:
            yield _unknown(name, known)
    yield from _misnamed(names, (*known, *COMMAND_VARIABLES))


def lookalikes(names: Collection[str], known: Collection[str], own: Collection[str]) -> Iterator[str]:
    """A line for each wrong name that was probably meant as one of a command's ``own`` variables.

    Others are ignored: a command needs only its own, and the workers may be of a newer version.
    """
    for name in names:
        if not name.upper().startswith(ENV_PREFIX) or name in known or name in COMMAND_VARIABLES:
            continue
        tail = f"_{name.upper().removeprefix(ENV_PREFIX)}"
        short_for = next((each for each in own if each.endswith(tail)), None)
        if name.upper() in own:
            yield _not_in_capitals(name)
        elif (meant := short_for or _nearest(name, known)) in own:
            yield f"{name}: there is no such setting, did you mean {meant}?"
    yield from _misnamed(names, own)


def _misnamed(names: Collection[str], known: Collection[str]) -> Iterator[str]:
    """A line for each variable that was meant as a setting, but begins with the package's name."""
    for name in names:
        if name.upper().startswith(_WRONG_PREFIX):
            meant = ENV_PREFIX + name.upper().removeprefix(_WRONG_PREFIX)
            if meant in known:
                yield f"{name}: names begin with {ENV_PREFIX}, write {meant}"


def _unknown(name: str, known: Collection[str]) -> str:
    if name.upper() in known or name.upper() in COMMAND_VARIABLES:
        return _not_in_capitals(name)
    limit = f"{name.upper().removesuffix('_BURST')}_LIMIT"
    if name.upper().endswith("_BURST") and limit in known:
        return (
            f"{name}: there is no such setting; as many pass at once as {limit} has units: "
            f"for fewer put a shorter limit before it, such as {limit}=10/second,300/minute"
        )
    nearest = _nearest(name, known)
    return f"{name}: there is no such setting" + (f", did you mean {nearest}?" if nearest else ": see 'shieldmw env'")


def _not_in_capitals(name: str) -> str:
    return f"{name}: names are in capitals, write {name.upper()}"


def _nearest(name: str, known: Collection[str]) -> str | None:
    # Compared without the common prefix, which would make any two names look similar.
    bare = [each.removeprefix(ENV_PREFIX) for each in (*known, *COMMAND_VARIABLES)]
    found = get_close_matches(name.upper().removeprefix(ENV_PREFIX), bare, n=1)
    return ENV_PREFIX + found[0] if found else None
