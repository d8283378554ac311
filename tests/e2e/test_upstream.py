"""`shieldmw serve --upstream`: what passes unchanged, what is removed, added or refused. Raw sockets at both ends."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

import httpx
import pytest

from e2e.proxied import PATIENCE_S, Raw, answering, ask_raw, connect, ok, proxy, read_until, request, rest, sent_lines
from servers import HOST, HttpServer, free_port, wait_until, write_certificates
from servers.places import own_directory
from servers.upstreams import End, Peer, ScriptedUpstream, scripted_upstream


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HttpServer, ScriptedUpstream]]:
    """The proxy with the default settings, and its upstream."""
    with (
        scripted_upstream(ok) as upstream,
        proxy([upstream.url], tmp_path_factory.mktemp("proxy")) as server,
    ):
        yield server, upstream


@pytest.fixture
def server(pair: tuple[HttpServer, ScriptedUpstream]) -> HttpServer:
    """The proxy."""
    return pair[0]


@pytest.fixture
def upstream(pair: tuple[HttpServer, ScriptedUpstream]) -> Iterator[ScriptedUpstream]:
    """The upstream, which answers 200 unless a test says otherwise."""
    pair[1].reset(ok)
    yield pair[1]
    assert pair[1].errors == []


# --- the request ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        *("/", "/a%2Fb//c;x=1?q=%41&?z", "/a/../b/./%2e%2e/", "//evil.example/x", "/%00%0d%0a", "/%C3%A9+%2B", "*"),
        *("/?", "/a?b=c%20d#e"),
    ],
)
def test_targets_pass_as_they_are(server: HttpServer, upstream: ScriptedUpstream, target: str) -> None:
    """Escapes, dots, slashes and semicolons reach the upstream as the client wrote them, in origin form.

    A ``?`` with nothing after it is lost in ASGI, as is a fragment, which no target may have.
    """
    method = "OPTIONS" if target == "*" else "GET"
    assert ask_raw(server, request(target, method)).status == 200
    expected = target.partition("#")[0].removesuffix("?") if target != "/a%2Fb//c;x=1?q=%41&?z" else target
    assert upstream.heads[0].split(b"\r\n")[0] == f"{method} {expected} HTTP/1.1".encode()


def test_an_absolute_target_becomes_origin_form(server: HttpServer, upstream: ScriptedUpstream) -> None:
    """The upstream gets a path and the Host that the shield has seen."""
    assert ask_raw(server, request("http://evil.example/a?b")).status == 200
    assert upstream.heads[0].startswith(b"GET /a?b HTTP/1.1\r\nhost: site.example\r\n")


def test_headers_pass_in_order_and_as_bytes(server: HttpServer, upstream: ScriptedUpstream) -> None:
    """Repeated lines stay apart, and bytes above 0x7F stay what they are. (granian puts lines of one name together.)"""
    lines = (b"X-One: 1", b"Cookie: a=b", b"X-One: 2", b"X-Bytes: \xe9\xff", b"Accept-Encoding: gzip")
    ask_raw(server, request("/", "GET", *lines))
    sent = sent_lines(upstream.heads[0])
    values = {name: [value for key, value in sent if key == name] for name, _ in sent}
    assert values[b"x-one"] == [b"1", b"2"]
    assert (values[b"x-bytes"], values[b"cookie"], values[b"accept-encoding"]) == ([b"\xe9\xff"], [b"a=b"], [b"gzip"])


def test_what_belongs_to_the_connection_is_removed_first(server: HttpServer, upstream: ScriptedUpstream) -> None:
    """Hop-by-hop lines, what Connection names, names with an underscore, and an upgrade that is no WebSocket's."""
    lines = (
        *(b"Keep-Alive: timeout=5", b"Proxy-Connection: keep-alive", b"TE: trailers", b"Trailer: X", b"X-Mine: 1"),
        *(b"Connection: X-Mine, X-Forwarded-For, Via, Host, Upgrade, HTTP2-Settings", b"X_Forwarded_For: 6.6.6.6"),
        *(
            b"Upgrade: h2c",
            b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
            b"Proxy-Authorization: Basic eDp5",
            b"X-Two: 2",
        ),
    )
    ask_raw(server, request("/", "GET", *lines))
    assert sent_lines(upstream.heads[0]) == [
        *((b"host", b"site.example"), (b"x-two", b"2"), (b"x-forwarded-for", b"127.0.0.1")),
        *((b"x-forwarded-proto", b"http"), (b"x-forwarded-host", b"site.example")),
        (b"forwarded", b'for=127.0.0.1;proto=http;host="site.example"'),
        (b"via", b"1.1 shieldmw"),
    ]


def test_a_client_cannot_say_where_it_comes_from(server: HttpServer, upstream: ScriptedUpstream) -> None:
    """All that proxies say is replaced, since the peer is not one of those trusted."""
    lines = (
        *(
            b"X-Forwarded-For: 6.6.6.6",
            b"X-Forwarded-Proto: https",
            b"X-Forwarded-Host: evil",
            b"Forwarded: for=6.6.6.6",
        ),
        *(b"X-Real-IP: 6.6.6.6", b"X-Forwarded-Prefix: /evil", b"X-Forwarded-Port: 1"),
    )
    ask_raw(server, request("/", "GET", *lines))
    assert b"6.6.6.6" not in upstream.heads[0]
    assert b"evil" not in upstream.heads[0]
    assert b"x-forwarded-port" not in upstream.heads[0]


def test_bodies_get_a_framing_of_ours(server: HttpServer, upstream: ScriptedUpstream) -> None:
    """A length is sent as a length, chunks are sent as chunks without extensions and trailers."""
    bodies: SimpleQueue[bytes] = SimpleQueue()

    def script(peer: Peer, head: bytes) -> None:
        bodies.put(peer.read(5) if b"content-length: 5" in head else peer.chunks())
        ok(peer, head)

    upstream.reset(script)
    assert ask_raw(server, request("/", "POST", b"Content-Length: 5", body=b"hello")).status == 200
    chunked = b"5;x=y\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\n"
    assert ask_raw(server, request("/", "POST", b"Transfer-Encoding: chunked", body=chunked)).status == 200
    assert ask_raw(server, request("/", "GET", b"Content-Length: 5", body=b"hello")).status == 200
    assert [bodies.get(timeout=PATIENCE_S) for _ in range(3)] == [b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"hello"]
    assert [b"transfer-encoding" in head for head in upstream.heads] == [False, True, False]
    assert [b"content-length" in head for head in upstream.heads] == [True, False, True]


def test_bodies_over_http_2_are_framed_too(server: HttpServer, upstream: ScriptedUpstream) -> None:
    """None has no framing, one that comes whole has its length, one of unknown length goes in chunks."""
    bodies: SimpleQueue[bytes] = SimpleQueue()

    def script(peer: Peer, head: bytes) -> None:
        if b"transfer-encoding" in head:
            bodies.put(peer.chunks())
        elif b"content-length" in head:
            bodies.put(peer.read(int(dict(sent_lines(head))[b"content-length"])))
        else:
            bodies.put(b"none")
        ok(peer, head)

    upstream.reset(script)
    with httpx.Client(base_url=f"http://{HOST}:{server.port}", http1=False, http2=True, timeout=PATIENCE_S) as client:
        assert client.get("/").http_version == "HTTP/2"
        client.delete("/")
        client.post("/", content=b"hello")
        client.post("/", content=iter([b"hello ", b"world"]))
    assert [bodies.get(timeout=PATIENCE_S) for _ in range(3)] == [b"none", b"none", b"hello"]
    chunked = bodies.get(timeout=PATIENCE_S)
    assert chunked.endswith(b"0\r\n\r\n") or chunked == b"hello world"


def test_a_post_without_a_body_says_so(server: HttpServer, upstream: ScriptedUpstream) -> None:
    """Content-Length: 0, which some upstreams insist on."""
    assert ask_raw(server, request("/", "POST", b"Content-Length: 0")).status == 200
    assert (b"content-length", b"0") in sent_lines(upstream.heads[0])


def test_the_client_is_told_to_continue(server: HttpServer, upstream: ScriptedUpstream) -> None:
    """100 Continue comes once the body is wanted, and Expect does not reach the upstream."""

    def script(peer: Peer, head: bytes) -> None:
        assert peer.read(2) == b"hi"
        ok(peer, head)

    upstream.reset(script)
    with connect(server) as connection:
        connection.sendall(request("/", "POST", b"Expect: 100-continue", b"Content-Length: 2"))
        read_until(connection, b"100 Continue\r\n\r\n")
        connection.sendall(b"hi")
        assert rest(connection).status == 200
    assert b"expect" not in upstream.heads[0]


# Ambiguous requests are in tests/doors/proxy/smuggling.


# --- bodies that are cut --------------------------------------------------------------------------


CUT = {
    "a length": (b"Content-Length: 10", b"abc", b"abc"),
    "chunks": (b"Transfer-Encoding: chunked", b"3\r\nabc\r\n", b"3\r\nabc\r\n"),
    "a chunk": (b"Transfer-Encoding: chunked", b"3\r\nabc\r\n5\r\nde", b"3\r\nabc\r\n2\r\nde\r\n"),
    "a bad chunk": (b"Transfer-Encoding: chunked", b"3\r\nabc\r\nzz\r\n\r\n", b"3\r\nabc\r\n"),
}


@pytest.mark.parametrize("what", CUT)
def test_a_body_that_is_cut_never_ends_in_order(server: HttpServer, upstream: ScriptedUpstream, what: str) -> None:
    """The upstream gets what came, and then the end of the connection instead of the end of the body."""
    line, body, passed = CUT[what]
    ends: SimpleQueue[tuple[bytes, End]] = SimpleQueue()
    upstream.reset(lambda peer, head: ends.put(peer.rest()))
    with connect(server) as connection:
        connection.sendall(request("/", "POST", line, body=body))
        if what == "a bad chunk":
            assert rest(connection).status == 400
        else:
            wait_until(lambda: upstream.heads, PATIENCE_S, "the request")
    received, _ = ends.get(timeout=PATIENCE_S)
    assert passed.startswith(received)
    assert not received.endswith(b"0\r\n\r\n")


# --- the response ---------------------------------------------------------------------------------


def _answer(server: HttpServer, upstream: ScriptedUpstream, *pieces: bytes, method: str = "GET") -> Raw:
    upstream.reset(answering(*pieces))
    return ask_raw(server, request("/", method))


def test_a_response_passes_as_it_is(server: HttpServer, upstream: ScriptedUpstream) -> None:
    """Order, repeated lines, bytes above 0x7F and a compressed body; Date and Server once; ours at the end."""
    body = gzip.compress(b"hello", mtime=0)
    head = (
        b"HTTP/1.1 299 Odd\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nServer: mine\r\nSet-Cookie: a=1\r\nX: \xe9\xff\r\n"
        b"Set-Cookie: b=2\r\nContent-Encoding: gzip\r\nVia: 1.0 inner\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    answer = _answer(server, upstream, head + body)
    assert answer.status == 299
    assert {name: answer.values(name) for name, _ in answer.lines if name != b"connection"} == {
        b"date": [b"Thu, 01 Jan 1970 00:00:00 GMT"],
        b"server": [b"mine"],
        b"set-cookie": [b"a=1", b"b=2"],
        b"x": [b"\xe9\xff"],
        b"content-encoding": [b"gzip"],
        b"via": [b"1.0 inner", b"1.1 shieldmw"],
        b"content-length": [b"%d" % len(body)],
    }
    assert answer.body == body


def test_hop_by_hop_lines_of_a_response_are_removed(server: HttpServer, upstream: ScriptedUpstream) -> None:
    """And those that its Connection names."""
    head = b"HTTP/1.1 200 OK\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\n"
    answer = _answer(server, upstream, head + b"Trailer: X\r\nProxy-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nok")
    names = {name for name, _ in answer.lines}
    assert names & {b"x-mine", b"keep-alive", b"upgrade", b"trailer", b"proxy-authenticate"} == set()
    assert answer.body == b"ok"


def test_redirects_are_the_clients(server: HttpServer, upstream: ScriptedUpstream) -> None:
    """A Location passes unchanged, and nobody follows it."""
    answer = _answer(server, upstream, b"HTTP/1.1 302 Found\r\nLocation: /other?%41\r\nContent-Length: 0\r\n\r\n")
    assert (answer.status, answer.values(b"location")) == (302, [b"/other?%41"])
    assert len(upstream.heads) == 1


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        ([b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"], 200),
        ([b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nok"], 404),
        (
            [
                b"HTTP/1.1 102 P\r\n\r\n" * 3
                + b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
            ],
            200,
        ),
        ([b"HTTP/1.1 200 OK\r\n\r\n", b"o", b"k"], 200),
        ([b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"], 200),
    ],
    ids=["100", "103", "102, chunks", "until the end", "HTTP/1.0"],
)
def test_responses_of_every_framing(
    server: HttpServer, upstream: ScriptedUpstream, pieces: list[bytes], status: int
) -> None:
    """Informational responses are passed over, and the body is whole."""
    answer = _answer(server, upstream, *pieces)
    assert answer.status == status
    assert answer.body in (b"ok", b"2\r\nok\r\n0\r\n\r\n", b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n")
    assert b"link" not in dict(answer.lines)


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 1234\r\n\r\n'),
    ],
)
def test_responses_without_a_body(server: HttpServer, upstream: ScriptedUpstream, method: str, head: bytes) -> None:
    """HEAD, 204 and 304 end with the head, and the connection to the upstream carries the next request.

    Not after HEAD: an upstream that sends a body all the same would answer that request with it.
    """

    def script(peer: Peer, received: bytes) -> None:
        peer.send(head if b"/empty" in received else b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    upstream.reset(script)
    answer = ask_raw(server, request("/empty", method))
    assert answer.body == b""
    if method == "HEAD" and b"1234" in head:
        assert answer.values(b"content-length") == [b"1234"]
    assert ask_raw(server, request("/")).body == b"ok"
    assert method == "HEAD" or upstream.connections <= 1, "each of the two had a connection of its own"


def test_events_are_not_held_back(server: HttpServer, upstream: ScriptedUpstream) -> None:
    """The head of an event stream comes before its first event, and each event before the next."""
    steps: SimpleQueue[bytes] = SimpleQueue()

    def script(peer: Peer, head: bytes) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        while event := steps.get(timeout=PATIENCE_S):
            peer.send(b"%x\r\n%b\r\n" % (len(event), event))
        peer.send(b"0\r\n\r\n")

    upstream.reset(script)
    with connect(server) as connection:
        connection.sendall(request("/events"))
        assert b"text/event-stream" in read_until(connection, b"\r\n\r\n")
        for event in (b"data: 1\n\n", b"data: 2\n\n"):
            steps.put(event)
            read_until(connection, event)
        steps.put(b"")
        assert rest(connection).text.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("head", "part"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", b"abc"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\nzz\r\n"),
    ],
    ids=["a length", "chunks", "a bad chunk"],
)
def test_a_response_that_is_cut_is_seen_to_be_cut(
    server: HttpServer, upstream: ScriptedUpstream, head: bytes, part: bytes
) -> None:
    """The client gets what came, and then the end of the connection instead of the end of the body."""
    answer = _answer(server, upstream, head, part)
    assert answer.status == 200
    assert b"abc" in answer.body
    assert not answer.body.endswith(b"0\r\n\r\n")
    assert answer.is_closed


# --- the client leaves ----------------------------------------------------------------------------


@pytest.mark.parametrize("after", ["before the head", "within the body", "while uploading"])
def test_the_upstream_is_left_when_the_client_leaves(
    server: HttpServer, upstream: ScriptedUpstream, after: str
) -> None:
    """Its connection ends, also if not a byte of the answer has come."""
    ends: SimpleQueue[tuple[bytes, End]] = SimpleQueue()

    def script(peer: Peer, head: bytes) -> None:
        if after == "within the body":
            peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        ends.put(peer.rest())

    upstream.reset(script)
    with connect(server) as connection:
        if after == "while uploading":
            connection.sendall(request("/", "POST", b"Content-Length: 1000", body=b"abc"))
        else:
            connection.sendall(request("/"))
        if after == "within the body":
            read_until(connection, b"abc")
        wait_until(lambda: upstream.heads, PATIENCE_S, "the request")
        assert ends.empty()
    ends.get(timeout=PATIENCE_S)


# --- connections ----------------------------------------------------------------------------------


def test_connections_are_kept(server: HttpServer, upstream: ScriptedUpstream) -> None:
    """Requests that follow one another share one."""
    assert [ask_raw(server, request("/")).status for _ in range(20)] == [200] * 20
    assert upstream.connections <= 1


def test_a_request_that_meets_the_close_of_a_kept_connection_is_repeated(
    server: HttpServer, upstream: ScriptedUpstream
) -> None:
    """Once, over a new connection, if it has no body and may be repeated; a POST is not."""
    seen: list[bytes] = []

    def script(peer: Peer, head: bytes) -> None:
        seen.append(head)
        is_second_on_this_connection = getattr(peer, "was_used", False)
        peer.was_used = True  # type: ignore[attr-defined]
        if is_second_on_this_connection:
            peer.close()
        else:
            ok(peer, head)

    with suppress(OSError):
        upstream.reset(answering(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"))
        ask_raw(server, request("/forget-kept-connections"))
    upstream.reset(script)
    assert ask_raw(server, request("/first")).status == 200
    assert ask_raw(server, request("/second")).status == 200
    assert len(seen) == 3
    answer = ask_raw(server, request("/third", "POST", b"Content-Length: 0"))
    assert answer.status == 502
    assert answer.values(b"proxy-status") == [b"shieldmw; error=connection_terminated"]
    assert len(seen) == 4


# --- other upstreams ------------------------------------------------------------------------------


def test_requests_go_round_and_pass_over_a_dead_upstream(tmp_path: Path) -> None:
    """Two that live get half each; one where nobody listens costs no request."""
    dead = f"http://{HOST}:{free_port()}"
    with (
        scripted_upstream(ok) as one,
        scripted_upstream(ok) as other,
        proxy([one.url, dead, other.url], tmp_path) as server,
    ):
        wait_until(lambda: "is left out" in _asked(server), PATIENCE_S, "the dead one to be left out")
        one.reset(ok)
        other.reset(ok)
        assert [ask_raw(server, request("/")).status for _ in range(20)] == [200] * 20
        counts = len(one.heads), len(other.heads)
    assert sum(counts) == 20
    assert min(counts) >= 8


def _asked(server: HttpServer) -> str:
    """The log after one more request, whose body must not be lost with the dead upstream."""
    answer = ask_raw(server, request("/", "POST", b"Content-Length: 0"))
    assert answer.status == 200
    return server.log()


def test_an_upstream_on_a_unix_socket(tmp_path: Path) -> None:
    """It gets the client's Host as any other does."""
    with own_directory() as folder:
        path = str(folder / "app.sock")
        with scripted_upstream(ok, path) as upstream, proxy([f"unix:{path}"], tmp_path) as server:
            assert ask_raw(server, request("/")).body == b"ok"
        assert b"host: site.example" in upstream.heads[-1]


def test_the_host_can_be_the_upstreams_own(tmp_path: Path) -> None:
    """With SHIELD_UPSTREAM_HOST=rewrite; the client's is in X-Forwarded-Host."""
    with (
        scripted_upstream(ok) as upstream,
        proxy([upstream.url], tmp_path, {"SHIELD_UPSTREAM_HOST": "rewrite"}) as server,
    ):
        ask_raw(server, request("/"))
        authority = upstream.url.removeprefix("http://").encode()
    lines = dict(sent_lines(upstream.heads[-1]))
    assert lines[b"host"] == authority
    assert lines[b"x-forwarded-host"] == b"site.example"


def test_a_trusted_proxy_is_believed(tmp_path: Path) -> None:
    """Its chain is continued, its scheme and host are kept; the header that such proxies do not write is replaced."""
    lines = (
        *(b"X-Forwarded-For: 6.6.6.6, 203.0.113.9", b"X-Forwarded-Proto: https", b"X-Forwarded-Host: shop.example"),
        *(b"Forwarded: for=6.6.6.6", b"X-Real-IP: 6.6.6.6"),
    )
    with (
        scripted_upstream(ok) as upstream,
        proxy([upstream.url], tmp_path, {"SHIELD_TRUSTED_PROXIES": "127.0.0.1"}) as server,
    ):
        ask_raw(server, request("/", "GET", *lines))
    sent = dict(sent_lines(upstream.heads[-1]))
    assert sent[b"x-forwarded-for"] == b"6.6.6.6, 203.0.113.9, 127.0.0.1"
    assert (sent[b"x-forwarded-proto"], sent[b"x-forwarded-host"]) == (b"https", b"shop.example")
    assert sent[b"forwarded"] == b'for=203.0.113.9;proto=https;host="shop.example"'
    assert b"x-real-ip" not in sent


def test_refused_requests_never_reach_the_upstream(tmp_path: Path) -> None:
    """The shield in front of it limits as it does in front of an app."""
    env = {"SHIELD_IP_LIMIT": "1/hour", "SHIELD_IP_BURST": "3"}
    with scripted_upstream(ok) as upstream, proxy([upstream.url], tmp_path, env) as server:
        upstream.reset(ok)
        answers = [ask_raw(server, request("/")) for _ in range(6)]
        assert sorted(answer.status for answer in answers) == [200, 200, 200, 429, 429, 429]
        assert len(upstream.heads) == 3
    assert answers[0].values(b"ratelimit-policy") == [b'"ip";q=1;w=3600;burst=3']


def test_an_upstream_by_tls(tmp_path: Path) -> None:
    """Its certificate is verified, against the authorities of OpenSSL."""
    write_certificates(tmp_path)
    with scripted_upstream(ok, certificates=tmp_path) as upstream:
        with proxy([upstream.url], tmp_path, {"SSL_CERT_FILE": str(tmp_path / "ca.crt")}) as server:
            assert ask_raw(server, request("/")).body == b"ok"
        with proxy([upstream.url], tmp_path) as server:
            answer = ask_raw(server, request("/"))
            assert answer.status == 502
            assert answer.values(b"proxy-status") == [b"shieldmw; error=tls_certificate_error"]


def test_tls_to_an_upstream_without_it(tmp_path: Path) -> None:
    """One that closes the connection, or never answers the greeting."""
    env = {"SHIELD_UPSTREAM_CONNECT_TIMEOUT_MS": "500"}
    with (
        scripted_upstream(lambda peer, head: peer.close()) as upstream,
        proxy([upstream.url.replace("http:", "https:")], tmp_path, env) as server,
    ):
        answer = ask_raw(server, request("/"))
    assert (answer.status, answer.values(b"proxy-status")) == (504, [b"shieldmw; error=connection_timeout"])


def test_an_early_answer_reaches_the_client(server: HttpServer, upstream: ScriptedUpstream) -> None:
    """Although the body has not been read, and the connection to the upstream is not used again."""

    def script(peer: Peer, head: bytes) -> None:
        if b"/upload" in head:
            peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
            peer.rest()
        else:
            ok(peer, head)

    upstream.reset(script)
    with connect(server) as connection:
        connection.sendall(request("/upload", "POST", b"Content-Length: 1000000", body=b"x" * 1000))
        assert b"HTTP/1.1 413 " in read_until(connection, b"big")
    assert ask_raw(server, request("/next")).body == b"ok"
    assert upstream.connections >= 1


def test_an_event_stream_holds_a_seat(tmp_path: Path) -> None:
    """A second listener on a capacity of one is turned away; when the first leaves, its upstream connection ends."""
    ends: SimpleQueue[tuple[bytes, End]] = SimpleQueue()

    def script(peer: Peer, head: bytes) -> None:
        if b"/live" not in head:
            ok(peer, head)
            return
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        ends.put(peer.rest())

    env = {"SHIELD_LIVE_PATHS": "/live", "SHIELD_CAPACITY": "1", "SHIELD_IP_LIMIT": "100/minute"}
    with scripted_upstream(script) as upstream, proxy([upstream.url], tmp_path, env) as server:
        with connect(server) as listener:
            listener.sendall(request("/live"))
            assert b"retry: " in read_until(listener, b"data: 1\n\n")
            assert ask_raw(server, request("/live")).status == 503
            assert ask_raw(server, request("/other")).body == b"ok"
            assert ends.empty()
        ends.get(timeout=PATIENCE_S)


def test_listeners_are_told_when_the_proxy_stops(tmp_path: Path) -> None:
    """SIGTERM ends their streams with a goodbye, and the process soon after."""

    def script(peer: Peer, head: bytes) -> None:
        if b"/live" not in head:
            ok(peer, head)
            return
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        peer.rest()

    with (
        scripted_upstream(script) as upstream,
        proxy([upstream.url], tmp_path, {"SHIELD_LIVE_PATHS": "/live"}) as server,
        connect(server) as listener,
    ):
        listener.sendall(request("/live"))
        read_until(listener, b"data: 1\n\n")
        server.process.terminate()
        assert b"event: shed" in rest(listener).text
        assert server.process.wait(PATIENCE_S) == 0


def test_an_upstream_that_is_gone_at_the_second_attempt_is_logged(tmp_path: Path) -> None:
    """The close of a kept connection is usual, but not that nobody listens any more."""

    def script(peer: Peer, head: bytes) -> None:
        if b"/last" in head:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            peer.close()
        else:
            ok(peer, head)

    with scripted_upstream(script) as gone, proxy([gone.url], tmp_path) as server:
        listener = gone.listener
        assert ask_raw(server, request("/")).status == 200
        answer = ask_raw(server, request("/last"))
        assert (answer.status, answer.values(b"proxy-status")) == (502, [b"shieldmw; error=connection_refused"])
        wait_until(lambda: "upstreams failed: connection_refused: 1" in server.log(), PATIENCE_S, "a line", server.log)
