"""Reading a path as the most different servers would, so that no spelling of it slips past a rule.

Frameworks disagree on ``//``, ``/../``, ``%2e``, ``;x=y`` and a trailing slash. So a path has
several *readings*: a restriction holds where any reading matches, an exemption only where the
path is already plain. Whatever the app makes of a path, an attacker gains nothing by its spelling.
"""

from __future__ import annotations

import re
from itertools import product
from urllib.parse import unquote

# Each pass takes one layer of nested escapes away; what is still escaped then is no path of ours.
MOST_LAYERS = 8

# Up to here a path is read in every combination of ways; a longer one only as it is and plain.
LONGEST_TRICKY = 1024

_NESTED = re.compile(r"%(?:25)+")


def plain(path: str) -> str:
    """The path with everything resolved that some server resolves; idempotent.

    Percent-escapes that survived the server's own decoding are decoded, backslashes are slashes,
    ``;parameters``, characters that do not print, empty and ``.`` segments and a trailing slash are
    gone, and ``..`` takes its parent away.
    """
    if _is_plain(path):
        return path
    text = _printing(_decoded(_printing(path))).replace("\\", "/")
    return _resolved(_without_parameters(text), merge_slashes=True)


def readings(path: str, route_path: str, root_path: str = "") -> tuple[str, ...]:
    """Every way the path could be meant, each once, with and without the root path."""
    if _is_plain(path) and _is_plain(route_path):
        return (path,) if path == route_path else (route_path, path)
    found = {route_path: None, plain(route_path): None}
    for reading in (path, *_variants(path), *_variants(route_path)):
        found[reading] = None
        found[below_root(reading, root_path)] = None
    return tuple(found)


def below_root(path: str, root_path: str) -> str:
    """The path below the root path, as the app's router sees it."""
    if not root_path or not path.startswith(root_path):
        return path
    below = path[len(root_path) :]
    return below if below.startswith("/") else ("/" if not below else path)


def _variants(path: str) -> set[str]:
    """What servers make of a path that decode once more or do not, know parameters or do not, and so on."""
    if len(path) > LONGEST_TRICKY:
        return {plain(path)}
    found = {plain(path)}
    for decodes, prints, backslashes, parameters, merges in product((False, True), repeat=5):
        text = unquote(path) if decodes else path
        text = _printing(text) if prints else text
        text = text.replace("\\", "/") if backslashes else text
        text = _without_parameters(text) if parameters else text
        found.add(_resolved(text, merge_slashes=merges))
    return found


def _decoded(text: str) -> str:
    text = _NESTED.sub("%", text)
    for _ in range(MOST_LAYERS):
        once = _printing(unquote(text))
        if once == text:
            return text
        text = once
    return text.replace("%", "")


def _printing(text: str) -> str:
    return text if text.isprintable() else "".join(character for character in text if character.isprintable())


def _without_parameters(text: str) -> str:
    return "/".join(segment.partition(";")[0] for segment in text.split("/")) if ";" in text else text


def _resolved(text: str, *, merge_slashes: bool) -> str:
    """Dots resolved as RFC 3986, section 5.2.4, has it; empty segments merged as nginx does, or not."""
    kept: list[str] = []
    for segment in text.removeprefix("/").split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment != "." and (segment or not merge_slashes):
            kept.append(segment)
    return "/" + "/".join(kept).rstrip("/")


def _is_plain(path: str) -> bool:
    return (
        path.startswith("/")
        and path.isprintable()
        and not any(mark in path for mark in ("//", "/.", "%", ";", "\\"))
        and (path == "/" or not path.endswith("/"))
    )


class PathPattern:
    """A path to match exactly, or with everything below it where the pattern ends in ``/*``.

    ``/live/*`` matches ``/live``, ``/live/`` and ``/live/a/b``, never ``/livestock``; ``/*``
    matches every path.

    Raises:
        ValueError: the pattern is not a plain absolute path.
    """

    __slots__ = ("exact", "prefix", "text")

    def __init__(self, text: str) -> None:
        exact = "/" if text == "/*" else text.removesuffix("/*")
        if "*" in exact:
            raise ValueError(f"'{text}' has a * that is not at its end: use an exact path, or one that ends in /*")
        if plain(exact) != exact:
            raise ValueError(f"'{text}' is not a plain path: did you mean '{plain(exact)}'?")
        self.text = text
        self.exact = exact
        self.prefix = exact.rstrip("/") + "/" if text.endswith("/*") else None

    def matches(self, path: str) -> bool:
        """Whether one reading of a path falls under the pattern."""
        return path == self.exact or (self.prefix is not None and path.startswith(self.prefix))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PathPattern) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"PathPattern({self.text!r})"
