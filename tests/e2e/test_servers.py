"""The shield over real sockets: the same promises under each ASGI server, on Valkey 9 and on Redis 7."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from e2e.clients import JWT_SECRET, TIMEOUT_S, Answer, bearer, client, fresh_address, receive, wire
from servers import HOST, AsgiKind, HttpServer, RedisServer, asgi_server, redis_server

BURST = 3
MEMBERS_BURST = 2
DENIED = "127.2.0.1"
SETTINGS = {
    "SHIELD_IP_LIMIT": f"{BURST}/hour",
    "SHIELD_TOKEN_LIMIT": f"{MEMBERS_BURST}/hour",
    "SHIELD_JWT_SECRET": JWT_SECRET,
    "SHIELD_DENY_IPS": DENIED,
    # A machine under load must not be taken for a store that is away.
    "SHIELD_REDIS_TIMEOUT_MS": "5000",
}
ASGI_KINDS: list[AsgiKind] = ["uvicorn", "granian", "hypercorn"]

QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
ABNORMAL_USAGE = "https://iana.org/assignments/http-problem-types#abnormal-usage-detected"


@pytest.fixture(scope="module", params=ASGI_KINDS)
def kind(request: pytest.FixtureRequest) -> AsgiKind:
    """Which ASGI server."""
    kind: AsgiKind = request.param
    return kind


@pytest.fixture(scope="module")
def running(
    kind: AsgiKind, store_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpServer]:
    """The shielded app under that server, on that store; ask for `server` instead."""
    environment = {**SETTINGS, "SHIELD_REDIS_URL": store_server.url}
    folder = tmp_path_factory.mktemp("cwd")
    with asgi_server(kind, "e2e.shielded_app:shielded", env=environment, cwd=folder) as server:
        yield server


@pytest.fixture
def server(running: HttpServer, store: RedisServer) -> HttpServer:
    """The shielded app, on a store that is empty, and checked for keys without a TTL afterwards."""
    return running


@pytest.fixture
def address() -> str:
    """A client with full buckets."""
    return fresh_address()


@pytest.fixture
def refused(server: HttpServer, address: str) -> str:
    """The address of a client whose bucket is empty."""
    with client(address) as guest:
        assert [guest.get(f"{server.base_url}/hello").status_code for _ in range(BURST)] == [200] * BURST
    return address


# --- requests -------------------------------------------------------------------------------------


def test_a_client_gets_its_burst_and_then_a_problem(server: HttpServer, address: str) -> None:
    """Exactly the burst is admitted, counted down in the headers; the next answer is a 429 that says why."""
    with client(address) as guest:
        admitted = [guest.get(f"{server.base_url}/hello") for _ in range(BURST)]
        answer = guest.get(f"{server.base_url}/hello")
    assert [one.text for one in admitted] == ["hello"] * BURST
    remaining = [one.headers["ratelimit"].split(";")[1] for one in admitted]
    assert remaining == [f"r={left}" for left in reversed(range(BURST))]
    _assert_quota_exceeded(answer, "ip", f'"ip";q={BURST};w=3600')


def _assert_quota_exceeded(answer: httpx.Response, violated: str, policy: str) -> None:
    assert answer.status_code == 429
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["ratelimit-policy"] == policy
    assert answer.headers["ratelimit"].startswith(f'"{violated}";r=0;t=')
    problem = answer.json()
    assert (problem["type"], problem["status"]) == (QUOTA_EXCEEDED, 429)
    assert problem["violated-policies"] == [violated]
    assert 0 < problem["retry_after_ms"] <= int(answer.headers["retry-after"]) * 1000


def test_another_client_is_not_refused(server: HttpServer, refused: str) -> None:
    """One client's empty bucket is nobody else's, and an exempt path answers everyone."""
    with client(fresh_address()) as other, client(refused) as guest:
        assert other.get(f"{server.base_url}/hello").status_code == 200
        assert guest.get(f"{server.base_url}/hello").status_code == 429
        assert guest.get(f"{server.base_url}/healthz").status_code == 200


def test_a_refused_head_has_no_body(server: HttpServer, refused: str) -> None:
    """On the wire nothing follows the head of a refused HEAD but the next answer on the same connection."""
    asked = b"HEAD /hello HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with wire(server, refused) as connection:
        connection.write(asked)
        heads = b"".join(connection).split(b"\r\n\r\n")
    assert heads[0].startswith(b"HTTP/1.1 429 ")
    assert heads[1].startswith(b"HTTP/1.1 200 "), heads[1]


def test_a_connection_survives_a_refusal(server: HttpServer, refused: str) -> None:
    """A refusal costs no new connection: the same socket goes on to be answered."""
    with closing(_connection(server, refused)) as connection:
        answers = [_request(connection, "GET", path) for path in ("/hello", "/healthz", "/hello")]
        own_port = connection.sock.getsockname()[1]
        answers.append(_request(connection, "GET", "/healthz"))
        assert connection.sock.getsockname()[1] == own_port
    assert [answer.status for answer in answers] == [429, 200, 429, 200]


def test_a_connection_survives_a_refused_body(server: HttpServer, refused: str) -> None:
    """The body of a refused POST is read after the answer: it is never taken for a request, and the socket goes on."""
    body = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n" * 10
    with closing(_connection(server, refused)) as connection:
        posted = _request(connection, "POST", "/echo", body)
        own_port = connection.sock.getsockname()[1]
        after = _request(connection, "GET", "/healthz")
        assert connection.sock.getsockname()[1] == own_port
    assert (posted.status, after.status) == (429, 200)


def test_a_refused_upload_is_not_waited_for(server: HttpServer, kind: AsgiKind, refused: str) -> None:
    """A refusal comes before the body: a client that asks to continue is told 429, not to go on sending."""
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n"
    with wire(server, refused) as connection:
        connection.write(head)
        statuses = (line.split()[1] for line in connection if line.startswith(b"HTTP/1.1 "))
        first = next(statuses)
        # Hypercorn says 100 by itself, before it asks any app.
        assert (next(statuses) if (first, kind) == (b"100", "hypercorn") else first) == b"429"


def _connection(server: HttpServer, address: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(HOST, server.port, TIMEOUT_S, (address, 0))


def _request(connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None) -> Answer:
    connection.request(method, path, body)
    return receive(connection)


# --- streams --------------------------------------------------------------------------------------


def test_events_arrive_one_by_one(server: HttpServer, address: str) -> None:
    """Server-sent events come through while their endless answer is under way."""
    with client(address) as guest, guest.stream("GET", f"{server.base_url}/sse") as answer:
        came = answer.iter_lines()
        first = [next(came) for _ in range(5)]
    assert first == ["id: 0", "data: tick 0", "", "id: 1", "data: tick 1"]
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"


def test_bodies_stream_both_ways_by_turns(server: HttpServer, address: str) -> None:
    """Each chunk of a request reaches the app, and its echo the client, before the next chunk is sent."""
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with wire(server, address) as connection:
        connection.write(head)
        for number in range(5):
            line = b"chunk %d\n" % number
            connection.write(b"%x\r\n%b\r\n" % (len(line), line))
            assert line in connection, number


def test_a_stream_is_whole(server: HttpServer, address: str) -> None:
    """A streamed answer has every byte, and the limit's headers beside those of the app."""
    chunks = [bytes([number]) * 10_000 for number in range(20)]
    with client(address) as guest:
        echoed = guest.post(f"{server.base_url}/echo", content=iter(chunks))
        streamed = guest.get(f"{server.base_url}/stream?n=3")
    assert echoed.content == b"".join(chunks)
    assert streamed.text == "chunk 0\nchunk 1\nchunk 2\n"
    assert streamed.headers["ratelimit"].startswith(f'"ip";r={BURST - 2};')


# --- WebSocket ------------------------------------------------------------------------------------


def test_a_websocket_echoes(server: HttpServer, address: str) -> None:
    """An admitted WebSocket passes text and bytes both ways, and is charged once however much it says."""
    with _websocket(server, address) as websocket:
        for message in ("text", b"\x00bytes") * BURST:
            websocket.send(message)
            assert websocket.recv(TIMEOUT_S) == message
    with client(address) as guest:
        assert guest.get(f"{server.base_url}/hello").headers["ratelimit"].startswith(f'"ip";r={BURST - 2};')


def test_a_websocket_is_refused(server: HttpServer, refused: str) -> None:
    """A refused handshake is answered with the same 429 and problem: these servers offer websocket.http.response."""
    with pytest.raises(InvalidStatus) as refusal, _websocket(server, refused):
        pass
    answer = refusal.value.response
    assert answer.status_code == 429
    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(answer.body or b"")["type"] == QUOTA_EXCEEDED


def _websocket(server: HttpServer, address: str) -> ClientConnection:
    return connect(f"{server.ws_url}/ws", source_address=(address, 0), open_timeout=TIMEOUT_S)


# --- who is asking --------------------------------------------------------------------------------


def test_a_member_has_a_bucket_of_its_own(server: HttpServer, refused: str) -> None:
    """A JWT makes a client of its own behind an address that is used up, and another JWT another one."""
    with client(refused) as same_address:
        ada = [same_address.get(f"{server.base_url}/who", headers=bearer("ada")) for _ in range(MEMBERS_BURST + 1)]
        eve = same_address.get(f"{server.base_url}/who", headers=bearer("eve"))
        guest = same_address.get(f"{server.base_url}/who")
    assert [answer.status_code for answer in ada] == [200] * MEMBERS_BURST + [429]
    assert ada[0].json() == {"subject": "ada", "class": "member", "address": refused, "mode": "normal"}
    _assert_quota_exceeded(ada[-1], "token", f'"token";q={MEMBERS_BURST};w=3600')
    assert (eve.status_code, guest.status_code) == (200, 429)


def test_a_member_is_one_client_at_every_address(server: HttpServer) -> None:
    """Moving to another address gives a member no new bucket."""
    statuses = []
    for _ in range(MEMBERS_BURST + 1):
        with client(fresh_address(), bearer("mover")) as member:
            statuses.append(member.get(f"{server.base_url}/who").status_code)
    assert statuses == [200] * MEMBERS_BURST + [429]


def test_a_denied_address_is_refused(server: HttpServer, address: str) -> None:
    """An address on the deny list is refused from the first request on, member or not; others are served."""
    with client(DENIED) as denied, client(address) as other:
        answers = [denied.get(f"{server.base_url}/hello", headers=headers) for headers in ({}, bearer("denied"))]
        assert other.get(f"{server.base_url}/hello").status_code == 200
    assert [answer.status_code for answer in answers] == [429, 429]
    assert [answer.json()["type"] for answer in answers] == [ABNORMAL_USAGE] * 2


# --- the way to the store -------------------------------------------------------------------------


def test_the_store_can_be_behind_tls_and_a_password(address: str, tmp_path: Path) -> None:
    """Buckets are kept in a Redis that is reached by rediss:// with a password and an authority of its own."""
    with redis_server("redis", tls=True, requirepass="p:/@ß") as store:
        environment = {**SETTINGS, "SHIELD_REDIS_URL": store.tls_url}
        with (
            asgi_server("uvicorn", "e2e.shielded_app:shielded", env=environment, cwd=tmp_path) as server,
            client(address) as guest,
        ):
            statuses = [guest.get(f"{server.base_url}/hello").status_code for _ in range(BURST + 1)]
        assert statuses == [200] * BURST + [429]
        assert store.client().dbsize() > 0
