"""What passes through the proxy, and what is changed: scopes in, heads out."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Scope

from shieldmw.answers.gateway import WRONG_FRAMING, WRONG_HOST, WRONG_TARGET, Failure
from shieldmw.core.address import Addressing, Networks, parse_networks
from shieldmw.core.client import Prefixes
from shieldmw.doors.proxy.failures import ProxyFailure
from shieldmw.doors.proxy.forwarding import Forwarding
from shieldmw.doors.proxy.heads import Framing, Heads
from shieldmw.doors.proxy.http1 import ResponseHead

Lines = list[tuple[bytes, bytes]]
PROXY = "192.0.2.1"


def heads(trusted: str = "", header: str = "x-forwarded-for", *, keeps_host: bool = True) -> Heads:
    networks = Networks(parse_networks(trusted.replace("unix", "")), "unix" in trusted)
    return Heads(Forwarding(Addressing(networks, header, Prefixes(32, 64))), keeps_host=keeps_host)


def scope(headers: Lines | None = None, **more: Any) -> Scope:
    lines = [(b"host", b"site.example"), *(headers or [])]
    if headers and any(name == b"host" for name, _ in headers):
        lines = headers
    found: Scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "client": (PROXY, 50123),
        "headers": lines,
        **more,
    }
    return found


def sent(one: Heads, request: Scope) -> dict[bytes, list[bytes]]:
    """The lines of the request that the upstream gets."""
    head = one.request(request).bytes_for(b"upstream.internal")
    found: dict[bytes, list[bytes]] = {}
    for line in head.rstrip(b"\r\n").split(b"\r\n")[1:]:
        name, _, value = line.partition(b": ")
        found.setdefault(name, []).append(value)
    return found


def failure(one: Heads, request: Scope) -> Failure:
    with pytest.raises(ProxyFailure) as raised:
        one.request(request)
    return raised.value.failure


# --- where a client comes from --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "xff", "forwarded"),
    [
        ("203.0.113.7", [b"203.0.113.7"], b'for=203.0.113.7;proto=http;host="site.example"'),
        ("::ffff:203.0.113.7", [b"203.0.113.7"], b'for=203.0.113.7;proto=http;host="site.example"'),
        ("2001:DB8::1", [b"2001:db8::1"], b'for="[2001:db8::1]";proto=http;host="site.example"'),
        ("", [], b'for=unknown;proto=http;host="site.example"'),
    ],
)
def test_the_peer_is_named(peer: str, xff: list[bytes], forwarded: bytes) -> None:
    """In one spelling; on a unix socket it has no address."""
    lines = sent(heads(), scope([(b"x-forwarded-for", b"6.6.6.6")], client=(peer, 1)))
    assert lines.get(b"x-forwarded-for", []) == xff
    assert lines[b"forwarded"] == [forwarded]


SAID: Lines = [
    (b"x-forwarded-for", b"6.6.6.6"),
    (b"x-forwarded-for", b"203.0.113.7"),
    (b"forwarded", b"for=6.6.6.6"),
    (b"forwarded", b"for=203.0.113.8"),
    (b"x-forwarded-proto", b"https"),
    (b"x-forwarded-host", b"shop.example"),
    (b"x-forwarded-port", b"443"),
    (b"x-real-ip", b"203.0.113.9"),
    (b"cf-connecting-ip", b"203.0.113.10"),
]


@pytest.mark.parametrize(
    ("header", "xff", "forwarded"),
    [
        ("x-forwarded-for", b"6.6.6.6, 203.0.113.7, 192.0.2.1", b"for=203.0.113.7"),
        ("forwarded", b"203.0.113.8", b"for=6.6.6.6, for=203.0.113.8, for=192.0.2.1"),
        ("cf-connecting-ip", b"203.0.113.10", b"for=203.0.113.10"),
        ("x-real-ip", b"203.0.113.9", b"for=203.0.113.9"),
    ],
)
def test_a_trusted_proxy_is_believed_in_its_own_header(header: str, xff: bytes, forwarded: bytes) -> None:
    """The others name the address that was found there, since a client may have written them."""
    lines = sent(heads(PROXY, header), scope(SAID))
    assert lines[b"x-forwarded-for"] == [xff]
    assert lines[b"forwarded"] == [forwarded + b';proto=https;host="shop.example"']
    assert (lines[b"x-forwarded-proto"], lines[b"x-forwarded-host"]) == ([b"https"], [b"shop.example"])
    assert b"x-forwarded-port" not in lines, "the proxy may have passed on what its client wrote"
    assert (b"x-real-ip" in lines) == (header == "x-real-ip")
    if header == "cf-connecting-ip":
        assert lines[b"cf-connecting-ip"] == [b"203.0.113.10"]


def test_a_stranger_is_believed_in_nothing() -> None:
    """Not even in the header of a provider that it is not."""
    lines = sent(heads("10.0.0.0/8", "cf-connecting-ip"), scope(SAID))
    assert lines[b"x-forwarded-for"] == [b"192.0.2.1"]
    assert lines[b"forwarded"] == [b'for=192.0.2.1;proto=http;host="site.example"']
    assert lines.keys() & {b"cf-connecting-ip", b"x-real-ip", b"x-forwarded-port"} == set()


def test_connection_cannot_hide_what_a_trusted_proxy_says() -> None:
    """A client behind it may have named the header there."""
    lines = sent(heads(PROXY), scope([(b"connection", b"x-forwarded-for"), (b"x-forwarded-for", b"203.0.113.7")]))
    assert lines[b"x-forwarded-for"] == [b"203.0.113.7, 192.0.2.1"]


@pytest.mark.parametrize("said", [b'a"b', b"a b", b"a;for=6.6.6.6", b"a,b", b"\xff"])
def test_forwarded_cannot_be_written_into(said: bytes) -> None:
    """A host that would need quoting is left out of it."""
    lines = sent(heads(PROXY), scope([(b"x-forwarded-host", said), (b"x-forwarded-proto", said)]))
    assert lines[b"forwarded"] == [b"for=192.0.2.1;proto=http"]


def test_a_proxy_on_a_unix_socket_can_be_trusted() -> None:
    """It has no address to be added to the chain."""
    lines = sent(heads("unix"), scope([(b"x-forwarded-for", b"203.0.113.7")], client=None))
    assert lines[b"x-forwarded-for"] == [b"203.0.113.7"]


def test_websocket_schemes_are_told_as_http() -> None:
    """As nginx does, and frameworks expect."""
    assert sent(heads(), scope(scheme="wss"))[b"x-forwarded-proto"] == [b"https"]


# --- the request ----------------------------------------------------------------------------------


def test_the_host_is_kept_or_the_upstreams_own() -> None:
    """The client's is in X-Forwarded-Host in any case."""
    assert sent(heads(), scope())[b"host"] == [b"site.example"]
    lines = sent(heads(keeps_host=False), scope())
    assert (lines[b"host"], lines[b"x-forwarded-host"]) == ([b"upstream.internal"], [b"site.example"])


def test_via_is_added_to_what_others_said() -> None:
    """With the version that the client spoke."""
    assert sent(heads(), scope([(b"via", b"1.0 fred")], http_version="2"))[b"via"] == [b"1.0 fred", b"2 shieldmw"]


@pytest.mark.parametrize(
    ("more", "start"),
    [
        ({"raw_path": b"/a%2Fb", "query_string": b"x=%41"}, b"GET /a%2Fb?x=%41 HTTP/1.1"),
        ({"raw_path": None, "path": "/a b/é"}, b"GET /a%20b/%C3%A9 HTTP/1.1"),
        ({"raw_path": b"*", "method": "OPTIONS"}, b"OPTIONS * HTTP/1.1"),
        ({"raw_path": b"/\xc3\xa9"}, b"GET /\xc3\xa9 HTTP/1.1"),
        ({"method": "M-SEARCH"}, b"M-SEARCH / HTTP/1.1"),
    ],
)
def test_targets(more: dict[str, Any], start: bytes) -> None:
    """From the raw path and the query; a server that gives no raw path gives the decoded one."""
    assert heads().request(scope(**more)).bytes_for(b"").split(b"\r\n")[0] == start


@pytest.mark.parametrize(
    "more",
    [
        {"raw_path": b"/a b"},
        {"raw_path": b"/a\r\nX: y"},
        {"raw_path": b"a"},
        {"raw_path": b""},
        {"raw_path": b"http://evil/"},
        {"raw_path": b"*"},
        {"query_string": b"a b"},
        {"query_string": b"a#b"},
        {"method": "CONNECT"},
        {"method": "GET /"},
        {"method": ""},
        {"method": "post"},  # which hypercorn takes for POST
        {"headers": [(b"host", b"a"), (b"x", b"y\r\nz: 1")]},
        {"headers": [(b"host", b"a"), (b"x", b"y\nz")]},
        {"headers": [(b"host", b"a"), (b"x", b"y\0")]},
    ],
)
def test_what_would_be_another_request_is_refused(more: dict[str, Any]) -> None:
    """Whatever a server lets through."""
    assert failure(heads(), scope(**more)) is WRONG_TARGET


@pytest.mark.parametrize(
    "host", [b"", b"a/b", b"a b", b"a@b", b"a?b", b"a:b", b"[::1", b"a\x00", b'a"b', b"a:80:80", b"a,b", b"a;for=b"]
)
def test_wrong_hosts(host: bytes) -> None:
    """One that two servers could read differently."""
    assert failure(heads(), scope([(b"host", host)])) is WRONG_HOST


@pytest.mark.parametrize("host", [b"a", b"a.example:8000", b"[2001:db8::1]:80", b"127.0.0.1", b"a_b.example", b"a:"])
def test_right_hosts(host: bytes) -> None:
    """A host, and a port or none."""
    assert sent(heads(), scope([(b"host", host)]))[b"host"] == [host]


def test_a_request_before_http_1_1_needs_no_host() -> None:
    """The upstream then gets its own."""
    for version in ("1", "1.0"):
        assert sent(heads(), scope([(b"host", b"")], http_version=version))[b"host"] == [b"upstream.internal"]


@pytest.mark.parametrize(
    ("lines", "framing", "version"),
    [
        ([], {}, "1.1"),
        ([(b"content-length", b"5")], {b"content-length": [b"5"]}, "1.1"),
        ([(b"content-length", b"005")], {b"content-length": [b"5"]}, "1.1"),
        ([(b"transfer-encoding", b"Chunked")], {b"transfer-encoding": [b"chunked"]}, "1.1"),
        ([(b"content-length", b"5")], {b"content-length": [b"5"]}, "2"),
    ],
)
def test_framings(lines: Lines, framing: dict[bytes, list[bytes]], version: str) -> None:
    """Written anew."""
    found = sent(heads(), scope(lines, http_version=version))
    assert {name: found[name] for name in (b"content-length", b"transfer-encoding") if name in found} == framing


def test_over_http_2_a_body_may_come_without_a_framing() -> None:
    """Whether there is one is seen when it comes."""
    assert heads().request(scope([], http_version="2")).framing == Framing(None)


@pytest.mark.parametrize(
    "lines",
    [
        [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")],
        [(b"content-length", b"5"), (b"content-length", b"5")],
        [(b"content-length", b"5, 5")],
        [(b"content-length", b"+5")],
        [(b"content-length", b"-5")],
        [(b"content-length", b"")],
        [(b"content-length", b"5 ")],
        [(b"content-length", b"\xb2")],
        [(b"content-length", b"9" * 21)],
        [(b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")],
        [(b"transfer-encoding", b"gzip, chunked")],
        [(b"transfer-encoding", b"identity")],
        [(b"transfer-encoding", b"xchunked")],
        [(b"transfer-encoding", b"")],
    ],
)
def test_unclear_framings(lines: Lines) -> None:
    """Whatever two servers could read differently."""
    assert failure(heads(), scope(lines)) is WRONG_FRAMING


def test_connection_cannot_remove_the_framing() -> None:
    """It is read before, and written after."""
    lines = sent(heads(), scope([(b"connection", b"content-length, host, via"), (b"content-length", b"5")]))
    assert (lines[b"content-length"], lines[b"host"]) == ([b"5"], [b"site.example"])
    assert lines[b"via"] == [b"1.1 shieldmw"]


@pytest.mark.parametrize(
    ("method", "lines", "is_repeatable"),
    [
        ("GET", [], True),
        ("HEAD", [], True),
        ("DELETE", [], True),
        ("POST", [], False),
        ("PATCH", [], False),
        ("LINK", [], False),
        ("GET", [(b"content-length", b"1")], False),
        ("PUT", [(b"transfer-encoding", b"chunked")], False),
    ],
)
def test_what_may_be_repeated(method: str, lines: Lines, is_repeatable: bool) -> None:
    """Idempotent methods without a body."""
    assert heads().request(scope(lines, method=method)).is_repeatable == is_repeatable


@given(
    st.lists(st.tuples(st.sampled_from((b"x", b"connection", b"x_y", b"te", b"\r", b"a b")), st.binary(max_size=30))),
    st.binary(max_size=30),
)
def test_any_head_is_one_head(lines: Lines, target: bytes) -> None:
    """What is sent has one start line, one blank line, and no more lines than were made."""
    try:
        head = heads().request(scope(lines, raw_path=b"/" + target)).bytes_for(b"u")
    except ProxyFailure:
        return
    assert head.count(b"\r\n\r\n") == 1
    assert head.endswith(b"\r\n\r\n")
    assert head.count(b"\n") == head.count(b"\r") == head.count(b"\r\n")
    assert b"x_y" not in head.partition(b"\r\n")[2]


def test_names_that_clients_choose_take_no_memory() -> None:
    """Those of usual length are remembered, but not many; longer ones pass and are forgotten."""
    one = heads()
    one.request(scope())
    tracemalloc.start()
    try:
        for at in range(2000):
            name = b"x-%d-" % at + b"y" * (10_000 if at % 2 else 50)
            assert sent(one, scope([(name, b"1")]))[name] == [b"1"]
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1_000_000


# --- the response ---------------------------------------------------------------------------------


def test_a_response_loses_what_belongs_to_the_connection() -> None:
    """And what its Connection names; the rest keeps its order."""
    received = [
        *((b"x-one", b"1"), (b"connection", b"keep-alive, X-Mine"), (b"keep-alive", b"timeout=5"), (b"x-mine", b"1")),
        *((b"set-cookie", b"a"), (b"x_y", b"2"), (b"set-cookie", b"b"), (b"transfer-encoding", b"chunked")),
    ]
    head = ResponseHead(200, received, frozenset((b"keep-alive", b"x-mine")))
    assert heads().response(head) == [
        *((b"x-one", b"1"), (b"set-cookie", b"a"), (b"x_y", b"2"), (b"set-cookie", b"b"), (b"via", b"1.1 shieldmw")),
    ]


def test_204_has_no_length() -> None:
    """RFC 9110, section 8.6."""
    head = ResponseHead(204, [(b"content-length", b"0")], frozenset())
    assert heads().response(head) == [(b"via", b"1.1 shieldmw")]
