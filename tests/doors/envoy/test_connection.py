"""The HTTP/2 connection of the gRPC server: calls in, replies out, and no more than it can bear."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Iterable

import pytest
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from doors.envoy.wire import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HAS_PRIORITY,
    HEADERS,
    PADDED,
    PATH,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    START,
    WINDOW_UPDATE,
    Client,
    Reply,
    block,
    call,
    frames_in,
    lines,
    message,
    number,
    raw,
    setting,
)
from shieldmw.doors.envoy.connection import IDLE_FRAMES, LONGEST_MESSAGE, MOST_CALLS, Call, Connection
from shieldmw.doors.envoy.flow import BUFFERED
from shieldmw.doors.envoy.frames import ErrorCode, GrpcStatus, ProtocolError


def started(*more: bytes) -> Connection:
    """A connection after the preface, and what it was sent then."""
    connection = Connection()
    connection.receive(START)
    connection.take_out()
    for data in more:
        connection.receive(data)
    return connection


def echo(connection: Connection, calls: Iterable[Call]) -> None:
    for each in calls:
        connection.reply(each.stream, each.message[::-1])


# --- a client of another make ---------------------------------------------------------------------


def test_calls_are_answered() -> None:
    """Three at once, in the order in which the server decides; each with a status, its message and a trailer."""
    client, connection = Client(), Connection()
    streams = [client.ask(content) for content in (b"abc", b"", b"x" * 20_000)]
    calls = connection.receive(client.take_out())
    assert [(each.path, each.message) for each in calls] == [
        (PATH.encode(), content) for content in (b"abc", b"", b"x" * 20_000)
    ]
    echo(connection, reversed(calls))
    client.receive(connection.take_out())
    assert [client.replies[stream] for stream in streams] == [
        Reply("200", message(content), "0", ended=True) for content in (b"cba", b"", b"x" * 20_000)
    ]
    assert connection.is_idle


@settings(max_examples=50)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_it_makes_no_difference_how_bytes_arrive(seed: int, count: int) -> None:
    """Cut anywhere, with other headers in between that fill and empty the client's table: the same calls."""
    dice = random.Random(seed)
    client, connection = Client(), Connection()
    asked = []
    for _ in range(count):
        path = f"/test.Service/{dice.choice('ABC')}"
        extra = [(f"x-{dice.randrange(4)}", "v" * dice.choice((1, 10, 1500)))] if dice.random() < 0.3 else []
        content = dice.randbytes(dice.randrange(50))
        client.ask(content, path, extra)
        asked.append((path.encode(), content))
    data, calls = client.take_out(), []
    while data:
        cut = dice.randrange(1, 200)
        calls += connection.receive(data[:cut])
        data = data[cut:]
    assert [(each.path, each.message) for each in calls] == asked


def test_a_block_that_adds_to_the_table_is_never_taken_for_a_repetition() -> None:
    """Sent twice it adds twice: what later blocks refer to depends on it."""
    content_type = b"\x5f\x10application/grpc"
    one, other = b"\x44\x02/A" + content_type, b"\x44\x02/B" + content_type  # RFC 7541, section 6.2.1
    oldest = b"\xc3\xbe"  # the path that was added first, and the content type that was added last
    connection, asked = started(), []
    for stream, headers in enumerate((one, one, other, oldest, oldest)):
        begun = raw(HEADERS, END_HEADERS, 2 * stream + 1, headers)
        asked += connection.receive(begun + raw(DATA, END_STREAM, 2 * stream + 1, message(b"")))
    assert [each.path for each in asked] == [b"/A", b"/A", b"/B", b"/A", b"/A"]


def test_a_client_may_forbid_a_table() -> None:
    """With a header table of 0 the client still reads our headers: the next block says that the table is empty."""
    client, connection = Client(), Connection()
    client.h2.update_settings({1: 0})
    stream = client.ask(b"abc")
    calls = connection.receive(client.take_out())
    client.receive(connection.take_out())  # with the acknowledgement
    echo(connection, calls)
    out = connection.take_out()
    assert next(payload for kind, _, _, payload in frames_in(out) if kind == HEADERS)[:1] == b"\x20"
    client.receive(out)
    assert client.replies[stream].status == "0"


@pytest.mark.parametrize(
    ("headers", "data", "status"),
    [
        (block(content_type="text/plain"), message(b"x"), GrpcStatus.UNIMPLEMENTED),
        (block(), message(b"x", b"\1"), GrpcStatus.UNIMPLEMENTED),
        (block(), b"", GrpcStatus.INVALID_ARGUMENT),
        (block(), b"\0\0\0", GrpcStatus.INVALID_ARGUMENT),
        (block(), b"\0" + number(9) + b"x", GrpcStatus.INVALID_ARGUMENT),
        (block(), message(b"x") * 2, GrpcStatus.INVALID_ARGUMENT),
        (block(), message(b"x" * (LONGEST_MESSAGE + 1)), GrpcStatus.RESOURCE_EXHAUSTED),
    ],
)
def test_what_is_no_call_is_answered_with_an_error(headers: bytes, data: bytes, status: GrpcStatus) -> None:
    """Without gRPC's content type, compressed, cut short, with a wrong length, too long: the connection goes on."""
    parts = [data[at : at + 16_384] for at in range(0, len(data), 16_384)] or [b""]
    connection = started(raw(HEADERS, END_HEADERS, 1, headers))
    for at, part in enumerate(parts, 1):
        assert connection.receive(raw(DATA, END_STREAM * (at == len(parts)), 1, part)) == []
    headers_sent = [payload for kind, _, _, payload in frames_in(connection.take_out()) if kind == HEADERS]
    assert headers_sent[0].endswith(b"grpc-status" + bytes((len(str(int(status))),)) + str(int(status)).encode())
    assert len(connection.receive(call(3))) == 1


HOSTILE_LINES = [
    (b"x\r\n:path", b"/evil"),
    (b":path\r\n", b"/evil"),
    (b":path:", b"/evil"),
    (b":path ", b"/evil"),
    (b"x", b"y\r\n:path: /evil\r\n\r\n"),
    (b"x\0", b"\0"),
    (b"", b""),
    (b"transfer-encoding", b"chunked"),
    (b"connection", b"content-type, :path"),
    (b"content-length", b"0"),
    (b"content-length", b"999"),
    (b":authority", b"evil.example"),
    (b"host", b"evil.example"),
    (b"content-type ", b"text/plain"),
]


@pytest.mark.parametrize("line", HOSTILE_LINES)
def test_no_header_line_makes_another_call_of_one(line: tuple[bytes, bytes]) -> None:
    """The path is that of ``:path`` as it is, the message what the frames hold, and the next call is read as well."""
    written = [(name.encode(), value.encode()) for name, value in lines()] + [line]
    headers = Encoder().encode([(name, value, True) for name, value in written])
    asked = raw(HEADERS, END_HEADERS, 1, headers) + raw(DATA, END_STREAM, 1, message(b"?"))
    assert started().receive(asked + call(3)) == [Call(1, PATH.encode(), b"?"), Call(3, PATH.encode(), b"?")]


@pytest.mark.parametrize(
    "path", ["/test.Service/Method /evil", "/test.Service/Method#x", "/test.Service/Method\r\nx: y"]
)
def test_a_path_is_taken_as_it_is(path: str) -> None:
    """With its spaces, fragment or line ends: it names no method of ours."""
    (asked,) = started().receive(call(1, path=path))
    assert asked.path == path.encode()


def test_a_call_that_was_reset_is_not_decided() -> None:
    """Neither one that was reset before it was read, nor one whose reply comes too late."""
    connection = started()
    assert connection.receive(call(1) + raw(RST_STREAM, 0, 1, number(8)) + call(3)) == [Call(3, PATH.encode(), b"?")]
    connection.receive(raw(RST_STREAM, 0, 3, number(8)))
    connection.reply(3, b"too late")
    assert connection.take_out() == b""
    assert connection.is_idle


def test_replies_wait_for_the_window() -> None:
    """Held back in order until the client allows more, on the stream or on the connection."""
    connection = started(setting(4, 10))
    calls = connection.receive(call(1) + call(3))
    connection.take_out()
    for each in calls:
        connection.reply(each.stream, b"0123456789")
    assert connection.take_out() == b""
    assert not connection.is_idle
    connection.receive(raw(WINDOW_UPDATE, 0, 1, number(5)))
    assert {stream for _, _, stream, _ in frames_in(connection.take_out())} == {1}
    connection.receive(setting(4, 15))
    kinds = [(kind, stream) for kind, _, stream, _ in frames_in(connection.take_out())]
    assert kinds == [(SETTINGS, 0), (HEADERS, 3), (DATA, 3), (HEADERS, 3)], "the acknowledgement comes first"
    for stream in range(5, 5 + 2 * 8, 2):  # 9,000 bytes each: the window of the connection has 65,535
        connection.receive(setting(4, 100_000) + call(stream))
        connection.reply(stream, bytes(9000))
    assert max(stream for _, _, stream, _ in frames_in(connection.take_out())) == 17
    connection.receive(raw(WINDOW_UPDATE, 0, 0, number(10_000)))
    assert {stream for _, _, stream, _ in frames_in(connection.take_out())} == {19}


def test_a_reply_that_waits_for_its_stream_holds_no_other_up() -> None:
    """Only what waits for the window of the connection is kept in order."""
    connection = started(setting(4, 10))
    for each in connection.receive(call(1) + call(3)):
        connection.reply(each.stream, b"0123456789")
    for each in connection.receive(call(5)):
        connection.reply(each.stream, b"small")
    assert {stream for _, _, stream, _ in frames_in(connection.take_out())} == {0, 5}
    connection.receive(raw(WINDOW_UPDATE, 0, 3, number(5)))
    assert {stream for _, _, stream, _ in frames_in(connection.take_out())} == {3}
    connection.receive(raw(WINDOW_UPDATE, 0, 0, number(5)))
    assert connection.take_out() == b""
    assert not connection.is_idle


def test_a_window_may_become_too_small_again() -> None:
    """For a reply that waited for the connection's: it then waits for its own."""
    connection = started(setting(4, 100_000))
    calls = connection.receive(call(1) + call(3) + call(5))
    connection.take_out()
    for each in calls:
        connection.reply(each.stream, bytes(40_000))  # the window of the connection has 65,535
    assert {stream for _, _, stream, _ in frames_in(connection.take_out())} == {1}
    connection.receive(setting(4, 10))
    connection.receive(raw(WINDOW_UPDATE, 0, 0, number(100_000)))
    assert {stream for _, _, stream, _ in frames_in(connection.take_out())} == {0}
    connection.receive(raw(WINDOW_UPDATE, 0, 5, number(100_000)))
    assert {stream for _, _, stream, _ in frames_in(connection.take_out())} == {5}


@pytest.mark.parametrize("stalled", [1, 0], ids=["by a stream", "by the connection"])
def test_replies_that_wait_end_with_their_streams(stalled: int) -> None:
    """A client that lets none pass, and resets its calls, has nothing kept for it."""
    connection = started(setting(4, 10 if stalled else 2**20))
    tracemalloc.start()
    try:
        for at in range(200):
            (one,) = connection.receive(call(1 + 2 * at))
            connection.reply(one.stream, bytes(100_000))
            if at:  # the first one holds up the others
                connection.receive(raw(RST_STREAM, 0, one.stream, number(8)))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1_000_000


def test_the_client_may_go_on_sending_for_ever() -> None:
    """The window that it has is opened again as messages are read, also of calls that are reset or fail."""
    client, connection = Client(), Connection()
    client.receive(connection.take_out())
    for at in range(300):
        stream = client.ask(b"x" * 60_000)
        calls = connection.receive(client.take_out())
        if at % 3 == 0:
            client.h2.reset_stream(stream)
            connection.receive(client.take_out())
        echo(connection, calls)
        client.receive(connection.take_out())
        client.h2.increment_flow_control_window(60_005)


def test_padding_and_priorities_are_skipped() -> None:
    """What h2 does not send by itself."""
    headers = raw(HEADERS, END_HEADERS | PADDED | HAS_PRIORITY, 1, b"\3" + bytes(5) + block() + bytes(3))
    data = raw(DATA, END_STREAM | PADDED, 1, b"\2" + message(b"abc") + bytes(2))
    connection = started(raw(PRIORITY, 0, 1, bytes(5)))
    assert connection.receive(headers + raw(99, 255, 7, b"unknown") + data) == [Call(1, PATH.encode(), b"abc")]


def test_a_call_may_end_with_trailers_and_its_headers_come_in_pieces() -> None:
    """As HTTP/2 allows."""
    whole = block()
    begun = (
        raw(HEADERS, 0, 1, whole[:5])
        + raw(CONTINUATION, 0, 1, whole[5:9])
        + raw(CONTINUATION, END_HEADERS, 1, whole[9:])
    )
    trailers = raw(HEADERS, END_HEADERS | END_STREAM, 1, Encoder().encode([("x", "y", True)]))
    assert started().receive(begun + raw(DATA, 0, 1, message(b"abc")) + trailers) == [Call(1, PATH.encode(), b"abc")]


def test_the_end_is_announced_first() -> None:
    """A client that has seen the announcement opens no more calls; until then its calls are answered."""
    connection = started()
    connection.announce_end()
    goaway, ping = frames_in(connection.take_out())
    assert goaway == (GOAWAY, 0, 0, number(2**31 - 1) + number(0))
    (asked,) = connection.receive(call(1))
    assert not connection.knows_end
    connection.receive(raw(PING, 1, 0, ping[3]))
    assert connection.knows_end
    assert not connection.is_idle
    connection.reply(asked.stream, b"answered")
    assert connection.is_idle
    connection.end()
    last = list(frames_in(connection.take_out()))[-1]
    assert last == (GOAWAY, 0, 0, number(1) + number(0))


# --- hostile clients ------------------------------------------------------------------------------

BOMB = Encoder().encode([("x", "y" * 3000)]) + b"\xbe" * 12  # one entry of the table, named twelve times

WRONG = {
    "HTTP/1": (b"GET / HTTP/1.1\r\n", ErrorCode.PROTOCOL_ERROR),
    "TLS": (b"\x16\x03\x01\x02\x00\x01", ErrorCode.PROTOCOL_ERROR),
    "a frame that is too long": (START + number(16_385)[1:] + bytes(6), ErrorCode.FRAME_SIZE_ERROR),
    "headers that are interrupted": (START + raw(HEADERS, 0, 1, block()) + raw(PING, 0, 0, bytes(8)), 1),
    "headers of another stream": (START + raw(HEADERS, 0, 1, block()) + raw(CONTINUATION, 4, 3), 1),
    "a continuation of nothing": (START + raw(CONTINUATION, END_HEADERS, 1, block()), 1),
    "headers without an end": (
        START + raw(HEADERS, 0, 1) + raw(CONTINUATION, 0, 1, b"x") * 9,
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "headers that are too long": (
        START + raw(HEADERS, 0, 1, bytes(16_000)) + raw(CONTINUATION, 0, 1, bytes(16_000)),
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "a bomb of headers": (START + raw(HEADERS, END_HEADERS, 1, BOMB), ErrorCode.COMPRESSION_ERROR),
    "headers that mean nothing": (START + raw(HEADERS, END_HEADERS, 1, b"\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR),
    "an even stream": (START + call(2), ErrorCode.PROTOCOL_ERROR),
    "stream 0": (START + raw(HEADERS, END_HEADERS, 0, block()), ErrorCode.PROTOCOL_ERROR),
    "data of no stream": (START + raw(DATA, 0, 1, b"x"), ErrorCode.PROTOCOL_ERROR),
    "data after the end": (START + call(1) + raw(DATA, 0, 1, b"x"), ErrorCode.STREAM_CLOSED),
    "headers again": (START + raw(HEADERS, END_HEADERS, 1, block()) * 2, ErrorCode.STREAM_CLOSED),
    "a reset of no stream": (START + raw(RST_STREAM, 0, 1, number(8)), ErrorCode.PROTOCOL_ERROR),
    "a reset cut short": (START + call(1) + raw(RST_STREAM, 0, 1, b"x"), ErrorCode.FRAME_SIZE_ERROR),
    "a push": (START + raw(PUSH_PROMISE, END_HEADERS, 1, number(2) + block()), ErrorCode.PROTOCOL_ERROR),
    "a ping cut short": (START + raw(PING, 0, 0, b"x"), ErrorCode.FRAME_SIZE_ERROR),
    "settings cut short": (START + raw(SETTINGS, 0, 0, b"x"), ErrorCode.FRAME_SIZE_ERROR),
    "settings of a stream": (START + raw(SETTINGS, 0, 1), ErrorCode.FRAME_SIZE_ERROR),
    "a huge window": (START + setting(4, 2**31), ErrorCode.FLOW_CONTROL_ERROR),
    "a tiny frame size": (START + setting(5, 1), ErrorCode.PROTOCOL_ERROR),
    "a window that overflows": (START + raw(WINDOW_UPDATE, 0, 0, number(2**31 - 1)), ErrorCode.FLOW_CONTROL_ERROR),
    "a window that does not move": (START + raw(WINDOW_UPDATE, 0, 0, number(0)), ErrorCode.FLOW_CONTROL_ERROR),
    "a window cut short": (START + raw(WINDOW_UPDATE, 0, 0, b"x"), ErrorCode.FRAME_SIZE_ERROR),
    "padding without a frame": (START + raw(HEADERS, END_HEADERS | PADDED, 1, b"\x09x"), ErrorCode.PROTOCOL_ERROR),
    "no room for its priority": (START + raw(HEADERS, END_HEADERS | HAS_PRIORITY, 1, b"x"), ErrorCode.FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize(("data", "code"), WRONG.values(), ids=WRONG.keys())
def test_a_breach_of_the_protocol_ends_the_connection(data: bytes, code: int) -> None:
    """With the code that says why."""
    with pytest.raises(ProtocolError) as raised:
        Connection().receive(data)
    assert raised.value.code == code


def broken_after(connection: Connection, data: Iterable[bytes]) -> tuple[int, ErrorCode]:
    """How many pieces are taken until one breaks the connection, and with which code."""
    at = -1
    try:
        for at, piece in enumerate(data):  # noqa: B007
            connection.receive(piece)
    except ProtocolError as error:
        return at, error.code
    raise AssertionError("it was never broken")


FLOODS: dict[str, Callable[[int], bytes]] = {
    "pings": lambda _: raw(PING, 0, 0, bytes(8)),
    "settings": lambda _: raw(SETTINGS, 0, 0),
    "windows": lambda at: raw(WINDOW_UPDATE, 0, 1, number(1)),
    "unknown frames": lambda _: raw(77, 0, 0),
    "priorities": lambda at: raw(PRIORITY, 0, 2 * at + 1, bytes(5)),
    "empty data": lambda at: (raw(HEADERS, END_HEADERS, 1, block()) if at == 0 else b"") + raw(DATA, 0, 1),
    "resets": lambda at: call(2 * at + 1) + raw(RST_STREAM, 0, 2 * at + 1, number(8)),
    "data of calls that have ended": lambda at: (
        (raw(HEADERS, END_HEADERS, 1, block()) + raw(RST_STREAM, 0, 1, number(8)) if at == 0 else b"")
        + raw(DATA, 0, 1, b"x")
    ),
}


@pytest.mark.parametrize("frame_of", FLOODS.values(), ids=FLOODS.keys())
def test_a_flood_of_frames_ends_the_connection(frame_of: Callable[[int], bytes]) -> None:
    """Frames that get the client no further are bounded in number, and what they make us send is bounded with them."""
    connection = started()
    at, code = broken_after(connection, (frame_of(at) for at in range(IDLE_FRAMES + 10)))
    assert (at >= IDLE_FRAMES - 10, code) == (True, ErrorCode.ENHANCE_YOUR_CALM)


def test_a_client_that_gives_up_on_some_calls_is_no_flood() -> None:
    """Envoy resets what it no longer waits for: for each call that is answered, some more may be reset."""
    connection = started()
    for at in range(2 * IDLE_FRAMES):
        stream = 4 * at + 1
        calls = connection.receive(call(stream) + call(stream + 2) + raw(RST_STREAM, 0, stream, number(8)))
        echo(connection, calls)
        connection.take_out()
        connection.receive(raw(WINDOW_UPDATE, 0, 0, number(7)))


def test_calls_at_once_are_bounded_also_those_that_were_reset() -> None:
    """A call that is being decided counts until it is, whether or not the client still waits: resets gain nothing."""
    connection = started()
    streams = range(1, 2 * MOST_CALLS + 1, 2)
    for stream in streams:
        assert len(connection.receive(call(stream))) == 1
    connection.receive(b"".join(raw(RST_STREAM, 0, stream, number(8)) for stream in streams))
    connection.take_out()
    more = 2 * MOST_CALLS + 1
    assert connection.receive(call(more)) == []
    assert list(frames_in(connection.take_out())) == [(RST_STREAM, 0, more, number(ErrorCode.REFUSED_STREAM))]
    connection.reply(1, b"decided, for nobody")
    assert len(connection.receive(call(more + 2))) == 1


def test_what_a_client_can_have_us_keep_is_bounded() -> None:
    """Messages that never end: beyond the window of the connection it is in breach."""
    begun = [
        raw(HEADERS, END_HEADERS, 2 * at + 1, block()) + raw(DATA, 0, 2 * at + 1, bytes(16_000)) for at in range(999)
    ]
    assert broken_after(started(), begun) == (BUFFERED // 16_000, ErrorCode.FLOW_CONTROL_ERROR)


def test_a_message_that_does_not_arrive_is_given_up() -> None:
    """The call is cancelled, and its window returned."""
    connection = started(raw(HEADERS, END_HEADERS, 1, block()) + raw(DATA, 0, 1, b"\0"))
    assert connection.incomplete() == {1}
    connection.cancel(1)
    assert list(frames_in(connection.take_out())) == [(RST_STREAM, 0, 1, number(ErrorCode.CANCEL))]
    assert connection.is_idle


@settings(max_examples=300)
@given(st.integers(0, 2**32))
def test_no_bytes_break_it(seed: int) -> None:
    """Frames of any kind, whole ones and ones with a byte changed: calls, or the one exception that is expected."""
    dice = random.Random(seed)
    encoder, connection = Encoder(), started()
    for at in range(40):
        stream = dice.choice((0, 1, 3, 5, 2 * at + 1))
        headers = encoder.encode(lines(dice.choice((PATH, "/other"))))
        payload = dice.choice((headers, message(b"abc"), dice.randbytes(dice.randrange(12)), bytes(8), number(1)))
        data = raw(
            dice.choice((0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 77)), dice.choice((0, 1, 4, 5, 8, 45)), stream, payload
        )
        if dice.random() < 0.3:
            changed = bytearray(data)
            changed[dice.randrange(len(data))] = dice.randrange(256)
            data = bytes(changed)
        try:
            calls = connection.receive(data)
        except ProtocolError:
            return
        for each in calls:
            connection.reply(each.stream, b"answer")
        connection.take_out()


def test_the_preface_may_come_in_pieces() -> None:
    """One byte at a time; a byte that cannot belong to it ends the connection at once."""
    connection = Connection()
    for byte in PREFACE:
        assert not connection.is_greeted
        connection.receive(bytes((byte,)))
    assert connection.is_greeted
    with pytest.raises(ProtocolError):
        Connection().receive(PREFACE[:5] + b"x")
