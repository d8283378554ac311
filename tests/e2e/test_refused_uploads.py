"""A refused upload is answered, not reset: behind a real nginx and on a bare socket, under each ASGI server."""

from __future__ import annotations

import http.client
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import BinaryIO

import pytest

from e2e.clients import TIMEOUT_S, Answer, fresh_address, receive, wire
from servers import HOST, AsgiKind, HttpServer, asgi_server, nginx, wait_until
from shieldmw.doors.asgi.lingering import LONGEST_S

TOKEN = "an admin token, long enough"
SETTINGS = {"SHIELD_IP_LIMIT": "1/hour", "SHIELD_TRUSTED_PROXIES": f"{HOST}/32", "SHIELD_ADMIN_TOKEN": TOKEN}

SERVERS: list[tuple[AsgiKind, tuple[str, ...]]] = [
    ("granian", ()),
    ("uvicorn", ("--http", "h11")),
    ("uvicorn", ("--http", "httptools")),
    ("hypercorn", ()),
]

MIB = 1 << 20
UPLOADS = 6


@pytest.fixture(scope="module", params=SERVERS, ids=["granian", "uvicorn-h11", "uvicorn-httptools", "hypercorn"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    """The shielded app."""
    kind, args = request.param
    folder = tmp_path_factory.mktemp("cwd")
    with asgi_server(kind, "e2e.shielded_app:shielded", env=SETTINGS, cwd=folder, args=args) as server:
        yield server


@pytest.fixture
def address(server: HttpServer) -> str:
    """A client whose bucket is empty."""
    address = fresh_address()
    with _connected(server, address) as connection:
        assert _ask(connection, "GET", "/hello").status == 200
    return address


@contextmanager
def _connected(server: HttpServer, address: str) -> Iterator[http.client.HTTPConnection]:
    with closing(http.client.HTTPConnection(HOST, server.port, TIMEOUT_S, (address, 0))) as connection:
        yield connection


def _ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None, **headers: str
) -> Answer:
    connection.request(method, path, body, headers)
    return receive(connection)


# --- behind nginx ---------------------------------------------------------------------------------


@pytest.mark.parametrize("buffering", ["on", "off"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_refused_upload_behind_nginx_is_the_refusal(
    server: HttpServer, address: str, buffering: str, version: str
) -> None:
    """Small or large, buffered by nginx or passed on as it comes, with kept connections or without: never a 502."""
    extra = f"client_max_body_size 100m; proxy_request_buffering {buffering};"
    with nginx(server.base_url, extra=extra, http_version=version) as proxy:
        for size in (100_000, MIB, 5 * MIB, 40 * MIB):
            answers = [_upload(proxy, address, size) for _ in range(UPLOADS)]
            assert Counter(answers) == {429: UPLOADS}, f"{size} bytes: {proxy.log()}"


def _upload(server: HttpServer, address: str, size: int, path: str = "/echo", **headers: str) -> int:
    """The status of a refused upload, by a client that sends all before it looks for an answer."""
    with _connected(server, address) as connection:
        return _ask(connection, "POST", path, b"x" * size, **headers).status


def test_an_admin_request_is_never_a_502(server: HttpServer, address: str) -> None:
    """What the operator's routes refuse, too: no token, and a body that is too long for them."""
    bearer = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
    with nginx(server.base_url, extra="client_max_body_size 100m;") as proxy:
        for _ in range(UPLOADS):
            assert _upload(proxy, address, 5 * MIB, "/-/shield/mode") == 401
            with _connected(proxy, address) as connection:
                assert _ask(connection, "PUT", "/-/shield/mode", b"x" * 5 * MIB, **bearer).status == 413


# --- on a bare socket -----------------------------------------------------------------------------


def test_a_client_that_sends_first_gets_its_answer(server: HttpServer, address: str) -> None:
    """As browsers and most libraries do: the whole body, then the answer; even where it is longer than most."""
    for size in (100_000, MIB, 5 * MIB):
        assert [_upload(server, address, size) for _ in range(UPLOADS)] == [429] * UPLOADS


def test_the_connection_is_used_again(server: HttpServer, address: str) -> None:
    """After a body of ordinary length the same socket goes on, and no byte of the body is taken for a request."""
    with _connected(server, address) as connection:
        body = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 9_000
        for _ in range(3):
            assert _ask(connection, "POST", "/echo", body).status == 429
            own_port = connection.sock.getsockname()[1]
            assert _ask(connection, "GET", "/healthz").body == b"ok"
            assert connection.sock.getsockname()[1] == own_port


def _read_all(connection: BinaryIO) -> bytes:
    return b"".join(connection)


def test_a_client_that_asks_first_is_not_told_to_go_on(server: HttpServer, address: str) -> None:
    """With Expect: 100-continue the refusal is all that comes, and the connection ends with it."""
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\nExpect: 100-continue\r\n\r\n"
    with wire(server, address) as connection:
        connection.write(head)
        answer = _read_all(connection)
    if answer.startswith(b"HTTP/1.1 100 "):
        assert b"server: hypercorn" in answer, "it says so by itself, before it asks any app"
        answer = answer.partition(b"\r\n\r\n")[2]
    assert answer.startswith(b"HTTP/1.1 429 ")
    assert b"connection: close" in answer.lower()
    assert answer.count(b"HTTP/1.1 ") == 1


def test_the_answer_comes_at_once_and_the_wait_is_bounded(server: HttpServer, address: str) -> None:
    """A body that drips gets its answer before it is complete, and its connection ends soon."""
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n"
    with wire(server, address) as connection:
        connection.write(head)
        began = time.monotonic()
        assert connection.readline().startswith(b"HTTP/1.1 429 ")
        assert time.monotonic() - began < LONGEST_S / 2
        rest = _read_all(connection)
        assert time.monotonic() - began < LONGEST_S * 2
    assert b"connection: close" in rest.lower()


def test_a_client_that_leaves_is_no_mistake(server: HttpServer, address: str) -> None:
    """A client that hangs up in the middle of a refused body leaves no trace in the log, and the worker goes on."""
    with wire(server, address) as connection:
        connection.write(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n" + b"x" * 9000)
        assert connection.readline().startswith(b"HTTP/1.1 429 ")
    with _connected(server, address) as connection:
        wait_until(lambda: _ask(connection, "GET", "/healthz").status == 200, TIMEOUT_S, "the worker to go on")
    assert "Traceback" not in server.log()
