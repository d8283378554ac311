"""Drops the connection of a listener that does not read. Knows sockets, nothing of seats and responses.

ASGI has no word for it, and to return or to raise is not enough: uvicorn, hypercorn and granian keep a connection
until its client has read what they have buffered, and do not end before. So the socket between the two ends that a
scope names is looked for among those of this process, and shut down; the server then sees that its client has gone.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from starlette.types import Scope

# Later versions carry the requests of others in the same connection, and can end one alone.
_ONE_AT_A_TIME = ("1.0", "1.1")


class Ends(NamedTuple):
    """A connection: the client's address and port, and our port."""

    host: str
    port: int
    server_port: int


def ends_of(scope: Scope) -> Ends | None:
    """The connection of a request; None for a unix socket, for HTTP/2, and where the scope does not say.

    Servers that were told another client by a proxy give it no port that could be found.
    """
    if scope.get("http_version", "1.1") not in _ONE_AT_A_TIME:
        return None
    try:
        (host, port), (_, server_port) = scope["client"], scope["server"]
        return Ends(_plain(host), int(port), int(server_port))
    except (KeyError, TypeError, ValueError):
        return None


class Connections:
    """Connections of this process that are to be dropped: one search for all that are due."""

    def __init__(self) -> None:
        self._due: set[Ends] = set()
        self._guard = threading.Lock()
        self._search = threading.Lock()

    def drop(self, ends: Ends) -> asyncio.Future[None]:
        """Drop a connection, if it is still there; in a thread, since there may be many to look through."""
        with self._guard:
            self._due.add(ends)
        return asyncio.get_running_loop().run_in_executor(None, self._drop, ends)

    def _drop(self, ends: Ends) -> None:
        with self._search:
            with self._guard:
                if ends not in self._due:
                    return  # the search before found it, too
                due, self._due = self._due, set()
            for connection in _sockets():
                with connection, suppress(OSError):
                    host, port = connection.getpeername()[:2]
                    if Ends(_plain(host), port, connection.getsockname()[1]) in due:
                        connection.shutdown(socket.SHUT_RDWR)


def _sockets() -> Iterator[socket.socket]:
    """The network sockets of this process, as duplicates, so that none is mistaken for one opened meanwhile."""
    with suppress(OSError):  # a system that does not show them
        for open_file in Path("/dev/fd").iterdir():
            with suppress(OSError):  # closed by now
                if found := _network_socket(os.dup(int(open_file.name))):
                    yield found


def _network_socket(fd: int) -> socket.socket | None:
    """The IP socket behind ``fd``; any other descriptor is closed."""
    if stat.S_ISSOCK(os.fstat(fd).st_mode):
        found = socket.socket(fileno=fd)
        if found.family in (socket.AF_INET, socket.AF_INET6):
            return found
        found.close()
    else:
        os.close(fd)
    return None


def _plain(host: str) -> str:
    """One spelling for an address, however the socket was opened."""
    return host.lower().removeprefix("::ffff:").partition("%")[0]


CONNECTIONS = Connections()
