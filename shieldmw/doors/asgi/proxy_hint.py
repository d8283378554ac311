"""A hint for the log that SHIELD_TRUSTED_PROXIES may have been forgotten: then all clients of a proxy share one limit.

It looks at a refused request now and then, since others show no harm. Anybody can send the header of a proxy, so the
hint says what it means in either case, and comes seldom.
"""

from __future__ import annotations

import asyncio
import logging

from starlette.types import Scope

from shieldmw.core.bounds import MOST_LINES_BEFORE_ACCEPT
from shieldmw.core.text import harmless

log = logging.getLogger(__name__)

# Headers that proxies write without being told to.
USUAL_HEADERS = ("x-forwarded-for", "forwarded")

# Interval between two looks, so that a flood of refusals does not pay for them, and between two hints.
LOOK_AGAIN_S = 10.0
HINT_AGAIN_S = 600.0

# Most characters of a peer's name that are shown: an IPv6 address with a zone is shorter.
LONGEST_PEER = 64


class ProxyHint:
    """Looks for the header of a proxy, where none is trusted. ``due``: the next refusal should be looked at."""

    __slots__ = ("_names", "due")

    def __init__(self, header: str) -> None:
        self.due = True
        self._names = frozenset(name.encode() for name in (header, *USUAL_HEADERS))

    def look(self, scope: Scope) -> None:
        """Look at a guest's request that a limit refused, and be due again some time later."""
        lines = scope["headers"][:MOST_LINES_BEFORE_ACCEPT]
        name = next((line[0] for line in lines if line[0] in self._names), None)
        self.due = False
        asyncio.get_running_loop().call_later(LOOK_AGAIN_S if name is None else HINT_AGAIN_S, self._look_again)
        if name is not None:
            client = scope.get("client")
            peer = harmless(client[0][:LONGEST_PEER]) if client and client[0] else "unix"
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
