"""An upstream that a test scripts byte by byte: a plain socket server with a thread for each connection."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .places import HOST

# No script waits longer for a byte.
PATIENCE_S = 20

End = Literal["closed", "reset"]


class Peer:
    """One connection of the proxy, seen from the upstream."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._unread = b""

    def head(self) -> bytes:
        """The next request's head with its blank line; empty if the connection ends before it."""
        while b"\r\n\r\n" not in self._unread:
            if not (data := self._more()):
                return b""
            self._unread += data
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n"

    def read(self, length: int) -> bytes:
        """So many bytes of a body; fewer if the connection ends."""
        while len(self._unread) < length and (data := self._more()):
            self._unread += data
        found, self._unread = self._unread[:length], self._unread[length:]
        return found

    def line(self) -> bytes:
        """The next line, without its end."""
        while b"\r\n" not in self._unread and (data := self._more()):
            self._unread += data
        found, _, self._unread = self._unread.partition(b"\r\n")
        return found

    def chunks(self) -> bytes:
        """A body in chunks, as it is written, with its end."""
        while not self._unread.endswith(b"0\r\n\r\n") and (data := self._more()):
            self._unread += data
        found, self._unread = self._unread, b""
        return found

    def rest(self) -> tuple[bytes, End]:
        """All that still comes, and how the connection ends."""
        found, self._unread = self._unread, b""
        try:
            while data := self.socket.recv(65_536):
                found += data
        except ConnectionResetError:
            return found, "reset"
        return found, "closed"

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(data)

    def close(self) -> None:
        """End the connection in order."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def _more(self) -> bytes:
        try:
            return self.socket.recv(65_536)
        except OSError:
            return b""


Script = Callable[[Peer, bytes], None]


@dataclass
class ScriptedUpstream:
    """Calls ``script`` with each request's connection and head. ``heads``: those that came, oldest first.

    ``errors``: what scripts raised. ``connections``: how many were accepted.
    """

    listener: socket.socket
    script: Script
    heads: list[bytes] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    connections: int = 0
    _peers: list[socket.socket] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Its URL for ``--upstream``."""
        scheme = "https" if isinstance(self.listener, ssl.SSLSocket) else "http"
        return f"{scheme}://{HOST}:{self.listener.getsockname()[1]}"

    def reset(self, script: Script) -> None:
        """Forget what came, and follow another script from the next request on."""
        self.script = script
        self.heads.clear()
        self.errors.clear()
        self.connections = 0

    def serve(self) -> None:
        """Accept connections until the listener is closed."""
        while True:
            try:
                connection, _ = self.listener.accept()
            except ssl.SSLError:  # the proxy does not trust us
                continue
            except OSError:
                return
            self.connections += 1
            connection.settimeout(PATIENCE_S)
            self._peers.append(connection)
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        peer = Peer(connection)
        try:
            while head := peer.head():
                self.heads.append(head)
                self.script(peer, head)
        except OSError:
            pass  # the proxy has left, or the script has closed the connection
        except BaseException as error:
            self.errors.append(error)
        finally:
            connection.close()

    def close(self) -> None:
        """Stop listening, and end all connections."""
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self._peers:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def scripted_upstream(
    script: Script, path: str | None = None, certificates: Path | None = None
) -> Iterator[ScriptedUpstream]:
    """An upstream on a free port, or on the unix socket ``path``; by TLS with ``certificates``."""
    if path is None:
        listener = socket.create_server((HOST, 0), backlog=512)
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(512)
    if certificates is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates / "server.crt", certificates / "server.key")
        listener = context.wrap_socket(listener, server_side=True)
    upstream = ScriptedUpstream(listener, script)
    threading.Thread(target=upstream.serve, daemon=True).start()
    try:
        yield upstream
    finally:
        upstream.close()
