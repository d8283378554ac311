"""HTTP/2 frames as bytes (RFC 9113), and the few header blocks that a gRPC server sends.

Our own blocks use no dynamic table, so they are constants and need no HPACK encoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

FRAME_HEADER_BYTES = 9

# The length of a frame in 3 bytes (as 1 and 2), its type, its flags, and its stream.
FRAME_HEADER = Struct(">BHBBL")
_LONG = Struct(">L")
_SETTING = Struct(">HL")
_GOAWAY = Struct(">LL")

# Frame types and flags (RFC 9113, section 6).
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20

# Settings (section 6.5.2).
HEADER_TABLE_SIZE = 0x1
ENABLE_PUSH = 0x2
MAX_CONCURRENT_STREAMS = 0x3
INITIAL_WINDOW_SIZE = 0x4
MAX_FRAME_SIZE = 0x5
MAX_HEADER_LIST_SIZE = 0x6

DEFAULT_WINDOW = 65_535
LARGEST_WINDOW = 2**31 - 1
SMALLEST_MAX_FRAME, LARGEST_MAX_FRAME = 16_384, 2**24 - 1
LAST_STREAM = 2**31 - 1


class ErrorCode(IntEnum):
    """Why a stream or a connection ends (RFC 9113, section 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    FLOW_CONTROL_ERROR = 0x3
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


class GrpcStatus(IntEnum):
    """The outcome of a call, in the trailer ``grpc-status``."""

    OK = 0
    INVALID_ARGUMENT = 3
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13


class ProtocolError(Exception):
    """The peer broke the protocol or a bound; the connection must end, after GOAWAY with ``code``."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame."""
    length = len(payload)
    return FRAME_HEADER.pack(length >> 16, length & 0xFFFF, kind, flags, stream) + payload


def settings(values: dict[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in values.items()))


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """The settings in a payload, whose length is a multiple of six."""
    yield from _SETTING.iter_unpack(payload)


def window_update(stream: int, by: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream, _LONG.pack(by))


def reset(stream: int, code: ErrorCode) -> bytes:
    """An RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream, _LONG.pack(code))


def goaway(last_stream: int, code: ErrorCode) -> bytes:
    """A GOAWAY frame: streams after ``last_stream`` were not processed."""
    return frame(GOAWAY, 0, 0, _GOAWAY.pack(last_stream, code))


def read_long(payload: bytes) -> int:
    """A number of 31 bits."""
    number: int = _LONG.unpack(payload)[0]
    return number & LAST_STREAM


def _literal(name: bytes, value: bytes) -> bytes:
    """A header line that is not indexed and not compressed (RFC 7541, section 6.2.2); both are short."""
    return b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value


# ``:status: 200`` is entry 8 of the static table.
_STATUS_200 = b"\x88"

RESPONSE_BLOCK = _STATUS_200 + _literal(b"content-type", b"application/grpc")
OK_TRAILERS_BLOCK = _literal(b"grpc-status", b"0")

# The first thing in a block after the peer has made its table smaller (RFC 7541, section 4.2): ours has no entries.
EMPTY_TABLE = b"\x20"


def failure_block(status: GrpcStatus) -> bytes:
    """The headers of a response that is an error and nothing else."""
    return RESPONSE_BLOCK + _literal(b"grpc-status", b"%d" % status)
