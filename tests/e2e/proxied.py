"""What the tests of `shieldmw serve --upstream` share: the proxy before a scripted upstream, and a raw client."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from servers import HOST, HttpServer, asgi_server
from servers.upstreams import Peer, Script

PATIENCE_S = 20

SETTINGS = {"SHIELD_REDIS_URL": "memory://", "SHIELD_IP_LIMIT": "off"}

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def ok(peer: Peer, head: bytes) -> None:
    """Answer 200 to a request without a body."""
    peer.send(OK)


def answering(*pieces: bytes) -> Script:
    """A script that sends these bytes and closes the connection."""

    def script(peer: Peer, head: bytes) -> None:
        for piece in pieces:
            peer.send(piece)
        peer.close()

    return script


@contextmanager
def proxy(
    upstreams: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None, args: Sequence[str] = ()
) -> Iterator[HttpServer]:
    """`shieldmw serve --upstream …`, one worker. Any answer, even a 502, shows that it serves."""
    first, *others = [f"--upstream={url}" for url in upstreams]
    environment = {**SETTINGS, **(env or {})}
    with asgi_server("shieldmw", first, env=environment, cwd=cwd, args=[*others, *args]) as server:
        yield server


@dataclass(frozen=True)
class Raw:
    """A response as it came: its head's lines, what followed, and how the connection ended."""

    text: bytes
    is_closed: bool

    @property
    def status(self) -> int:
        """The status."""
        return int(self.text.split(b" ", 2)[1])

    @property
    def lines(self) -> list[tuple[bytes, bytes]]:
        """The header lines, names in lower case."""
        head = self.text.partition(b"\r\n\r\n")[0]
        pairs = (line.partition(b": ") for line in head.split(b"\r\n")[1:])
        return [(name.lower(), value) for name, _, value in pairs]

    def values(self, name: bytes) -> list[bytes]:
        """The values of all lines of one name."""
        return [value for key, value in self.lines if key == name]

    @property
    def body(self) -> bytes:
        """What follows the head, as written."""
        return self.text.partition(b"\r\n\r\n")[2]


def request(target: str = "/", method: str = "GET", *lines: bytes, body: bytes = b"") -> bytes:
    """A request on a connection that ends after it."""
    head = [b"%b %b HTTP/1.1" % (method.encode(), target.encode()), b"Host: site.example", b"Connection: close", *lines]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def connect(server: HttpServer) -> socket.socket:
    """A connection to the proxy."""
    return socket.create_connection((HOST, server.port), PATIENCE_S)


def ask_raw(server: HttpServer, data: bytes) -> Raw:
    """Send bytes, and read until the proxy closes the connection."""
    with connect(server) as connection:
        connection.sendall(data)
        return rest(connection)


def rest(connection: socket.socket) -> Raw:
    """All that comes until the connection ends."""
    text = b""
    try:
        while data := connection.recv(65_536):
            text += data
    except TimeoutError:
        return Raw(text, is_closed=False)
    except ConnectionResetError:
        pass
    return Raw(text, is_closed=True)


def read_until(connection: socket.socket, end: bytes) -> bytes:
    """What comes up to and with ``end``."""
    text = b""
    while end not in text:
        data = connection.recv(65_536)
        assert data, text
        text += data
    return text


def took(work: Callable[[], object]) -> float:
    """How long something takes, in seconds."""
    started = time.monotonic()
    work()
    return time.monotonic() - started


def sent_lines(head: bytes) -> list[tuple[bytes, bytes]]:
    """The header lines of a request that the upstream got."""
    pairs = (line.partition(b": ") for line in head.rstrip(b"\r\n").split(b"\r\n")[1:])
    return [(name, value) for name, _, value in pairs]
