"""Clients of end-to-end tests: each with an address of its own on loopback, some with a token."""

from __future__ import annotations

import http.client
import itertools
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

import httpx
import jwt

from servers import HOST, HttpServer, missing

JWT_SECRET = "the secret of the issuer under test, long enough"
TIMEOUT_S = 10.0

_hosts = itertools.count(1)


def fresh_address() -> str:
    """A loopback address that no test of this process has used: a client with full buckets."""
    if sys.platform != "linux":
        missing("all of 127.0.0.0/8 on loopback, as Linux has it,")
    number = next(_hosts)
    return f"127.1.{number // 250}.{number % 250 + 1}"


def client(address: str, headers: Mapping[str, str] | None = None) -> httpx.Client:
    """A client that connects from an address; to be used in a `with`."""
    transport = httpx.HTTPTransport(local_address=address)
    return httpx.Client(transport=transport, headers=headers, timeout=TIMEOUT_S)


def token(subject: str) -> str:
    """A JWT of the issuer under test."""
    return jwt.encode({"sub": subject, "exp": int(time.time()) + 600}, JWT_SECRET, algorithm="HS256")


def bearer(subject: str) -> dict[str, str]:
    """The header that proves a subject."""
    return {"authorization": f"Bearer {token(subject)}"}


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as it came, with every line of its headers."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def ask(server: HttpServer, address: str, path: str, headers: list[tuple[str, str]] | None = None) -> Answer:
    """GET a path spelled exactly so, with header lines exactly so, on a connection of its own."""
    with closing(http.client.HTTPConnection(HOST, server.port, TIMEOUT_S, (address, 0))) as connection:
        connection.putrequest("GET", path)
        for name, value in headers or ():
            connection.putheader(name, value.encode("latin-1"))
        connection.endheaders()
        return receive(connection)


def receive(connection: http.client.HTTPConnection) -> Answer:
    """The next answer on a connection."""
    with connection.getresponse() as response:
        fields = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, fields, response.read())


@contextmanager
def wire(server: HttpServer, address: str, timeout_s: float = TIMEOUT_S) -> Iterator[BinaryIO]:
    """A TCP connection from an address as a file without buffer, for bytes that no library would send."""
    with (
        socket.create_connection((HOST, server.port), timeout_s, (address, 0)) as connection,
        connection.makefile("rwb", buffering=0) as stream,
    ):
        yield cast(BinaryIO, stream)
