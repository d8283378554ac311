"""Reading a path as the most different servers would, so that no spelling of it slips past a rule.

Frameworks disagree on ``//``, ``/../``, ``%2e``, ``;x=y`` and a trailing slash. So a path has
several *readings*: a restriction holds where any reading matches, an exemption only where the
path is already plain. Whatever the app makes of a path, an attacker gains nothing by its spelling.
"""

from __future__ import annotations

from urllib.parse import unquote


def plain(path: str) -> str:
    """The path with everything resolved that some server resolves; idempotent.

    Percent-escapes that survived the server's own decoding are decoded, backslashes are slashes,
    ``;parameters``, control characters, empty and ``.`` segments and a trailing slash are gone,
    and ``..`` takes its parent away.
    """
    if _is_plain(path):
        return path
    decoded = path
    while "%" in decoded and (once := unquote(decoded, "latin-1")) != decoded:
        decoded = once
    segments: list[str] = []
    for raw in decoded.replace("\\", "/").split("/"):
        segment = "".join(c for c in raw.partition(";")[0] if c.isprintable())
        if segment == "..":
            del segments[-1:]
        elif segment not in ("", "."):
            segments.append(segment)
    return "/" + "/".join(segments)


def _is_plain(path: str) -> bool:
    return (
        path.startswith("/")
        and path.isprintable()
        and not any(mark in path for mark in ("//", "/.", "%", ";", "\\"))
        and (path == "/" or not path.endswith("/"))
    )


def readings(path: str, route_path: str) -> tuple[str, ...]:
    """Every way the path could be meant, each once: as it is and plain, with and without root path."""
    return tuple(dict.fromkeys((route_path, plain(route_path), path, plain(path))))


class PathPattern:
    """A path to match exactly, or with everything below it where the pattern ends in ``/*``.

    ``/live/*`` matches ``/live``, ``/live/`` and ``/live/a/b``, never ``/livestock``; ``/*``
    matches every path.

    Raises:
        ValueError: the pattern is not a plain absolute path.
    """

    __slots__ = ("exact", "prefix", "text")

    def __init__(self, text: str) -> None:
        exact = text.removesuffix("/*") or "/"
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
