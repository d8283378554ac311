"""The WebSocket protocol towards an upstream: any bytes in any pieces, without I/O."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from shieldmw.doors.proxy.failures import ProxyFailure
from shieldmw.doors.proxy.frames import Frames, accept_of, is_accepted, is_sendable
from shieldmw.doors.proxy.http1 import ResponseHead, ResponseReader

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="


def frame(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    """A frame as a server writes it."""
    return bytes(Frame(opcode, data, fin).serialize(mask=False))


def test_messages_are_whole() -> None:
    """Fragments are joined, pings are answered in between, and what waits is counted."""
    frames = Frames()
    frames.feed(frame(Opcode.TEXT, "é".encode()[:1], fin=False))
    frames.feed(frame(Opcode.PING, b"x") + frame(Opcode.CONT, "é".encode()[1:]))
    frames.feed(frame(Opcode.BINARY, b"") + frame(Opcode.BINARY, b"\xff"))
    assert frames.buffered > 3
    assert list(frames.take()) == [
        {"type": "websocket.send", "text": "é"},
        {"type": "websocket.send", "bytes": b""},
        {"type": "websocket.send", "bytes": b"\xff"},
    ]
    assert (frames.buffered, frames.end) == (0, None)
    assert frames.to_send()[0] == 0x8A


def test_a_message_that_is_not_whole_does_not_wait_to_be_taken() -> None:
    """There is nothing to take, so reading must go on."""
    frames = Frames()
    frames.feed(frame(Opcode.BINARY, bytes(1_000_000), fin=False))
    assert (frames.buffered, list(frames.take())) == (0, [])


def test_answers_to_pings_are_counted() -> None:
    """They wait for as long as the client does not take the messages before them."""
    frames = Frames()
    for _ in range(1000):
        frames.feed(b"\x89\x01x")
    assert frames.buffered >= 100_000
    frames.take()
    assert frames.buffered == 0


def test_empty_messages_are_counted() -> None:
    """A flood of them would otherwise wait in memory."""
    frames = Frames()
    frames.feed(frame(Opcode.TEXT, b"") * 10_000)
    assert frames.buffered >= 1_000_000


@given(st.binary(max_size=100), st.integers(1, 40))
def test_any_bytes_are_read_or_end_it(data: bytes, step: int) -> None:
    """Nothing is raised, whatever comes and however it is cut."""
    frames = Frames()
    for start in range(0, len(data), step):
        frames.feed(data[start : start + step])
        frames.take()
        frames.to_send()
        frames.say({"type": "websocket.receive", "text": "x"})
    if frames.end is None:
        with pytest.raises(ProxyFailure):
            frames.eof()
    else:
        frames.eof()
    frames.say({"type": "websocket.disconnect", "code": 1000})
    frames.ping()


@pytest.mark.parametrize("code", [1000, 1005, 3000])
def test_the_end_is_said_once(code: int) -> None:
    """And nothing after it."""
    frames = Frames()
    frames.say({"type": "websocket.disconnect", "code": code})
    assert frames.to_send()[0] == 0x88
    frames.say({"type": "websocket.receive", "text": "x"})
    frames.say({"type": "websocket.disconnect", "code": code})
    assert frames.to_send() == b""


def test_which_codes_can_be_sent() -> None:
    """Not those that stand for a missing close frame."""
    assert [code for code in (0, 999, 1000, 1004, 1006, 1011, 1015, 2999, 3000, 4999, 5000) if is_sendable(code)] == [
        *(1000, 1011, 3000, 4999)
    ]


def test_what_accepts_a_handshake() -> None:
    """The answer to the key, which RFC 6455 gives as an example, and nothing that was not offered."""
    assert accept_of(KEY) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    lines = [(b"upgrade", b"websocket"), (b"connection", b"x, Upgrade"), (b"sec-websocket-accept", accept_of(KEY))]
    assert is_accepted(ResponseHead(101, lines, frozenset()), KEY, ())
    for wrong in (lines[1:], lines[:2], [*lines, (b"sec-websocket-extensions", b"x")], [*lines, lines[2]]):
        assert not is_accepted(ResponseHead(101, wrong, frozenset()), KEY, ())
    with_protocol = [*lines, (b"sec-websocket-protocol", b"one")]
    assert is_accepted(ResponseHead(101, with_protocol, frozenset()), KEY, ["two", "one"])
    assert not is_accepted(ResponseHead(101, with_protocol, frozenset()), KEY, ["two"])


@given(st.binary(max_size=20), st.integers(1, 200))
def test_what_follows_a_101_is_kept(rest: bytes, step: int) -> None:
    """However the bytes are cut."""
    data = b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n" + rest
    reader = ResponseReader(may_switch=True)
    for start in range(0, len(data), step):
        reader.feed(data[start : start + step])
    assert reader.head is not None
    assert (reader.head.status, reader.rest, reader.is_reusable) == (101, rest, False)
