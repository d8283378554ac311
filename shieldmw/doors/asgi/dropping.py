"""Drops the connection of a listener that does not read. Knows sockets, nothing of seats and responses.

ASGI has no message for this, and returning or raising is not enough: uvicorn, hypercorn and granian keep a connection
until the client has read all that they have buffered, and do not stop before. So, while the response is still running,
its socket is looked up among those of this process by the two ends that the scope gives. Later, if the socket is still
the same, it is shut down, and the server sees that its client has gone. The ends alone do not identify it, since a
proxy's next connection may use the same port.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from starlette.types import Scope

from shieldmw.core.bounds import MOST_LINES

# HTTP versions with one request at a time. Later ones multiplex requests over one connection, and can end a single one.
_ONE_AT_A_TIME = ("1.0", "1.1")

# Headers from which servers that trust a proxy take the client's address, and some also its port.
_NAMES_CLIENTS = (b"x-forwarded-for", b"forwarded")

K = TypeVar("K")
V = TypeVar("V")
_Waiting = tuple[asyncio.AbstractEventLoop, "asyncio.Future[V]"]


class Ends(NamedTuple):
    """The ends of a connection: the client's address and port, and our port."""

    host: str
    port: int
    server_port: int


def ends_of(scope: Scope) -> Ends | None:
    """The ends of a request's connection; None for a unix socket, for HTTP/2, and if the scope lacks them.

    Also None if a header names the same address: the server may have taken it from there, and the port would belong to
    another connection.
    """
    if scope.get("http_version", "1.1") not in _ONE_AT_A_TIME:
        return None
    try:
        (host, port), (_, server_port) = scope["client"], scope["server"]
        ends = Ends(_plain(host), int(port), int(server_port))
        named = str(host).encode("latin-1")
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    lines = scope.get("headers", ())
    is_named = any(name in _NAMES_CLIENTS and named in value for name, value in lines[:MOST_LINES])
    return None if is_named or len(lines) > MOST_LINES else ends


class Connections:
    """The connections of this process. One search, in a thread, handles all connections to be found or dropped."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._wanted: dict[Ends, list[_Waiting[int | None]]] = {}
        self._due: dict[int, list[_Waiting[None]]] = {}
        self._later: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, set[int]]] = WeakKeyDictionary()
        # A thread of our own, so that goodbyes are not delayed if the app keeps all threads of the pool busy.
        self._thread = ThreadPoolExecutor(1, "shieldmw connections")

    async def find(self, ends: Ends) -> int | None:
        """The unique number (inode) of a connection; None if it is not found."""
        return await self._ask(self._wanted, ends)

    async def drop(self, number: int) -> None:
        """Drop a connection, if it is still there."""
        await self._ask(self._due, number)

    def drop_later(self, number: int, after_s: float) -> None:
        """Drop a connection after a while, together with all others that are due in the same second."""
        loop = asyncio.get_running_loop()
        second = ceil(loop.time() + after_s)
        seconds = self._later.setdefault(loop, {})
        if second not in seconds:
            seconds[second] = set()
            loop.call_at(second, self._drop_all, seconds, second)
        seconds[second].add(number)

    def _drop_all(self, seconds: dict[int, set[int]], second: int) -> None:
        numbers = seconds.pop(second)
        with self._guard:
            for number in numbers:
                self._due.setdefault(number, [])
        self._thread.submit(self._search)

    async def _ask(self, asked: dict[K, list[_Waiting[V]]], key: K) -> V:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[V] = loop.create_future()
        with self._guard:
            asked.setdefault(key, []).append((loop, answer))
        self._thread.submit(self._search)
        return await answer

    def _search(self) -> None:
        with self._guard:
            wanted, due = self._wanted.copy(), self._due.copy()
            self._wanted.clear()
            self._due.clear()
        if not wanted and not due:
            return  # the previous search served these as well
        found: dict[Ends, int] = {}
        for connection in _sockets():
            with connection, suppress(OSError):
                number = os.fstat(connection.fileno()).st_ino
                if number in due:
                    connection.shutdown(socket.SHUT_RDWR)
                host, port = connection.getpeername()[:2]
                found[Ends(_plain(host), port, connection.getsockname()[1])] = number
        for ends, waiting in wanted.items():
            _tell(waiting, found.get(ends))
        for dropped in due.values():
            _tell(dropped, None)


def _tell(waiting: list[_Waiting[V]], answer: V) -> None:
    for loop, future in waiting:
        with suppress(RuntimeError):  # the loop is closed, so nothing waits any more
            loop.call_soon_threadsafe(_set, future, answer)


def _set(future: asyncio.Future[V], answer: V) -> None:
    if not future.done():
        future.set_result(answer)


def _sockets() -> Iterator[socket.socket]:
    """The network sockets of this process, as duplicates, so that none is mistaken for one opened meanwhile."""
    with suppress(OSError):  # the system does not list them
        for open_file in Path("/dev/fd").iterdir():
            with suppress(OSError):  # closed by now
                if found := _network_socket(os.dup(int(open_file.name))):
                    yield found


def _network_socket(fd: int) -> socket.socket | None:
    """The IP socket behind ``fd``; a descriptor of anything else is closed."""
    if stat.S_ISSOCK(os.fstat(fd).st_mode):
        found = socket.socket(fileno=fd)
        if found.family in (socket.AF_INET, socket.AF_INET6):
            return found
        found.close()
    else:
        os.close(fd)
    return None


def _plain(host: str) -> str:
    """The address without zone and IPv4 mapping, since the two ends may be spelt differently."""
    return host.lower().removeprefix("::ffff:").partition("%")[0]


CONNECTIONS = Connections()
