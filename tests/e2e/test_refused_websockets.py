"""SHIELD_WEBSOCKET_REFUSALS=close under each ASGI server: a client reads the code and the reason."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from e2e.clients import TIMEOUT_S, fresh_address, wire
from servers import HOST, AsgiKind, HttpServer, asgi_server, chromium_page

SETTINGS = {
    "SHIELD_IP_LIMIT": "1/hour",
    "SHIELD_WEBSOCKET_REFUSALS": "close",
    "SHIELD_ADMIN_TOKEN": "an admin token, long enough",
    # A browser has no other address on loopback.
    "SHIELD_DENY_IPS": HOST,
}
# We linger for 5 s; uvicorn with wsproto waits for 10 s for the client's close.
DROPPED_S = 30.0
SERVERS: list[tuple[AsgiKind, tuple[str, ...]]] = [
    ("granian", ()),
    ("uvicorn", ("--ws", "websockets")),
    ("uvicorn", ("--ws", "wsproto")),
    ("hypercorn", ()),
]


@pytest.fixture(scope="module", params=SERVERS, ids=["granian", "uvicorn-websockets", "uvicorn-wsproto", "hypercorn"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    """The shielded app."""
    kind, args = request.param
    folder = tmp_path_factory.mktemp("cwd")
    with asgi_server(kind, "e2e.shielded_app:shielded", env=SETTINGS, cwd=folder, args=args) as server:
        yield server


def _closed(server: HttpServer, address: str, path: str = "/ws") -> tuple[int, str, str | None]:
    """The code, the reason and the subprotocol of a connection that is closed by the server."""
    offered = [Subprotocol("bearer.x"), Subprotocol("chat")]
    with (
        connect(server.ws_url + path, source_address=(address, 0), subprotocols=offered, open_timeout=TIMEOUT_S) as ws,
        pytest.raises(ConnectionClosed) as closed,
    ):
        ws.recv(TIMEOUT_S)
    received = closed.value.rcvd
    assert received is not None
    return received.code, received.reason, ws.subprotocol


def test_a_refused_handshake_says_why(server: HttpServer) -> None:
    """A limit, the deny list and the admin routes: a code, a reason, and the subprotocol that is no token."""
    address = fresh_address()
    with connect(f"{server.ws_url}/ws", source_address=(address, 0), open_timeout=TIMEOUT_S) as admitted:
        admitted.send("x")
        assert admitted.recv(TIMEOUT_S) == "x"
    code, reason, chosen = _closed(server, address)
    assert (code, chosen) == (1013, "chat")
    assert re.fullmatch(r"Too many requests; retry-after=\d+", reason)
    assert _closed(server, HOST)[0] == 1008
    assert _closed(server, address, "/-/shield/status") == (1008, "no WebSocket here", "chat")
    assert "Traceback" not in server.log()


def test_a_client_that_never_closes_is_dropped(server: HttpServer) -> None:
    """After a while the connection ends, whatever the client does not do."""
    head = (
        b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with wire(server, HOST, DROPPED_S) as connection:
        connection.write(head)
        assert connection.readline().startswith(b"HTTP/1.1 101 ")
        rest = b"".join(connection)  # until the server closes
    assert b"\x88" in rest
    assert b"Abnormal usage detected" in rest


def test_a_page_reads_code_and_reason(server: HttpServer) -> None:
    """In a real browser: what was a bare 1006 is 1013 and why, whichever subprotocols the page offers."""
    opened = "new WebSocket(`ws://${location.host}/ws`, offered)"
    script = f"offered => new Promise(done => {{ {opened}.onclose = event => done([event.code, event.reason]) }})"
    with chromium_page() as page:
        page.goto(f"{server.base_url}/healthz")
        for offered in ([], ["chat"], ["bearer", "x" * 40], ["bearer." + "x" * 40, "chat"]):
            code, reason = page.evaluate(script, offered)
            assert code == 1008, offered
            assert reason.startswith("Abnormal usage detected; retry-after=")
