"""What is known of one request before it is decided; no scope and no headers below this."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from .client import Identity

# Stands in ``Facts.methods`` for an unknown method: the strictest rules of any method hold.
ANY_METHOD = "*"

Authenticate = Callable[[], Awaitable[Identity | None]]


class Facts(NamedTuple):
    """One request, as far as its verdict needs it.

    ``peer`` is the other end of the connection (None on a unix socket);
    ``forwarded`` the lines of the configured proxy header, in order; ``credential`` what was
    presented, unproven; ``authenticate`` the host app's own check, bound to this request; ``signed_ticket`` the ticket
    or number that was shown, unproven too. The rest says where the request goes (``TARGET``): ``route_path`` is the
    path below ``root_path``; ``methods`` are all that the request may end up as, or ``ANY_METHOD``; ``preflight``: it
    is what a browser asks before a request of another origin, and shows no credential.
    """

    peer: str | None
    path: str
    route_path: str
    methods: frozenset[str]
    root_path: str = ""
    preflight: bool = False
    forwarded: tuple[str, ...] = ()
    credential: str | None = None
    authenticate: Authenticate | None = None
    signed_ticket: str | None = None


# The fields that the rules of its route depend on: where the request goes. And with where it comes from, all that the
# charges of a guest depend on.
TARGET = slice(1, 6)
SOURCE_AND_TARGET = slice(0, 7)
