"""Waiting for a condition with a limit, never for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

POLL_S = 0.01
LOG_TAIL_CHARACTERS = 3000


class NotReady(AssertionError):
    """A server ended, or a condition stayed false for too long; the message ends with the tail of the log."""


def wait_until(
    condition: Callable[[], Value],
    timeout: float,
    what: str,
    log: Callable[[], str] | None = None,
) -> Value:
    """Poll until the condition is truthy and return its value; raise after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise NotReady(f"after {timeout:g} s still waiting for {what} (last: {value!r}){tail(log)}")
        time.sleep(POLL_S)


def tail(log: Callable[[], str] | None) -> str:
    """The end of a log as a paragraph for a message, or nothing where there is no log."""
    return "" if log is None else f"\n--- end of the log ---\n{log()[-LOG_TAIL_CHARACTERS:]}"
