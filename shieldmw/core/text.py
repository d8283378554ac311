"""Text for people: outside text made safe for a terminal or a log, and numbers with their noun. Pure."""

from __future__ import annotations


def harmless(text: object) -> str:
    """The text on one line, with unprintable characters escaped: those that control a terminal, change the writing
    direction, or begin a new line."""
    line = str(text)
    return line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def counted(number: int, noun: str) -> str:
    """The number with its noun, in the plural unless it is 1: ``1 worker``, ``1,200 guests``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
