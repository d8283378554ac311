"""How each proxy asks, as data: which headers carry the original request, and what becomes of an answer.

A dialect is chosen by the route that a proxy asks, and only its headers are read: the client writes those of the
others. What is said here was seen with nginx 1.22, Caddy 2.11, Traefik 3.7, HAProxy 2.6 and Envoy 1.40.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto


class Refusals(Enum):
    """What a proxy passes on of a refusal.

    ``WHOLE``: all of it. ``BELOW_500``: all of it if the status is below 500; it takes other answers for failures of
    the shield. ``AS_403``: it knows no other status and drops the body, so both are in headers, from which its
    configuration makes the client's answer.
    """

    WHOLE = auto()
    BELOW_500 = auto()
    AS_403 = auto()


@dataclass(frozen=True, slots=True)
class Dialect:
    """The headers that carry the original method, target, host and scheme, in lower case.

    Without a header for the method or the host, they are the question's own; without one for the target, that follows
    the route's path. ``names`` are all of them.
    """

    method: bytes | None
    target: bytes | None
    host: bytes | None = None
    scheme: bytes = b"x-forwarded-proto"
    refusals: Refusals = Refusals.WHOLE
    names: frozenset[bytes | None] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", frozenset((self.method, self.target, self.host, self.scheme)))


DIALECTS = {
    "nginx": Dialect(b"x-original-method", b"x-original-uri", refusals=Refusals.AS_403),
    "caddy": Dialect(b"x-forwarded-method", b"x-forwarded-uri"),
    "traefik": Dialect(b"x-forwarded-method", b"x-forwarded-uri", b"x-forwarded-host"),
    "haproxy": Dialect(b"x-forwarded-method", b"x-forwarded-uri", b"x-forwarded-host"),
    "envoy": Dialect(None, None, refusals=Refusals.BELOW_500),
}
