"""The WebSocket protocol towards an upstream, without I/O: bytes in, ASGI messages out, and the reverse.

Frames are parsed and made by the websockets library. Everything that an upstream sends is hostile: a message has a
longest size, and what waits to be taken is counted: whole messages, empty ones too, and answers to pings.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from starlette.types import Message
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.protocol import Protocol, Side, State

from shieldmw.answers.gateway import INCOMPLETE, Failure

from .failures import ProxyFailure
from .http1 import ResponseHead, tokens

# Longest message in bytes, either way: granian's limit for a frame.
LONGEST_MESSAGE = 16 * 2**20

# What a message counts for beside its bytes.
_OVERHEAD = 128

# RFC 6455, section 1.3.
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Frames:
    """One WebSocket. ``end``: the close code and the reason for the client, once the upstream has ended it."""

    def __init__(self) -> None:
        self._protocol = Protocol(Side.CLIENT, state=State.OPEN, max_size=LONGEST_MESSAGE)
        self._messages: list[Message] = []
        self._pieces = bytearray()
        self._is_text = False
        self.buffered = 0
        self.is_complete = False
        self.is_reusable = False
        self.end: tuple[int, str] | None = None

    # --- from the upstream ---

    @property
    def end_so_far(self) -> Failure:
        """What it means if the connection ends here: no close frame has come."""
        return INCOMPLETE

    def feed(self, data: bytes) -> None:
        """Take what has come."""
        if self.end is not None:
            return
        self._protocol.receive_data(data)
        for frame in self._protocol.events_received():
            assert isinstance(frame, Frame)
            self._take_frame(frame)
        if self._protocol.parser_exc is not None and self.end is None:
            sent = self._protocol.close_sent
            is_long = sent is not None and sent.code == CloseCode.MESSAGE_TOO_BIG
            self._finish((CloseCode.MESSAGE_TOO_BIG if is_long else CloseCode.BAD_GATEWAY, ""))

    def eof(self) -> None:
        """The upstream has closed its side.

        Raises:
            ProxyFailure: without a close frame.
        """
        if self.end is None:
            raise ProxyFailure(INCOMPLETE)

    def take(self) -> Sequence[Message]:
        """The messages that have come since the last call."""
        messages, self._messages, self.buffered = self._messages, [], 0
        return messages

    def _take_frame(self, frame: Frame) -> None:
        match frame.opcode:
            case Opcode.TEXT | Opcode.BINARY | Opcode.CONT:
                if frame.opcode is not Opcode.CONT:
                    self._is_text = frame.opcode is Opcode.TEXT
                self._pieces += frame.data
                if frame.fin:
                    self._take_message()
            case Opcode.PING:
                self.buffered += len(frame.data) + _OVERHEAD
            case Opcode.CLOSE:
                closed = self._protocol.close_rcvd
                has_code = closed is not None and closed.code != CloseCode.NO_STATUS_RCVD
                self._finish((closed.code, closed.reason) if closed and has_code else (CloseCode.NORMAL_CLOSURE, ""))

    def _take_message(self) -> None:
        data, self._pieces = bytes(self._pieces), bytearray()
        message: Message = {"type": "websocket.send"}
        if self._is_text:
            try:
                message["text"] = data.decode()
            except UnicodeDecodeError:
                self._protocol.fail(CloseCode.INVALID_DATA)
                self._finish((CloseCode.BAD_GATEWAY, ""))
                return
        else:
            message["bytes"] = data
        self.buffered += len(data) + _OVERHEAD
        self._messages.append(message)

    def _finish(self, end: tuple[int, str]) -> None:
        self.end = self.end or end
        self.is_complete = True

    # --- to the upstream ---

    def say(self, message: Message) -> None:
        """A message of the client, or its end; nothing once the upstream has ended it."""
        if self._protocol.state is not State.OPEN:
            return
        if message["type"] == "websocket.receive":
            text = message.get("text")
            if text is None:
                self._protocol.send_binary(message.get("bytes") or b"")
            else:
                self._protocol.send_text(text.encode())
            return
        code, reason = message.get("code", CloseCode.NO_STATUS_RCVD), message.get("reason") or ""
        if code == CloseCode.NO_STATUS_RCVD:
            self._protocol.send_close()
        else:
            self._protocol.send_close(code, reason)

    def ping(self) -> None:
        """Ask the upstream for a sign of life."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_ping(b"")

    def to_send(self) -> bytes:
        """The bytes for the upstream, answers to its pings among them."""
        return b"".join(self._protocol.data_to_send())


def is_sendable(code: int) -> bool:
    """Whether a close frame may have this code; 1006 means that there was none."""
    try:
        Close(code, "").check()
    except Exception:
        return False
    return True


def accept_of(key: bytes) -> bytes:
    """The answer to a Sec-WebSocket-Key."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def is_accepted(head: ResponseHead, key: bytes, offered: Sequence[str]) -> bool:
    """Whether a 101 is a valid answer to our handshake (RFC 6455, section 4.1), which offers no extensions."""
    values: dict[bytes, list[bytes]] = {}
    for name, value in head.lines:
        values.setdefault(name, []).append(value)
    chosen = values.get(b"sec-websocket-protocol", [])
    return (
        head.status == 101
        and [value.lower() for value in values.get(b"upgrade", [])] == [b"websocket"]
        and any(b"upgrade" in tokens(value) for value in values.get(b"connection", []))
        and values.get(b"sec-websocket-accept") == [accept_of(key)]
        and b"sec-websocket-extensions" not in values
        and len(chosen) <= 1
        and all(value.decode("latin-1") in offered for value in chosen)
    )
