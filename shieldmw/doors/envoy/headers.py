"""The header blocks of a gRPC client's calls, sans I/O: put together from frames, and read for the path that is called.

HPACK, the delicate part, is the library's ``hpack``.
"""

from __future__ import annotations

from typing import NamedTuple

from hpack import Decoder, HPACKError

from . import frames
from .frames import ErrorCode, ProtocolError

# Bytes of an encoded header block, CONTINUATION frames of one, and bytes of its header lines once decoded.
LONGEST_BLOCK = 16 * 1024
MOST_CONTINUATIONS = 8
LONGEST_HEADER_LIST = 32 * 1024


class Head(NamedTuple):
    """A complete head: its stream, the flags of its first frame, and the path, which is empty if it is no gRPC call."""

    stream: int
    flags: int
    path: bytes


class Headers:
    """Reads the header blocks of one connection. ``is_open``: a block has begun, and must go on."""

    def __init__(self) -> None:
        self._decoder = Decoder(max_header_list_size=LONGEST_HEADER_LIST)
        self._block: tuple[int, int, bytearray] | None = None  # stream, flags of HEADERS, bytes so far
        self._continuations = 0
        self._repeated: tuple[bytes, bytes] | None = None  # an indexed block, and its path

    @property
    def is_open(self) -> bool:
        """Whether only a CONTINUATION may follow."""
        return self._block is not None

    def begin(self, flags: int, stream: int, payload: bytes) -> Head | None:
        """Read a HEADERS frame. None: its block goes on.

        Raises:
            ProtocolError: it is malformed, or too long.
        """
        payload = without_padding(flags, payload)
        if flags & frames.HAS_PRIORITY:
            if len(payload) < 5:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a priority that is cut short")
            payload = payload[5:]
        if flags & frames.END_HEADERS:
            return self._head(stream, flags, payload)
        self._block, self._continuations = (stream, flags, bytearray(payload)), 0
        return None

    def go_on(self, flags: int, stream: int, payload: bytes) -> Head | None:
        """Read a CONTINUATION frame; as ``begin``."""
        if self._block is None or self._block[0] != stream:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a CONTINUATION of nothing")
        _, first_flags, block = self._block
        block += payload
        self._continuations += 1
        if self._continuations > MOST_CONTINUATIONS or len(block) > LONGEST_BLOCK:
            raise _too_long()
        if not flags & frames.END_HEADERS:
            return None
        self._block = None
        return self._head(stream, first_flags, bytes(block))

    def _head(self, stream: int, flags: int, block: bytes) -> Head:
        if not stream % 2:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a stream that clients cannot open")
        return Head(stream, flags, self._path_in(block))

    def _path_in(self, block: bytes) -> bytes:
        """The path in a header block; empty if it is no gRPC call.

        Envoy sends the same headers again and again, so that soon a block only refers to the table. Such a block
        changes nothing in the table, and means the same as the last time if no other was read in between.
        """
        repeated = self._repeated
        if repeated is not None and repeated[0] == block:
            return repeated[1]
        if len(block) > LONGEST_BLOCK:
            raise _too_long()
        try:
            lines = self._decoder.decode(block, raw=True)
        except HPACKError as error:
            raise ProtocolError(ErrorCode.COMPRESSION_ERROR, f"headers that cannot be decoded: {error}") from None
        path = content_type = b""
        for name, value in lines:
            if name == b":path":
                path = bytes(value)
            elif name == b"content-type":
                content_type = bytes(value)
        if not content_type.startswith(b"application/grpc"):
            path = b""
        # Bytes from 0x81 to 0xfe are indexed fields, complete in themselves (RFC 7541, section 6.1).
        only_refers = bool(block) and min(block) > 0x80 and max(block) < 0xFF
        self._repeated = (block, path) if only_refers else None
        return path


def without_padding(flags: int, payload: bytes) -> bytes:
    """The payload of a HEADERS or DATA frame.

    Raises:
        ProtocolError: the padding is longer than the frame.
    """
    if not flags & frames.PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "padding that is longer than its frame")
    return payload[1 : len(payload) - payload[0]]


def _too_long() -> ProtocolError:
    return ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "headers that are too long")
