"""All exceptions of the shield, in one tree; a refusal is a value, never an exception.

ShieldError
├── SettingsError      settings cannot be used; says which, and what would be right
├── UpstreamError      a proxied request got no answer from the server behind the proxy
└── StoreError         an operation of the shared store failed
    ├── NotPermitted       the store's user lacks a right
    └── StoreUnavailable   no answer in time, or an answer that means "not now"
        └── NotApplied    certainly without any effect on the store
"""

from __future__ import annotations

from collections.abc import Iterable


class ShieldError(Exception):
    """Base of every error raised by shieldmw."""


class SettingsError(ShieldError):
    """The settings cannot be used. ``problems`` holds a line for each wrong setting."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems: tuple[str, ...] = tuple(_one_line(problem) for problem in problems)
        super().__init__("\n".join(self.problems))


def _one_line(text: str) -> str:
    """The text with unprintable characters escaped, since it may quote a wrong value."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


class UpstreamError(ShieldError):
    """A request cannot be proxied, or its response is missing or incomplete."""


class StoreError(ShieldError):
    """An operation of the shared store failed, or its answer cannot be used."""


class NotPermitted(StoreError):
    """The shared store's user lacks the right to run a command. ``shieldmw check`` names the right."""


class StoreUnavailable(StoreError):
    """The shared store is away: connection refused, too slow, loading, read-only or out of memory."""


class NotApplied(StoreUnavailable):
    """The shared store is away, and nothing was changed: the call was never sent, or the server rejected it."""
