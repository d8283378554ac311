"""How an entry of the corpus is written: what it tries, the bytes that a client sends, and what must happen."""

from __future__ import annotations

from dataclasses import dataclass

HOST = "Host: site.example"
CHUNKED = "Transfer-Encoding: chunked"

# Nothing that a payload calls so may reach the upstream, as a request of its own or in another one.
EVIL = "evil"
HIDDEN = "GET /evil HTTP/1.1\r\nHost: evil.example\r\n\r\n"

# An honest request after it on the same connection, where that stays open.
AFTER = "GET /after HTTP/1.1\r\nHost: site.example\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as the upstream must have seen it: its whole body, and one Host."""

    method: str = "POST"
    target: str = "/first"
    body: bytes = b""
    host: str = "site.example"


AFTERWARDS = Seen("GET", "/after")


@dataclass(frozen=True, slots=True)
class Payload:
    """``text`` goes to the shield as it is, one byte a character.

    ``seen``: the whole requests that the upstream sees of it, in their order; none: it is refused. ``statuses``: of the
    answers that the client gets, after which its connection is closed. ``has``: the beginnings of header lines that the
    upstream got with the first of them. Of a request that is refused while its body comes, the upstream may have seen
    the beginning, but never an end.
    """

    name: str
    tries: str
    text: str
    seen: tuple[Seen, ...] = ()
    statuses: tuple[int, ...] = (400,)
    has: tuple[tuple[str, str], ...] = ()

    @property
    def data(self) -> bytes:
        """The bytes."""
        return self.text.encode("latin-1")


def passes(
    name: str, tries: str, text: str, *seen: Seen, statuses: tuple[int, ...] = (), has: tuple[tuple[str, str], ...] = ()
) -> Payload:
    """A payload that is unambiguous to us: the upstream sees it as we do, and each request is answered."""
    return Payload(name, tries, text, seen, statuses or (200,) * len(seen), has)


def post(*lines: str, body: str = "", target: str = "/first", method: str = "POST", close: bool = False) -> str:
    """A request with these header lines after the Host."""
    end = ["Connection: close"] if close else []
    return "\r\n".join([f"{method} {target} HTTP/1.1", HOST, *lines, *end, "", body])


def get(*lines: str, target: str = "/first", close: bool = True) -> str:
    """One without a body, after which the connection is closed unless it is to stay open."""
    return post(*lines, target=target, method="GET", close=close)


def bare(*lines: str) -> str:
    """A head of these lines and nothing else."""
    return "\r\n".join([*lines, "", ""])
