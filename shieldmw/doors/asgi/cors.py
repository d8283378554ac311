"""CORS headers of refusals, so that pages of other origins can read them: the app cannot add any to these answers.

They only allow reading. A refused preflight stays refused: allowing it might permit requests that the app's own CORS
policy forbids (Fetch Standard, section 3.2).
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.types import Scope

from shieldmw.core.bounds import MOST_LINES

ANY_ORIGIN = "*"

_EXPOSED = (b"access-control-expose-headers", b"Retry-After, RateLimit, RateLimit-Policy, Shield-Ticket")
_TO_ANYBODY = ((b"access-control-allow-origin", b"*"), _EXPOSED)
_WITH_COOKIES = (b"access-control-allow-credentials", b"true")
_VARY = (b"vary", b"Origin")


class Cors:
    """The headers of refusals for pages of ``origins``; ``*`` among them means all pages, without cookies."""

    def __init__(self, origins: Collection[str]) -> None:
        self._origins = frozenset(origin.encode("latin-1") for origin in origins)
        self._any = ANY_ORIGIN in origins

    def headers(self, scope: Scope) -> tuple[tuple[bytes, bytes], ...]:
        """The CORS headers for the refusal of this request."""
        if self._any:
            return _TO_ANYBODY
        for name, value in scope["headers"][:MOST_LINES]:
            if name == b"origin" and value in self._origins:
                return ((b"access-control-allow-origin", value), _WITH_COOKIES, _EXPOSED, _VARY)
        return (_VARY,)
