"""Refuses WebSockets: in HTTP, or by accepting them and closing them at once.

After a failed handshake, a browser gives the page only code 1006 (WebSockets Standard, section 4). A page can read the
close code and the reason only of a connection that was accepted first.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import Scope, Send

from shieldmw.core.bounds import LONGEST_PROTOCOL, MOST_PROTOCOLS

from .credentials import is_dotted_bearer
from .lingering import Lingering


class Handshakes:
    """Refuses handshakes. If ``closes``, they are accepted and then closed, as long as ``lingering`` has room."""

    def __init__(self, lingering: Lingering, *, closes: bool) -> None:
        self._lingering = lingering
        self._closes = closes

    @property
    def closes(self) -> bool:
        """Whether the next handshake is accepted and then closed."""
        return self._closes and self._lingering.has_room

    async def close(
        self, scope: Scope, send: Send, code: int, reason: str, headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        """Accept a handshake and close it, with a reason of at most 123 bytes.

        Some servers wait here for the client to close too; ``lingering`` limits that.
        """
        chosen = subprotocol(scope.get("subprotocols") or ())
        await self._lingering.stay(_accept_and_close(send, chosen, code, reason, headers))


async def _accept_and_close(
    send: Send, chosen: str | None, code: int, reason: str, headers: Sequence[tuple[bytes, bytes]]
) -> None:
    await send({"type": "websocket.accept", "subprotocol": chosen, "headers": [*headers]})
    await send({"type": "websocket.close", "code": code, "reason": reason})


def subprotocol(offered: Sequence[str]) -> str | None:
    """The first offered subprotocol that is not a token; a browser accepts only one that it has offered.

    A token comes as ``bearer.x``, or right after ``bearer``.
    """
    after_bearer = False
    for name in offered[:MOST_PROTOCOLS]:
        is_token = after_bearer or is_dotted_bearer(name) or len(name) > LONGEST_PROTOCOL
        after_bearer = name.lower() == "bearer"
        if not is_token:
            return name
    return None
