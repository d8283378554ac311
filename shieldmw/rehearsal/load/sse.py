"""Parses server-sent events from the bytes of a stream, as a browser does (WHATWG HTML, 9.2.6). Pure.

Only what a drill needs: lines end with LF or CRLF, and an event without data counts too, so that a ``retry:`` on its
own is seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """One event. ``retry_ms`` is the reconnection time, if the event has one."""

    name: str = "message"
    data: str = ""
    id: str | None = None
    retry_ms: int | None = None


class EventReader:
    """Takes chunks as they come and yields the events that are complete."""

    def __init__(self) -> None:
        self._rest = b""
        self._fields: list[tuple[str, str]] = []

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that end in this chunk."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            text = line.decode("utf-8", "replace").removesuffix("\r")
            if text:
                name, _, value = text.partition(":")
                self._fields.append((name, value.removeprefix(" ")))
            elif self._fields:
                fields, self._fields = self._fields, []
                yield _event(fields)


def _event(fields: list[tuple[str, str]]) -> Event:
    said = dict(fields)
    retry = said.get("retry", "")
    return Event(
        name=said.get("event", "message"),
        data="\n".join(value for name, value in fields if name == "data"),
        id=said.get("id"),
        retry_ms=int(retry) if retry.isascii() and retry.isdigit() else None,
    )
