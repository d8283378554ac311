"""The facts of one request, on which its decision is based. Code below knows no scope and no headers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from .client import Identity

# In ``Facts.methods``: the method is unknown, so the strictest rules of all methods apply.
ANY_METHOD = "*"

Authenticate = Callable[[], Awaitable[Identity | None]]


class Facts(NamedTuple):
    """One request, as far as its decision depends on it.

    ``peer``: the other end of the connection, None on a unix socket. ``forwarded``: the lines of the configured proxy
    header, in order. ``credential`` and ``signed_ticket``: as presented, unverified. ``authenticate``: the app's own
    check, bound to this request. The other fields are the target (``TARGET``): ``route_path`` is the path below
    ``root_path``; ``methods`` are those that the app may see, or ``ANY_METHOD``; ``preflight``: a CORS preflight, which
    carries no credential.
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


# The fields that determine the route: path and methods.
TARGET = slice(1, 6)
