"""What is known of one request before it is decided; no scope and no headers below this."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from .client import Identity

# Stands in ``Facts.methods`` for an unknown method: the strictest rules of any method hold.
ANY_METHOD = "*"

Authenticate = Callable[[], Awaitable[Identity | None]]


class Facts(NamedTuple):
    """One request, as far as its verdict needs it.

    ``peer`` is the other end of the connection (None on a unix socket);
    ``forwarded`` the lines of the configured proxy header, in order; ``credential`` what was
    presented, unproven; ``methods`` every method the request may end up as, or ``ANY_METHOD``; ``route_path`` the
    path below ``root_path``; ``authenticate`` the host app's own check, bound to this request;
    ``signed_ticket`` the ticket or number that was shown, unproven too. ``kept`` is where the gate may keep what
    it worked out of them, where the same facts come again. ``preflight``: it is what a browser asks before a
    request of another origin, and shows no credential.
    """

    peer: str | None
    path: str
    route_path: str
    methods: frozenset[str]
    forwarded: tuple[str, ...] = ()
    credential: str | None = None
    authenticate: Authenticate | None = None
    signed_ticket: str | None = None
    root_path: str = ""
    kept: list[Any] | None = None
    preflight: bool = False
