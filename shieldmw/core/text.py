"""Text from outside, made fit to be shown: in a terminal or a log it must be seen and do nothing. Pure."""

from __future__ import annotations


def harmless(text: object) -> str:
    """The text on one line, with unprintable characters as escapes: control characters, which move cursors and set
    titles, and those that turn the direction of writing or begin a new line."""
    line = str(text)
    return line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
