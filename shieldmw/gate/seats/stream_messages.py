"""How workers announce to one another which streams their clients have: the text of a message, and reading it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

STREAMS = "streams "

# The number of a worker's last message, by which it announces that it stops; no other message has it.
GOODBYE = 0


class Announced(NamedTuple):
    """One client's streams on a worker, by their starts; with ``asks``, other workers must announce theirs."""

    client: int
    asks: bool
    began_ms: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.client:x}{'?' if self.asks else ':'}{'.'.join(map(str, self.began_ms))}"


class StreamsMessage(NamedTuple):
    """One message: the worker, its sequence number, and the clients announced."""

    worker: str
    number: int
    clients: Sequence[Announced]

    def __str__(self) -> str:
        return f"{STREAMS}{self.worker}:{self.number} {','.join(map(str, self.clients))}"


def parsed(change: str) -> StreamsMessage | None:
    """The message; None if its head is malformed. Everything after the first malformed client is ignored."""
    head, _, items = change.removeprefix(STREAMS).partition(" ")
    worker, _, number = head.partition(":")
    return StreamsMessage(worker, int(number), tuple(_clients(items))) if number.isdecimal() else None


def _clients(items: str) -> Iterator[Announced]:
    with suppress(ValueError):
        for item in items.split(",") if items else ():
            name, asks, began = item.partition("?")
            if not asks:
                name, _, began = item.partition(":")
            yield Announced(int(name, 16), bool(asks), tuple(map(int, began.split("."))) if began else ())
