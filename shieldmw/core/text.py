"""Makes outside text safe to show: in a terminal or a log it must be visible and have no effect. Pure."""

from __future__ import annotations


def harmless(text: object) -> str:
    """The text on one line, with unprintable characters escaped: control characters, which move cursors and set
    titles, and those that change the writing direction or begin a new line."""
    line = str(text)
    return line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
