"""Reads a path in all the ways that servers do, so that no spelling of it evades a rule.

Frameworks disagree on ``//``, ``/../``, ``%2e``, ``;x=y`` and trailing slashes. A path therefore has several
*readings*: a restriction applies if any reading matches, an exemption only if all servers read the path alike. An
attacker gains nothing by an unusual spelling, however the app reads it. A path that is longer or more tangled than any
legitimate one (``bounds.py``) is not read at all: the strictest rules apply to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote

from .bounds import LONGEST_PATH, MOST_LAYERS, MOST_MARKS, MOST_PATH_ESCAPES

# A percent sign that was itself escaped, once or several times.
_NESTED = re.compile(r"%(?:25)+")

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")

# Endings of the playlists of HLS and DASH.
PLAYLISTS = HLS, DASH = ".m3u8", ".mpd"


def served(raw_path: bytes) -> str:
    """The path of a request target, decoded as servers decode it; one with too many escapes as it is, so that it is
    beyond reading.

    ``urllib.parse.unquote`` takes 100 ms for 60 KB of percent signs that escape nothing, since each is an exception.
    """
    if raw_path.count(b"%") <= MOST_PATH_ESCAPES:
        raw_path = _ESCAPE.sub(lambda escape: bytes.fromhex(escape[1].decode()), raw_path)
    return raw_path.decode("utf-8", "replace")


def plain(path: str) -> str:
    """The path in its simplest form, with everything resolved that any server resolves. Idempotent.

    Percent-escapes that survived the server's own decoding are decoded; backslashes become slashes; ``;parameters``,
    unprintable characters, empty and ``.`` segments and a trailing slash are removed; ``..`` removes its parent.
    """
    if is_plain(path):
        return path
    text = _with_slashes(_printing(_decoded(_printing(path))))
    return _resolved(_without_parameters(text), merge_slashes=True)


def has_one_reading(path: str) -> bool:
    """Whether every server reads the path literally."""
    return is_plain(path) or (not is_beyond_reading(path) and plain(path) == path)


def is_beyond_reading(path: str) -> bool:
    """Whether a path that is not plain is too long or has too many marks to be read in every way."""
    return len(path) > LONGEST_PATH or sum(map(path.count, "/\\%;")) > MOST_MARKS


def readings(path: str, route_path: str, root_path: str = "") -> tuple[str, ...]:
    """Every reading of the path, each once, with and without the root path; empty if it is beyond reading."""
    if is_plain(path) and (path == route_path or is_plain(route_path)):
        return (path,) if path == route_path else (route_path, path)
    if is_beyond_reading(path):
        return ()
    found = {route_path: None, plain(route_path): None, path: None}
    for reading in _variants(path) | (set() if path == route_path else _variants(route_path)) | {path}:
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
    """The readings of a path by servers that may or may not decode it once more, drop parameters, and so on."""
    texts = {path}
    for step in (unquote, _printing, _with_slashes, _without_parameters):
        texts |= {step(text) for text in texts}
    return {plain(path)} | {_resolved(text, merge_slashes=merges) for text in texts for merges in (False, True)}


def _decoded(text: str) -> str:
    text = _NESTED.sub("%", text)
    for _ in range(MOST_LAYERS):
        once = _printing(unquote(text))
        if once == text:
            return text
        text = once
    return text.replace("%", "")


def _printing(text: str) -> str:
    return text if text.isprintable() else "".join(filter(str.isprintable, text))


def _with_slashes(text: str) -> str:
    return text.replace("\\", "/")


def _without_parameters(text: str) -> str:
    return "/".join(segment.partition(";")[0] for segment in text.split("/")) if ";" in text else text


def _resolved(text: str, *, merge_slashes: bool) -> str:
    """The path with dots resolved as in RFC 3986, section 5.2.4; empty segments merged as in nginx, or not."""
    kept: list[str] = []
    for segment in text.removeprefix("/").split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment != "." and (segment or not merge_slashes):
            kept.append(segment)
    return "/" + "/".join(kept).rstrip("/")


def is_plain(path: str) -> bool:
    """Whether all servers certainly read the path alike, by a quick check."""
    return (
        path.startswith("/")
        and path.isprintable()
        and not any(mark in path for mark in ("//", "/.", "%", ";", "\\"))
        and (path == "/" or not path.endswith("/"))
    )


def playlist_kind(path: str) -> str | None:
    """The ending of a playlist's path, ``HLS`` or ``DASH``; None for any other path."""
    return next((ending for ending in PLAYLISTS if path.lower().endswith(ending)), None)


def _why_not_plain(path: str) -> str:
    if not path.startswith("/"):
        return "does not begin with a slash"
    if plain(path) == path.rstrip("/"):
        return "ends in a slash, which is left out here"
    return "is not a path as the app sees it, decoded and without //, dots and ;parameters"


@dataclass(frozen=True, slots=True)
class PathPattern:
    """A path to match exactly, or together with everything below it if the pattern ends in ``/*``.

    ``/live/*`` matches ``/live``, ``/live/`` and ``/live/a/b``, but not ``/livestock``; ``/*`` matches every path.

    Raises:
        ValueError: the pattern is not a plain absolute path.
    """

    text: str
    exact: str = field(init=False, repr=False, compare=False)
    prefix: str | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        text = self.text
        exact = "/" if text == "/*" else text.removesuffix("/*")
        if mark := next((mark for mark in "?#" if mark in text), ""):
            meant = text[: text.index(mark)]
            raise ValueError(f"'{text}' has a '{mark}', which never reaches the app's path: did you mean '{meant}'?")
        if "{" in text or "}" in text:
            raise ValueError(f"'{text}' has a placeholder: use an exact path, or one that ends in /*")
        if "*" in exact:
            raise ValueError(f"'{text}' has a * that is not at its end: use an exact path, or one that ends in /*")
        if plain(exact) != exact:
            meant = plain(exact) + text[len(exact) :]
            raise ValueError(f"'{text}' {_why_not_plain(exact)}: did you mean '{meant}'?")
        object.__setattr__(self, "exact", exact)
        object.__setattr__(self, "prefix", exact.rstrip("/") + "/" if text.endswith("/*") else None)

    def matches(self, path: str) -> bool:
        """Whether a reading of a path matches the pattern."""
        return path == self.exact or (self.prefix is not None and path.startswith(self.prefix))

    def overlaps(self, other: PathPattern) -> bool:
        """Whether there is a path that both patterns match."""
        return self.matches(other.exact) or other.matches(self.exact)
