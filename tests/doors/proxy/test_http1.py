"""The reader of responses: any bytes in any pieces, without I/O."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldmw.answers.gateway import CLOSED, INCOMPLETE, LONG_HEAD, Failure
from shieldmw.doors.proxy.failures import ProxyFailure
from shieldmw.doors.proxy.http1 import LONGEST_RESPONSE_HEAD, ResponseReader, tokens

OK = b"HTTP/1.1 200 OK\r\n"

# Whole responses: what comes, whether to HEAD, the status, the body, and whether the connection can be used again.
WHOLE: list[tuple[bytes, bool, int, bytes, bool]] = [
    (OK + b"Content-Length: 2\r\n\r\nok", False, 200, b"ok", True),
    (OK + b"Content-Length: 0\r\n\r\n", False, 200, b"", True),
    (OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nok", False, 200, b"ok", False),
    (OK + b"Connection: x, Close\r\nContent-Length: 2\r\n\r\nok", False, 200, b"ok", False),
    (OK + b"Transfer-Encoding: Chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\nX: y\r\n\r\n", False, 200, b"ok", True),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", False, 200, b"ok", False),
    (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", False, 200, b"ok", True),
    (b"HTTP/1.1 103 E\r\nLink: x\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nok", False, 200, b"ok", True),
    (b"HTTP/1.1 204 No\r\n\r\n", False, 204, b"", True),
    (b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n", False, 204, b"", False),
    (b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n", False, 204, b"", False),
    (b"HTTP/1.1 304 No\r\nContent-Length: 9\r\n\r\n", False, 304, b"", True),
    (OK + b"Content-Length: 9\r\n\r\n", True, 200, b"", False),
    (OK + b"\r\n", True, 200, b"", False),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n", True, 200, b"", False),
]


def read(data: bytes, step: int, *, to_head: bool = False) -> tuple[ResponseReader, bytes]:
    """Feed bytes in pieces, taking the body as it comes."""
    reader = ResponseReader(to_head=to_head)
    body = b""
    for start in range(0, len(data), step):
        reader.feed(data[start : start + step])
        body += reader.take()
    return reader, body


@pytest.mark.parametrize("step", [1, 3, 10_000])
@pytest.mark.parametrize("whole", WHOLE, ids=range(len(WHOLE)))
def test_whole_responses(whole: tuple[bytes, bool, int, bytes, bool], step: int) -> None:
    """However they are cut into pieces, they end where they end."""
    data, to_head, status, body, is_reusable = whole
    reader, read_body = read(data, step, to_head=to_head)
    assert reader.head is not None
    assert (reader.head.status, read_body, reader.is_complete) == (status, body, True)
    assert reader.is_reusable == is_reusable
    reader.eof()
    assert not reader.is_reusable


@pytest.mark.parametrize("extra", [b"x", OK, b"\r\n", b"0\r\n\r\n"])
@pytest.mark.parametrize("whole", WHOLE, ids=range(len(WHOLE)))
def test_what_follows_is_dropped(whole: tuple[bytes, bool, int, bytes, bool], extra: bytes) -> None:
    """In the same piece or a later one, it is no part of the body, and the connection is not used again.

    A blank line that comes in the same piece may be passed over, as RFC 9112 advises (section 2.2).
    """
    data, to_head, _, body, _ = whole
    together, read_body = read(data + extra, 10_000, to_head=to_head)
    assert (read_body, together.is_complete) == (body, True)
    assert not together.is_reusable or extra == b"\r\n"
    apart, _ = read(data, 10_000, to_head=to_head)
    apart.feed(extra)
    assert (apart.take(), apart.is_reusable) == (b"", False)


def test_a_body_may_end_with_the_connection() -> None:
    """Without a length and chunks it ends there, and only there."""
    reader, body = read(OK + b"\r\nok", 1)
    assert (body, reader.is_complete) == (b"ok", False)
    reader.eof()
    assert (reader.is_complete, reader.is_reusable) == (True, False)


@pytest.mark.parametrize(
    ("data", "failure"),
    [
        (b"", CLOSED),
        (b"HTTP/1.1 20", INCOMPLETE),
        (OK + b"Content-Length: 3\r\n\r\nok", INCOMPLETE),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", INCOMPLETE),
        (b"HTTP/1.1 100 Continue\r\n\r\n", INCOMPLETE),
    ],
)
def test_the_end_may_come_too_early(data: bytes, failure: Failure) -> None:
    """That nothing has come is told from that something is missing."""
    reader, _ = read(data, 1)
    with pytest.raises(ProxyFailure) as raised:
        reader.eof()
    assert raised.value.failure is failure


def test_a_head_is_bounded() -> None:
    """In one line, in many, and in informational responses."""
    for piece in (b"x" * 1000, b"\r\nX: y" * 100, b"\r\n\r\nHTTP/1.1 102 P\r\nX: " * 50):
        with pytest.raises(ProxyFailure) as raised:
            read(b"HTTP/1.1 102 P\r\nX: " + piece * (LONGEST_RESPONSE_HEAD // len(piece) + 1), 1000)
        assert raised.value.failure is LONG_HEAD


@pytest.mark.parametrize("body", [b"", b"x" * 1_000_000])
def test_a_head_is_bounded_to_the_byte(body: bytes) -> None:
    """However much of what follows comes with it: a loop reads up to 256 KB at once."""
    start, end = OK + b"Content-Length: %d\r\nX: " % len(body), b"\r\n\r\n"
    fitting = start + b"x" * (LONGEST_RESPONSE_HEAD - len(start) - len(end)) + end
    reader = ResponseReader()
    reader.feed(fitting + body)
    assert (reader.take(), reader.is_complete) == (body, True)
    with pytest.raises(ProxyFailure) as raised:
        ResponseReader().feed(fitting.replace(b"xx", b"xxx", 1) + body)
    assert raised.value.failure is LONG_HEAD


@pytest.mark.parametrize("beside", [b"0\r\nx: ", b"1;x="])
def test_what_comes_beside_the_body_is_bounded(beside: bytes) -> None:
    """The parser keeps a trailer until it is whole, so one without end would fill the memory."""
    reader = ResponseReader()
    reader.feed(OK + b"Transfer-Encoding: chunked\r\n\r\n" + beside)
    for _ in range(LONGEST_RESPONSE_HEAD // 1000 - 1):
        reader.feed(b"a" * 1000)
    with pytest.raises(ProxyFailure, match="beside the body"):
        reader.feed(b"a" * 2000)


def test_a_body_is_not_taken_for_a_head() -> None:
    """However long it is."""
    reader = ResponseReader()
    reader.feed(OK + b"Content-Length: 1000000\r\n\r\n")
    reader.feed(b"x" * 1_000_000)
    assert (len(reader.take()), reader.is_complete, reader.buffered) == (1_000_000, True, 0)


@given(st.binary(max_size=200), st.integers(1, 50), st.booleans())
def test_any_bytes_are_read_or_rejected(data: bytes, step: int, to_head: bool) -> None:
    """Nothing but our own failure is raised, and the body is a part of what came."""
    for start in (b"", OK, OK + b"Transfer-Encoding: chunked\r\n\r\n", OK + b"Content-Length: 50\r\n\r\n"):
        try:
            reader, body = read(start + data, step, to_head=to_head)
            reader.eof()
        except ProxyFailure:
            continue
        assert reader.is_complete
        assert reader.head is not None
        assert len(body) <= len(data)


@given(st.lists(st.binary(min_size=1, max_size=100), max_size=8), st.integers(1, 300))
def test_chunks_are_joined(pieces: list[bytes], step: int) -> None:
    """The body is what the chunks hold, however the bytes are cut."""
    data = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    reader, body = read(OK + b"Transfer-Encoding: chunked\r\n\r\n" + data + b"0\r\n\r\n", step)
    assert (body, reader.is_complete, reader.is_reusable) == (b"".join(pieces), True, True)


def test_tokens() -> None:
    """The entries of a list, in lower case and without blanks."""
    assert tokens(b"Close, X-One ,\tx-two,") == {b"close", b"x-one", b"x-two", b""}
