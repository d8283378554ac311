"""HTTP/2's flow control (RFC 9113, section 5.2), sans I/O: how much the client may send, and how much it takes."""

from __future__ import annotations

from . import frames
from .frames import ErrorCode, ProtocolError

# Bytes of messages that are buffered for all calls of a connection together.
BUFFERED = 4 * 1024 * 1024

# Replies that can be sent now: their streams, and their bytes.
Replies = list[tuple[int, bytes]]


class Receiving:
    """The window of the whole connection for what the client sends. (Those of its calls never fill up: each call has
    one message, which fits.)"""

    def __init__(self) -> None:
        self._window = BUFFERED
        self._consumed = 0

    def came(self, size: int) -> None:
        """Data has come.

        Raises:
            ProtocolError: more than the window allows.
        """
        self._window -= size
        if self._window < 0:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "more data than the window allows")

    def consumed(self, size: int) -> bytes:
        """Data is not buffered any more. Returns the frame that lets the client send more, once it is worth one."""
        self._consumed += size
        if self._consumed < BUFFERED // 4:
            return b""
        by, self._consumed = self._consumed, 0
        self._window += by
        return frames.window_update(0, by)


class Sending:
    """The client's windows, and the replies that wait for them: for the one of their stream, in any order, then for
    that of the connection, in the order in which they got there. What waits is forgotten with its stream."""

    def __init__(self) -> None:
        self._window = self._initial = frames.DEFAULT_WINDOW
        self._windows: dict[int, int] = {}
        self._stalled: dict[int, bytes] = {}
        self._queued: dict[int, bytes] = {}

    def open(self, stream: int) -> None:
        """A stream begins."""
        self._windows[stream] = self._initial

    def close(self, stream: int) -> None:
        """A stream has ended without a reply; or it is not known."""
        self._windows.pop(stream, None)
        self._stalled.pop(stream, None)
        self._queued.pop(stream, None)

    def admits(self, stream: int, data: bytes) -> bool:
        """Whether a reply can be sent now, which ends its stream; otherwise it is kept."""
        size = len(data)
        if size > self._windows[stream]:
            self._stalled[stream] = data
        elif self._queued or size > self._window:
            self._queued[stream] = data
        else:
            self._window -= size
            del self._windows[stream]
            return True
        return False

    def widen(self, stream: int, by: int) -> Replies:
        """The client takes more on a stream. Returns what can be sent now.

        Raises:
            ProtocolError: the window does not grow, or too much.
        """
        window = self._windows.get(stream)
        if window is None:
            return []
        self._windows[stream] = _widened(window, by)
        data = self._stalled.pop(stream, None)
        return [] if data is None else self._admitted([(stream, data)])

    def widen_all(self, by: int) -> Replies:
        """The client takes more in all; as ``widen``."""
        self._window = _widened(self._window, by)
        if not self._queued or len(next(iter(self._queued.values()))) > self._window:
            return []
        waiting, self._queued = list(self._queued.items()), {}
        return self._admitted(waiting)

    def set_initial(self, size: int) -> Replies:
        """The client chooses the window of streams, also of those that are open; as ``widen``."""
        if size > frames.LARGEST_WINDOW:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a window that is too large")
        by, self._initial = size - self._initial, size
        for stream in self._windows:
            self._windows[stream] += by
        waiting, self._stalled = list(self._stalled.items()), {}
        return self._admitted(waiting)

    def _admitted(self, waiting: Replies) -> Replies:
        return [(stream, data) for stream, data in waiting if self.admits(stream, data)]


def _widened(window: int, by: int) -> int:
    if not by or window + by > frames.LARGEST_WINDOW:
        raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a window that is too large")
    return window + by
