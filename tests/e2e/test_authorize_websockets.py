"""WebSockets behind each proxy that asks, started by its example: the handshake is asked about like any request."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.http11 import Request, Response
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from e2e.clients import TIMEOUT_S, ask, bearer, fresh_address
from e2e.test_authorize import BURST, NO_APP, PROXIES, SETTINGS, TOKEN
from servers import HOST, HttpServer, asgi_server, asking, wait_until


@dataclass
class EchoServer:
    """A server of the websockets library that echoes; the paths of the handshakes that reached it."""

    port: int
    seen: list[str] = field(default_factory=list)


@contextmanager
def echo_server() -> Iterator[EchoServer]:
    def looked_at(connection: ServerConnection, request: Request) -> Response | None:
        if request.path == "/healthz":
            return connection.respond(200, "ok")
        found.seen.append(request.path)
        return None

    def echo(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with serve(echo, HOST, 0, process_request=looked_at) as server:
        found = EchoServer(server.socket.getsockname()[1])
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


@dataclass(frozen=True, slots=True)
class Edge:
    """A proxy, the shield that it asks, and the server behind it."""

    name: str
    proxy: HttpServer
    shield: HttpServer
    app: EchoServer

    def handshake(self, address: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, Headers]:
        """The status and headers that answer a handshake; after a 101 an echo has come back."""
        with socket.create_connection((HOST, self.proxy.port), TIMEOUT_S, (address, 0)) as connection:
            url = f"ws://{HOST}:{self.proxy.port}{path}"
            try:
                with connect(url, sock=connection, additional_headers=headers, open_timeout=TIMEOUT_S) as client:
                    client.send("hello")
                    assert client.recv(TIMEOUT_S) == "hello"
                    assert client.response is not None
                    return 101, client.response.headers
            except InvalidStatus as refused:
                return refused.response.status_code, refused.response.headers

    def refusal(self, status: int) -> int:
        """What a refused client gets: Envoy knows only 429 for the shield's 503."""
        return 429 if self.name == "envoy" else status


@pytest.fixture(scope="module", params=PROXIES)
def edge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """Each proxy, by its example, with a shield and an app of its own."""
    with (
        echo_server() as app,
        asgi_server("shieldmw", NO_APP, env=SETTINGS, cwd=tmp_path_factory.mktemp("cwd")) as shield,
        asking(request.param, shield, app.port) as proxy,
    ):
        yield Edge(request.param, proxy, shield, app)


def test_within_the_limit_and_beyond(edge: Edge) -> None:
    """Allowed, it is a WebSocket; refused, the client gets a 429 and the server never hears of it."""
    address = fresh_address()
    edge.app.seen.clear()
    answers = [edge.handshake(address, f"/chat?n={number}") for number in range(BURST + 2)]
    assert [status for status, _ in answers] == [101] * BURST + [429] * 2
    assert edge.app.seen == [f"/chat?n={number}" for number in range(BURST)]
    _, headers = answers[-1]
    assert int(headers["retry-after"]) > 1000
    assert headers["content-type"] == "application/problem+json"
    assert edge.handshake(fresh_address(), "/chat")[0] == 101


@pytest.fixture
def emergency(edge: Edge) -> Iterator[None]:
    """An emergency, and its end."""
    with httpx.Client(headers={"authorization": f"Bearer {TOKEN}"}, timeout=TIMEOUT_S) as operator:
        url = f"{edge.shield.base_url}/-/shield/mode"
        operator.put(url, json={"mode": "emergency", "reason": "a test"}).raise_for_status()
        yield
        operator.put(url, json={"mode": "normal", "reason": "a test"}).raise_for_status()


@pytest.mark.usefixtures("emergency")
def test_in_an_emergency_members_come_first(edge: Edge) -> None:
    """On a path of members a guest's handshake is refused with 503 (behind Envoy with 429), a member's is not."""
    edge.app.seen.clear()
    address = fresh_address()
    status, headers = edge.handshake(address, "/members/lounge")
    assert (status, int(headers["retry-after"]) > 0) == (edge.refusal(503), True)
    assert edge.app.seen == []
    assert edge.handshake(address, "/members/lounge", bearer("bob"))[0] == 101
    assert edge.app.seen == ["/members/lounge"]


def test_a_live_path_holds_a_lease_seat(edge: Edge) -> None:
    """The answer to the handshake brings the ticket; while the seat is held others are refused, its owner is not.

    Traefik adds no cookie to a 101, so behind it an ordinary request brings the ticket.
    """
    member = bearer("carol")

    def seated() -> Mapping[str, str] | None:
        if edge.name == "traefik":
            answer = ask(edge.proxy, fresh_address(), "/live", list(member.items()))
            return answer.headers if answer.status == 426 else None
        status, headers = edge.handshake(fresh_address(), "/live", member)
        return headers if status == 101 else None

    first = wait_until(seated, TIMEOUT_S, "a seat")
    assert first is not None
    cookie = first["set-cookie"].partition(";")[0]
    assert cookie.startswith("shield_ticket=")
    edge.app.seen.clear()
    status, headers = edge.handshake(fresh_address(), "/live")
    assert (status, edge.app.seen, int(headers["retry-after"]) > 0) == (edge.refusal(503), [], True)
    assert edge.handshake(fresh_address(), "/live", {**member, "cookie": cookie})[0] == 101
    assert edge.app.seen == ["/live"]


IDLE_S = 1


def test_haproxy_lets_a_websocket_be_silent(tmp_path: Path) -> None:
    """For longer than the time-outs of requests, which are shortened here."""
    with (
        echo_server() as app,
        asgi_server("shieldmw", NO_APP, env=SETTINGS, cwd=tmp_path) as shield,
        asking("haproxy", shield, app.port, edit=(" 30s", f" {IDLE_S}s")) as proxy,
        connect(f"ws://{HOST}:{proxy.port}/", open_timeout=TIMEOUT_S, ping_interval=None) as client,
    ):
        with pytest.raises(TimeoutError):
            client.recv(3 * IDLE_S)
        client.send("hello")
        assert client.recv(TIMEOUT_S) == "hello"
