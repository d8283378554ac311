"""One HTTP/2 connection of a gRPC client, sans I/O: bytes in, calls out; replies in, bytes out.

Only what unary gRPC needs: one message in, one message out. All that a peer can make us keep or do is bounded by the
constants below, in ``flow`` and in ``headers``. Written instead of using ``h2`` because that takes 180 µs for a call,
which alone is more than a worker may spend on one; this takes about 15 µs.
"""

from __future__ import annotations

from typing import NamedTuple

from . import frames
from .flow import BUFFERED, Receiving, Replies, Sending
from .frames import ErrorCode, GrpcStatus, ProtocolError, frame
from .headers import LONGEST_HEADER_LIST, Head, Headers, without_padding

# Calls that are open or being decided at once. Envoy's own default (circuit breaker ``max_requests``) is 1024.
MOST_CALLS = 1024

# Bytes of a message. What Envoy asks about a request holds its whole head, the path twice, and a head has at most
# 60 KiB (``max_request_headers_kb``): a message beyond this would be an error, which failure_mode_allow lets pass.
LONGEST_MESSAGE = 256 * 1024

# Frames that the peer may send without getting any further: PING, SETTINGS, RST_STREAM, WINDOW_UPDATE, empty DATA, and
# those of unknown types. An answered call allows some more, since Envoy resets calls that it no longer waits for.
IDLE_FRAMES = 10_000
IDLE_FRAMES_PER_CALL = 4

_GRPC_PREFIX_BYTES = 5
_OWN_SETTINGS = {
    frames.MAX_CONCURRENT_STREAMS: MOST_CALLS,
    frames.INITIAL_WINDOW_SIZE: LONGEST_MESSAGE + _GRPC_PREFIX_BYTES,
    frames.MAX_HEADER_LIST_SIZE: LONGEST_HEADER_LIST,
}
_GREETING = frames.settings(_OWN_SETTINGS) + frames.window_update(0, BUFFERED - frames.DEFAULT_WINDOW)


class Call(NamedTuple):
    """One complete question: the stream to reply on, the method's path, and the message."""

    stream: int
    path: bytes
    message: bytes


class _Stream:
    """A call that is not over. ``data`` is None once it is complete."""

    __slots__ = ("data", "path")

    def __init__(self, path: bytes) -> None:
        self.path = path
        self.data: bytearray | None = bytearray()


class Connection:
    """The server's side of a connection. Call ``receive`` with what arrives, and send what ``take_out`` returns."""

    def __init__(self) -> None:
        self._in = bytearray()
        self._out = [_GREETING]
        self._has_preface = False
        self._headers = Headers()
        self._streams: dict[int, _Stream] = {}
        self._last_stream = 0
        self._deciding: set[int] = set()
        self._ready: dict[int, Call] = {}
        self._receiving = Receiving()
        self._sending = Sending()
        self._table_prefix = b""
        self._idle_frames = IDLE_FRAMES
        self.knows_end = False  # the client has seen what ``announce_end`` sent

    @property
    def is_greeted(self) -> bool:
        """Whether the client's preface has arrived."""
        return self._has_preface

    @property
    def is_idle(self) -> bool:
        """Whether no call is open, and no part of a frame or header block has arrived."""
        return not self._streams and not self._deciding and not self._in and not self._headers.is_open

    @property
    def progress(self) -> tuple[int, int]:
        """A value that changes whenever a call begins or ends."""
        return self._last_stream, len(self._streams)

    def incomplete(self) -> frozenset[int]:
        """The streams whose message has not arrived in full."""
        return frozenset(number for number, stream in self._streams.items() if stream.data is not None)

    def take_out(self) -> bytes:
        """The bytes to send now."""
        out = b"".join(self._out)
        self._out.clear()
        return out

    # --- reading ----------------------------------------------------------------------------------

    def receive(self, data: bytes) -> list[Call]:
        """The calls that are complete with these bytes; each must be answered with ``reply`` or ``fail``.

        A call that the client resets within the same bytes is not among them.

        Raises:
            ProtocolError: the connection must end.
        """
        buffer = self._in
        buffer += data
        at = 0 if self._has_preface else self._read_preface()
        end = len(buffer)
        if self._has_preface:
            while end - at >= frames.FRAME_HEADER_BYTES:
                high, low, kind, flags, stream = frames.FRAME_HEADER.unpack_from(buffer, at)
                length = high << 16 | low
                if length > frames.SMALLEST_MAX_FRAME:
                    raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a frame that is too long")
                if end - at < frames.FRAME_HEADER_BYTES + length:
                    break
                at += frames.FRAME_HEADER_BYTES
                self._read_frame(kind, flags, stream & frames.LAST_STREAM, bytes(buffer[at : at + length]))
                at += length
        del buffer[:at]
        ready = list(self._ready.values())
        self._ready.clear()
        self._deciding.update([call.stream for call in ready])
        return ready

    def _read_preface(self) -> int:
        begun = bytes(self._in[: len(frames.PREFACE)])
        if not frames.PREFACE.startswith(begun):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "not HTTP/2 without TLS")
        if len(begun) < len(frames.PREFACE):
            return 0
        self._has_preface = True
        return len(frames.PREFACE)

    def _read_frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._headers.is_open and kind != frames.CONTINUATION:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a header block that is interrupted")
        if kind == frames.DATA:
            self._read_data(flags, number, payload)
        elif kind == frames.HEADERS:
            self._begin(self._headers.begin(flags, number, payload))
        elif kind == frames.CONTINUATION:
            self._begin(self._headers.go_on(flags, number, payload))
        else:
            self._spend_idle_frame()
            if kind == frames.WINDOW_UPDATE:
                self._read_window_update(number, payload)
            elif kind == frames.RST_STREAM:
                self._read_reset(number, payload)
            elif kind == frames.SETTINGS:
                self._read_settings(flags, number, payload)
            elif kind == frames.PING:
                self._read_ping(flags, number, payload)
            elif kind == frames.PUSH_PROMISE:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a push by a client")
            # PRIORITY, GOAWAY and unknown types change nothing: the client closes when it is done.

    def _spend_idle_frame(self) -> None:
        self._idle_frames -= 1
        if self._idle_frames < 0:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "a flood of frames")

    def _begin(self, head: Head | None) -> None:
        """Open a stream, or end one by its trailers."""
        if head is None:
            return
        number, flags, path = head
        if number <= self._last_stream:
            self._read_trailers(flags, number)
            return
        self._last_stream = number
        if len(self._streams) >= MOST_CALLS or len(self._deciding) >= MOST_CALLS:
            # The second number counts calls that were reset while they were decided: they must not be free.
            self._spend_idle_frame()
            self._out.append(frames.reset(number, ErrorCode.REFUSED_STREAM))
            return
        self._streams[number] = stream = _Stream(path)
        self._sending.open(number)
        if flags & frames.END_STREAM:
            self._complete(number, stream)

    def _read_trailers(self, flags: int, number: int) -> None:
        stream = self._streams.get(number)
        if stream is None:
            self._spend_idle_frame()  # of a stream that we have ended, and the client did not know yet
        elif stream.data is None or not flags & frames.END_STREAM:
            raise ProtocolError(ErrorCode.STREAM_CLOSED, "headers in the middle of a call")
        else:
            self._complete(number, stream)

    def _read_data(self, flags: int, number: int, payload: bytes) -> None:
        self._receiving.came(len(payload))
        stream = self._streams.get(number)
        if stream is None:
            if number > self._last_stream or not number % 2:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "data on a stream that was never opened")
            self._spend_idle_frame()  # of a stream that we have ended
            self._consume(len(payload))
            return
        data = stream.data
        if data is None:
            raise ProtocolError(ErrorCode.STREAM_CLOSED, "data after the end of a call")
        length, padded = len(payload), flags & frames.PADDED
        payload = without_padding(flags, payload)
        if padded:
            self._consume(length - len(payload))
        data += payload
        if len(data) > LONGEST_MESSAGE + _GRPC_PREFIX_BYTES:
            self._consume(len(data))
            self._fail(number, GrpcStatus.RESOURCE_EXHAUSTED)
        elif flags & frames.END_STREAM:
            self._complete(number, stream)
        elif not payload:
            self._spend_idle_frame()

    def _complete(self, number: int, stream: _Stream) -> None:
        data = bytes(stream.data or b"")
        stream.data = None
        self._consume(len(data))
        if data[:1] == b"\x01" or not stream.path:  # compressed, or no gRPC
            self._fail(number, GrpcStatus.UNIMPLEMENTED)
        elif len(data) < _GRPC_PREFIX_BYTES or int.from_bytes(data[1:5], "big") != len(data) - _GRPC_PREFIX_BYTES:
            self._fail(number, GrpcStatus.INVALID_ARGUMENT)
        else:
            self._ready[number] = Call(number, stream.path, data[_GRPC_PREFIX_BYTES:])

    def _consume(self, size: int) -> None:
        """Let the client send as much again."""
        if update := self._receiving.consumed(size):
            self._out.append(update)

    def _read_reset(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a reset of the wrong size")
        if not number % 2 or number > self._last_stream:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a reset of a stream that was never opened")
        stream = self._close(number)
        self._ready.pop(number, None)
        if stream is not None and stream.data:
            self._consume(len(stream.data))

    def _read_settings(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) % 6 or (flags & frames.ACK and payload):
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "settings that cannot be read")
        if flags & frames.ACK:
            return
        initial: int | None = None
        for name, value in frames.read_settings(payload):
            if name == frames.INITIAL_WINDOW_SIZE:
                initial = value
            elif name == frames.MAX_FRAME_SIZE:
                if not frames.SMALLEST_MAX_FRAME <= value <= frames.LARGEST_MAX_FRAME:
                    raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a frame size that is not allowed")
            elif name == frames.HEADER_TABLE_SIZE:
                self._table_prefix = frames.EMPTY_TABLE
        self._out.append(frame(frames.SETTINGS, frames.ACK, 0, b""))  # only then do its windows apply to the client
        if initial is not None:
            self._send_all(self._sending.set_initial(initial))

    def _read_ping(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) != 8:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a ping of the wrong size")
        if flags & frames.ACK:
            self.knows_end = True
        else:
            self._out.append(frame(frames.PING, frames.ACK, 0, payload))

    def _read_window_update(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a window update of the wrong size")
        by = frames.read_long(payload)
        self._send_all(self._sending.widen(number, by) if number else self._sending.widen_all(by))

    # --- writing ----------------------------------------------------------------------------------

    def reply(self, number: int, message: bytes) -> None:
        """Answer a call, as soon as the client's windows allow it. Does nothing if the client has reset it."""
        self._deciding.discard(number)
        if number in self._streams:
            data = b"\x00" + len(message).to_bytes(4, "big") + message
            if self._sending.admits(number, data):
                self._send(number, data)

    def fail(self, number: int, status: GrpcStatus) -> None:
        """Answer a call with an error."""
        self._deciding.discard(number)
        if number in self._streams:
            self._fail(number, status)

    def cancel(self, number: int) -> None:
        """End a call whose message does not arrive."""
        stream = self._close(number)
        if stream is not None:
            self._consume(len(stream.data or b""))
            self._out.append(frames.reset(number, ErrorCode.CANCEL))

    def announce_end(self) -> None:
        """Ask the client to open no more calls here. Those that it opens until it ``knows_end`` are still answered."""
        self._out.append(frames.goaway(frames.LAST_STREAM, ErrorCode.NO_ERROR))
        self._out.append(frame(frames.PING, 0, 0, bytes(8)))

    def end(self, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """Say that the connection ends now: no call that the client opens from here on is answered."""
        self._out.append(frames.goaway(self._last_stream, code))

    def _fail(self, number: int, status: GrpcStatus) -> None:
        was_complete = self._streams[number].data is None
        self._close(number)
        block = self._header_block(frames.failure_block(status))
        self._out.append(frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, number, block))
        if not was_complete:
            self._out.append(frames.reset(number, ErrorCode.NO_ERROR))
        self._answered()

    def _send_all(self, replies: Replies) -> None:
        for number, data in replies:
            self._send(number, data)

    def _send(self, number: int, data: bytes) -> None:
        """Send a reply that the windows allow."""
        del self._streams[number]
        out = self._out
        out.append(frame(frames.HEADERS, frames.END_HEADERS, number, self._header_block(frames.RESPONSE_BLOCK)))
        for at in range(0, len(data), frames.SMALLEST_MAX_FRAME):
            out.append(frame(frames.DATA, 0, number, data[at : at + frames.SMALLEST_MAX_FRAME]))
        flags = frames.END_HEADERS | frames.END_STREAM
        out.append(frame(frames.HEADERS, flags, number, frames.OK_TRAILERS_BLOCK))
        self._answered()

    def _close(self, number: int) -> _Stream | None:
        """End a stream without a reply, and return it; None if it was not open."""
        self._sending.close(number)
        return self._streams.pop(number, None)

    def _answered(self) -> None:
        self._idle_frames = min(IDLE_FRAMES, self._idle_frames + IDLE_FRAMES_PER_CALL)

    def _header_block(self, block: bytes) -> bytes:
        prefix, self._table_prefix = self._table_prefix, b""
        return prefix + block
