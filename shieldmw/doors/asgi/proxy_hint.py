"""Logs a hint if SHIELD_TRUSTED_PROXIES may have been forgotten, so that all clients of a proxy share one limit.

Only refused requests are checked, and only now and then. Clients can forge a proxy's header, so the hint says what it
means in either case, and is logged rarely.
"""

from __future__ import annotations

import logging

from starlette.types import Scope

from shieldmw.core.address import parse_address
from shieldmw.core.bounds import MOST_LINES_BEFORE_ACCEPT
from shieldmw.core.client import address_text
from shieldmw.gate.clock import SYSTEM_CLOCK, Clock

log = logging.getLogger(__name__)

# Headers that proxies write by default.
USUAL_HEADERS = ("x-forwarded-for", "forwarded")

# Interval between two checks, so that they cost nothing in a flood of refusals, and between two hints.
LOOK_AGAIN_S = 10.0
HINT_AGAIN_S = 600.0


class ProxyHint:
    """Checks requests for a proxy's header while no proxy is trusted."""

    def __init__(self, header: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._now_s = clock.now_s
        self._due_s = float("-inf")
        self._names = frozenset(name.encode() for name in (header, *USUAL_HEADERS))

    def look(self, scope: Scope) -> None:
        """Check a guest's request that a limit refused, unless one was checked a short while ago."""
        now_s = self._now_s()
        if now_s < self._due_s:
            return
        lines = scope["headers"][:MOST_LINES_BEFORE_ACCEPT]
        name = next((line[0] for line in lines if line[0] in self._names), None)
        self._due_s = now_s + (LOOK_AGAIN_S if name is None else HINT_AGAIN_S)
        client = scope.get("client")
        # A server may have taken the address from the header, so it is shown only if it is valid.
        peer = address_text(parse_address(client[0])) if client and client[0] else "unix"
        if name is not None and peer is not None:
            log.warning(
                "a refused request has the header %s, which is not read since SHIELD_TRUSTED_PROXIES is empty. If its "
                "peer, %s, is a proxy of yours, all clients behind it share one limit: set SHIELD_TRUSTED_PROXIES=%s. "
                "Otherwise a client has made the header up, which does nothing: ignore this line",
                name.decode("latin-1"),
                peer,
                peer,
            )
