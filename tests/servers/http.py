"""A running HTTP server of any kind, and waiting until it serves."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .places import HOST
from .processes import START_TIMEOUT_S, STOP_TIMEOUT_S, end, end_group, read
from .waiting import NotReady, tail, wait_until


@dataclass
class HttpServer:
    """A running HTTP server and its main process; `uds` is the unix socket it listens on instead of the port."""

    port: int
    process: subprocess.Popen[bytes]
    log_path: Path
    uds: Path | None = None

    @property
    def base_url(self) -> str:
        """`http://host:port`, without a slash at the end; `http://unix:path` as nginx names a socket."""
        return f"http://{HOST}:{self.port}" if self.uds is None else f"http://unix:{self.uds}"

    @property
    def ws_url(self) -> str:
        """`ws://host:port`, without a slash at the end."""
        return f"ws://{HOST}:{self.port}"

    def log(self) -> str:
        """Everything the server has written to stdout and stderr."""
        return read(self.log_path)

    def terminate(self, timeout: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM, wait, kill as the last resort; returns the exit code (negative: ended by that signal)."""
        return end(self.process, timeout)

    def kill(self) -> None:
        """End the main process and its workers as a crash would (SIGKILL)."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def answers(self, path: str) -> bool:
        """Whether a GET gets any answer at all; raises when the process has ended."""
        if self.process.poll() is not None:
            raise NotReady(f"the server ended with {self.process.returncode}{tail(self.log)}")
        connection = _Connection(self)
        try:
            connection.request("GET", path)
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        return True


class _Connection(http.client.HTTPConnection):
    """A connection to a server, on its port or on its unix socket."""

    def __init__(self, server: HttpServer) -> None:
        super().__init__(HOST, server.port, timeout=2)
        self._uds = server.uds

    def connect(self) -> None:
        """Connect to the socket where there is one."""
        if self._uds is None:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._uds))


def ready(server: HttpServer, what: str, path: str, started: str = "", workers: int = 1) -> HttpServer:
    """Wait for an answer, and for the log line of each of several workers; end the server on failure."""
    try:
        wait_until(lambda: server.answers(path), START_TIMEOUT_S, what, server.log)
        if workers > 1:
            wait_until(
                lambda: len(re.findall(started, server.log())) >= workers,
                START_TIMEOUT_S,
                f"{what} with {workers} workers",
                server.log,
            )
    except BaseException:
        end_group(server.process)
        raise
    return server
