"""The corpus of responses, from a scripted upstream through `shieldmw serve --upstream`.

What is ambiguous is 502, or the end of the client's connection if the body has begun. The next client gets its own
answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from doors.proxy.smuggling.payloads import CHUNKED, EVIL
from doors.proxy.smuggling.responses import ANSWERS, Answer
from e2e.proxied import Raw, ask_raw, ok, proxy, request
from servers import HttpServer
from servers.upstreams import Peer, ScriptedUpstream, scripted_upstream

HANDSHAKE = (
    *(b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"),
    *(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Content-Length: 3"),
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HttpServer, ScriptedUpstream]]:
    """The proxy, and an upstream that does what a test says."""
    directory = tmp_path_factory.mktemp("responses")
    with scripted_upstream(ok) as upstream, proxy([upstream.url], directory) as server:
        yield server, upstream
        log = server.log()
    assert "Traceback" not in log


def _body(answer: Raw) -> tuple[bytes, bool]:
    """The body, and whether it has ended."""
    lengths = answer.values(b"content-length")
    if b"chunked" not in answer.values(b"transfer-encoding"):
        return answer.body, not lengths or len(answer.body) == int(lengths[0])
    pieces = re.findall(rb"[0-9A-Fa-f]+\r\n(.*?)\r\n", answer.body, re.DOTALL)
    return b"".join(pieces), answer.body.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.name)
def test_the_client_gets_one_answer_or_none(pair: tuple[HttpServer, ScriptedUpstream], answer: Answer) -> None:
    """And nothing of it is taken for the answer to the next request."""
    server, upstream = pair

    def script(peer: Peer, head: bytes) -> None:
        if b" /first " not in head:
            ok(peer, head)
            return
        peer.send(answer.data)
        if answer.closes:
            peer.close()

    upstream.reset(script)
    got = ask_raw(server, request("/first", answer.method, b"Content-Length: 0"))
    body, has_ended = _body(got)
    assert got.status == answer.status
    if answer.status == 502:
        assert got.values(b"proxy-status")
    elif answer.method != "HEAD":
        assert (body, has_ended) == (answer.body, not answer.is_cut)
    else:
        assert got.body == b""
    assert EVIL.encode() not in got.text
    assert len(re.findall(rb"HTTP/1\.1 \d", got.text)) == 1
    following = ask_raw(server, request("/next"))
    assert (following.status, following.body) == (200, b"ok")
    assert upstream.errors == []


@pytest.mark.parametrize("method", ["POST", "PUT", "HEAD"])
def test_a_handshake_by_another_method_hides_nothing(pair: tuple[HttpServer, ScriptedUpstream], method: str) -> None:
    """The server takes it for a WebSocket's, which the shield decides on: the upstream gets no body."""
    server, upstream = pair
    upstream.reset(ok)
    ask_raw(server, request("/first", method, *HANDSHAKE, body=b"abc" + request("/evil")))
    heads = [head.split(b"\r\n")[0] for head in upstream.heads]
    assert heads in ([b"GET /first HTTP/1.1"], [])
    assert all(CHUNKED.lower().encode() not in head and b"content-length" not in head for head in upstream.heads)


def test_every_answer_has_a_name_of_its_own() -> None:
    """By which a failure is found."""
    assert len({answer.name for answer in ANSWERS}) == len(ANSWERS)
    assert all(answer.tries for answer in ANSWERS)
