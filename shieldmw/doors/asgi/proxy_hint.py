"""A hint for the log that SHIELD_TRUSTED_PROXIES may have been forgotten: then all clients of a proxy share one limit.

It looks at a refused request now and then, since others show no harm. Anybody can send the header of a proxy, so the
hint says what it means in either case, and comes seldom.
"""

from __future__ import annotations

import asyncio
import logging

from starlette.types import Scope

from shieldmw.core.address import parse_address
from shieldmw.core.bounds import MOST_LINES_BEFORE_ACCEPT
from shieldmw.core.client import address_text

log = logging.getLogger(__name__)

# Headers that proxies write without being told to.
USUAL_HEADERS = ("x-forwarded-for", "forwarded")

# Interval between two looks, so that a flood of refusals does not pay for them, and between two hints.
LOOK_AGAIN_S = 10.0
HINT_AGAIN_S = 600.0


class ProxyHint:
    """Looks for the header of a proxy, where none is trusted. ``due``: the next refusal should be looked at."""

    def __init__(self, header: str) -> None:
        self.due = True
        self._names = frozenset(name.encode() for name in (header, *USUAL_HEADERS))

    def look(self, scope: Scope) -> None:
        """Look at a guest's request that a limit refused, and be due again some time later."""
        lines = scope["headers"][:MOST_LINES_BEFORE_ACCEPT]
        name = next((line[0] for line in lines if line[0] in self._names), None)
        self.due = False
        asyncio.get_running_loop().call_later(LOOK_AGAIN_S if name is None else HINT_AGAIN_S, self._look_again)
        client = scope.get("client")
        # A server may have taken the address from the header itself, so only a real one is shown.
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

    def _look_again(self) -> None:
        self.due = True
