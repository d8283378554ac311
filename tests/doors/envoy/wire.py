"""HTTP/2 as bytes, written independently of the code under test, and a client made of ``h2``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, ResponseReceived, StreamEnded, StreamReset, TrailersReceived
from hpack import Encoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, HAS_PRIORITY = 1, 4, 8, 32
LONGEST_FRAME = 16_384
PATH = "/test.Service/Method"


def raw(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def number(value: int) -> bytes:
    """Four bytes."""
    return value.to_bytes(4, "big")


def setting(name: int, value: int) -> bytes:
    """A SETTINGS frame with one of them."""
    return raw(SETTINGS, 0, 0, name.to_bytes(2, "big") + number(value))


START = PREFACE + raw(SETTINGS, 0, 0)


def lines(path: str = PATH, content_type: str = "application/grpc") -> list[tuple[str, str]]:
    """The headers of a call."""
    pseudo = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "shield")]
    return [*pseudo, ("te", "trailers"), ("content-type", content_type)]


def block(path: str = PATH, content_type: str = "application/grpc") -> bytes:
    """The same, encoded without a memory."""
    return Encoder().encode([(name, value, True) for name, value in lines(path, content_type)])


def message(content: bytes, flag: bytes = b"\0") -> bytes:
    """A gRPC message with its prefix."""
    return flag + number(len(content)) + content


def call(stream: int, content: bytes = b"?", path: str = PATH) -> bytes:
    """A whole call."""
    return raw(HEADERS, END_HEADERS, stream, block(path)) + raw(DATA, END_STREAM, stream, message(content))


def frames_in(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """The frames of bytes: type, flags, stream, payload."""
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 3], "big")
        stream = int.from_bytes(data[at + 5 : at + 9], "big")
        yield data[at + 3], data[at + 4], stream, data[at + 9 : at + 9 + length]
        at += 9 + length


@dataclass
class Reply:
    """What came back on a stream. ``status`` is that of gRPC."""

    http: str = ""
    message: bytes = b""
    status: str = ""
    ended: bool = False
    reset: int | None = None


@dataclass
class Client:
    """A client of ``h2``, sans I/O."""

    replies: dict[int, Reply] = field(default_factory=dict)
    h2: H2Connection = field(init=False)

    def __post_init__(self) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()

    def ask(self, content: bytes, path: str = PATH, extra: Sequence[tuple[str, str]] = ()) -> int:
        """Begin and end a call; returns its stream."""
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, [*lines(path), *extra])
        data = message(content)
        for at in range(0, len(data), LONGEST_FRAME):
            self.h2.send_data(stream, data[at : at + LONGEST_FRAME], end_stream=at + LONGEST_FRAME >= len(data))
        return stream

    def take_out(self) -> bytes:
        """The bytes to send."""
        return self.h2.data_to_send()

    def receive(self, data: bytes) -> list[Event]:
        """Take note of what the server sent."""
        events = self.h2.receive_data(data)
        for event in events:
            stream = getattr(event, "stream_id", None)
            if stream is None:
                continue
            reply = self.replies.setdefault(stream, Reply())
            if isinstance(event, ResponseReceived | TrailersReceived):
                headers = dict(cast(list[tuple[str, str]], event.headers))
                reply.http = headers.get(":status", reply.http)
                reply.status = headers.get("grpc-status", reply.status)
            elif isinstance(event, DataReceived):
                reply.message += event.data or b""
            elif isinstance(event, StreamEnded):
                reply.ended = True
            elif isinstance(event, StreamReset):
                reply.reset = int(event.error_code or 0)
        return events
