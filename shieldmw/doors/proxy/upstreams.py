"""Where requests are passed on to, and which upstream is next: round robin over those that answer. No I/O, no clock.

Health is passive. An upstream that has failed several requests in a row is left out for a while, longer each time, and
the next request after that is its trial. One at least is never left out, since a wrong guess must not close the site.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

# Failures in a row after which an upstream is left out: fewer would be an accident.
MOST_FAILURES = 3

# How long it is left out, at first and at most; the pause doubles with each failed trial.
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9.])?|[0-9a-fA-F:.]+")
_EXAMPLES = "write it like http://127.0.0.1:9000, https://app.example.org or unix:/run/app.sock"


@dataclass(frozen=True, slots=True)
class UpstreamAddress:
    """The address of an upstream: a host and a port, or the path of a unix socket. ``host`` is also its TLS name."""

    text: str
    host: str
    port: int
    path: str | None = None
    tls: bool = False

    @property
    def authority(self) -> bytes:
        """The Host by which the upstream knows itself."""
        if self.path is not None:
            return b"localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}").encode("ascii")


def parse_upstream(text: str) -> UpstreamAddress:
    """The address that ``http://HOST:PORT``, ``https://HOST:PORT`` or ``unix:PATH`` spells.

    Raises:
        ValueError: it is none; the message says what would be right.
    """
    if text.startswith("unix:") and not text.startswith("unix://"):
        path = text.removeprefix("unix:")
        if not path.startswith("/") or not path.isprintable():
            raise ValueError(f"no absolute path of a unix socket: {_EXAMPLES}")
        return UpstreamAddress(text, "localhost", 0, path)
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"not an upstream: {_EXAMPLES}")
    if "@" in parts.netloc:
        raise ValueError(f"an upstream takes no user and password: {_EXAMPLES}")
    if parts.path not in ("", "/") or parts.query or parts.fragment or "?" in text or "#" in text:
        raise ValueError(f"requests keep their own path, so an upstream has none: {_EXAMPLES}")
    tls = parts.scheme == "https"
    try:
        port = parts.port or (443 if tls else 80)
    except ValueError:
        raise ValueError(f"its port is not a number from 1 to 65535: {_EXAMPLES}") from None
    host = parts.hostname or ""
    if not _HOST.fullmatch(host):
        raise ValueError(f"{host!r} is no host: {_EXAMPLES}")
    return UpstreamAddress(text.rstrip("/"), host, port, tls=tls)


@dataclass(slots=True)
class Health:
    """The recent failures of one upstream: how many in a row, and how long and until when it is left out."""

    failures: int = 0
    pause_s: float = 0.0
    out_until_s: float = float("-inf")


class Balancer:
    """Chooses among ``count`` upstreams, which it knows by number. Times are those of any one monotonic clock."""

    def __init__(self, count: int) -> None:
        self._health = [Health() for _ in range(count)]
        self._next = 0

    def choose(self, now_s: float, unreached: Collection[int] = ()) -> int:
        """The next upstream that is not left out, or if there is none the one whose pause ends first.

        One of those ``unreached`` only if there is no other.
        """
        count = len(self._health)
        if count == 1:
            return 0
        order = [(self._next + step) % count for step in range(count)]
        order = [number for number in order if number not in unreached] or order
        chosen = next(
            (number for number in order if self._health[number].out_until_s <= now_s),
            min(order, key=lambda number: self._health[number].out_until_s),
        )
        self._next = (chosen + 1) % count
        return chosen

    def pause_s(self, number: int) -> float:
        """How long an upstream is left out, when it is."""
        return self._health[number].pause_s

    def succeeded(self, number: int) -> None:
        """An upstream has answered."""
        health = self._health[number]
        if health.failures:
            self._health[number] = Health()

    def failed(self, number: int, now_s: float) -> bool:
        """An upstream has failed a request. Returns whether it is left out from now on."""
        health = self._health[number]
        health.failures += 1
        others: Sequence[Health] = [other for other in self._health if other is not health]
        if health.failures < MOST_FAILURES or health.out_until_s > now_s:
            return False
        if all(other.out_until_s > now_s for other in others):
            return False
        health.pause_s = min(health.pause_s * 2 or FIRST_PAUSE_S, LONGEST_PAUSE_S)
        health.out_until_s = now_s + health.pause_s
        return True
