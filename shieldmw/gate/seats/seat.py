"""One seat: a live stream, whose it is, and how its listener is asked to leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from shieldmw.core.client import Address, ListenerClass
from shieldmw.core.decision import Reason


@dataclass(eq=False, slots=True)
class Seat:
    """One live stream.

    ``leave`` is called when its listener must leave, after ``why`` was set to the reason; None if it never has to (a
    dry run). A ticket has one stream for each ``path`` (a digest). ``back_ms`` is when the listener came back with the
    ticket, by the store's clock; 0 for the ticket's first stream, which is older than any other. ``client`` stands for
    the client that is charged (0 for none), ``began_ms`` is when the stream began, by the same clock; 0 for a guest
    that came back with a ticket. ``first_ms`` is when the client was first admitted with this ticket. ``address``,
    ``api_key`` (the digest of the key that proved a member) and ``until_s`` (when the credential ends, Unix time)
    decide when the listener may no longer stay. ``is_slow``: the response must not be cut at once, and may use the time
    of the goodbye to finish. ``turn`` is set once the response that still runs on this seat has ended; None if the seat
    was empty.
    """

    listener_class: ListenerClass
    cohort: int
    ticket_id: str
    leave: Callable[[], None] | None
    path: str = ""
    back_ms: int = 0
    client: int = 0
    began_ms: int = 0
    address: Address | None = None
    api_key: str | None = None
    until_s: float = inf
    first_ms: int = 0
    why: Reason = Reason.NO_SEAT
    is_slow: bool = False
    turn: asyncio.Event | None = None
    predecessor: Seat | None = None
    successor: Seat | None = None
