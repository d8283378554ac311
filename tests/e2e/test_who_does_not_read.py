"""Listeners that never read lose their seats like all others, and do not keep a server from stopping."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from e2e.clients import JWT_SECRET, TIMEOUT_S, bearer, fresh_address
from e2e.test_stopping import ONE_PROCESS
from servers import HOST, HttpServer, asgi_server
from servers.asgi import AsgiKind

ADMIN_TOKEN = "the token of the operator"

SERVERS: dict[str, tuple[AsgiKind, Sequence[str]]] = {
    "uvicorn": ("uvicorn", ("--http", "h11", "--loop", "asyncio")),
    "uvicorn with httptools on uvloop": ("uvicorn", ("--http", "httptools", "--loop", "uvloop")),
    "shieldmw serve": ("shieldmw", ()),
    "hypercorn": ("hypercorn", ONE_PROCESS),
}

# Two for the goodbye, two until the server must have closed a connection that it wrote the goodbye to.
END_S = 7.0

# So many kB more for each listener: some of them leave their server with just a little that was not taken.
MOST_ON_THE_WAY = 16 << 20
STEP_KB = 48
MOST_KB = 3072

UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


class Deaf:
    """A client that reads the head of an answer, and nothing after it."""

    def __init__(self, server: HttpServer, path: str, *lines: str) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.bind((fresh_address(), 0))
        self.socket.connect((HOST, server.port))
        self.socket.sendall("\r\n".join([f"GET {path} HTTP/1.1", "Host: test", *lines, "\r\n"]).encode())
        self.status = int(self.socket.recv(12).split()[1])

    def __enter__(self) -> Deaf:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ended(self) -> bool:
        """Whether the connection is over, once what is on the way has been read; more than that is a live one."""
        left = MOST_ON_THE_WAY
        self.socket.settimeout(1)
        try:
            while left > 0 and (piece := self.socket.recv(1 << 20)):
                left -= len(piece)
            if left <= 0:
                return False
        except TimeoutError:
            return False
        except OSError:
            pass
        return True


@contextmanager
def serving(kind: str, tmp_path: Path, **more: str) -> Iterator[HttpServer]:
    """A server of this kind, with an event on it."""
    server_kind, arguments = SERVERS[kind]
    env = {
        "SHIELD_REDIS_URL": "memory://",
        "SHIELD_ADMIN_TOKEN": ADMIN_TOKEN,
        "SHIELD_JWT_SECRET": JWT_SECRET,
        "SHIELD_LIVE_PATHS": "/live/*",
        "SHIELD_IP_LIMIT": "off",
        **more,
    }
    target = "unread_app:app" if server_kind == "shieldmw" else "unread_app:shielded"
    with asgi_server(server_kind, target, env=env, cwd=tmp_path, args=arguments) as server:
        yield server


@pytest.mark.parametrize("kind", SERVERS)
def test_a_server_that_is_asked_to_end_does_so(kind: str, tmp_path: Path) -> None:
    """After SIGTERM a server has ended within seconds, whatever its listeners have not read."""
    with serving(kind, tmp_path) as server, ExitStack() as clients:
        deaf = [Deaf(server, path) for path in ("/live/sse", "/live/film")]
        deaf += [Deaf(server, "/live/ws", *UPGRADE)]
        deaf += [Deaf(server, f"/live/sse?kb={kb}") for kb in range(STEP_KB, MOST_KB, STEP_KB)]
        for one in deaf:
            clients.enter_context(one)
        assert {one.status for one in deaf} == {200, 101}
        began_s = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(END_S)
        assert time.monotonic() - began_s < END_S
        assert all(one.ended() for one in deaf)


@pytest.mark.parametrize("path", ["/live/sse", "/live/film"])
@pytest.mark.parametrize("kind", ["uvicorn", "shieldmw serve"])
def test_members_get_their_seats(kind: str, path: str, tmp_path: Path) -> None:
    """Where guests hold all seats and read nothing a member is seated within seconds, when one of them has gone."""
    with serving(kind, tmp_path, SHIELD_CAPACITY="4") as server, ExitStack() as clients:
        guests: list[Deaf] = []
        while len(guests) < 4:
            guest = clients.enter_context(Deaf(server, path))
            if guest.status == 200:
                guests.append(guest)
        began_s = time.monotonic()
        lines = [f"{name}: {value}" for name, value in bearer("alice").items()]
        member = clients.enter_context(Deaf(server, path, *lines))
        assert member.status == 200
        assert time.monotonic() - began_s < END_S
        assert [guest.ended() for guest in guests].count(True) == 1
        assert "Traceback" not in server.log()
        assert "without completing" not in server.log()
