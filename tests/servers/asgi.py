"""ASGI servers: uvicorn, alone and under gunicorn, granian, hypercorn, and `shieldmw serve`."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from .http import HttpServer, ready
from .places import APPS, HOST, REPOSITORY, missing, on_free_port, own_directory
from .processes import end_group, spawn

AsgiKind = Literal["uvicorn", "gunicorn", "granian", "hypercorn", "shieldmw"]


# What each server logs once per worker when that worker serves. `shieldmw serve` runs granian.
_WORKER_STARTED: dict[AsgiKind, str] = {
    "uvicorn": r"Application startup complete|'lifespan' protocol appears unsupported",
    "gunicorn": r"Application startup complete",
    "granian": r"Started worker-\d",
    "hypercorn": r"Running on http",
    "shieldmw": r"Started worker-\d",
}

# Its control socket would be in the home of whoever runs the tests.
_GUNICORN = ("--worker-class", "uvicorn.workers.UvicornWorker", "--forwarded-allow-ips", "", "--no-control-socket")


def _asgi_command(
    kind: AsgiKind, target: str, port: int, workers: int, args: Sequence[str], uds: Path | None = None
) -> list[str]:
    """The command line that serves the target; later arguments win over the defaults here."""
    where = ["--host", HOST, "--port", str(port)] if uds is None else ["--uds", str(uds)]
    address = [*where, "--workers", str(workers)]
    command: dict[AsgiKind, list[str]] = {
        "uvicorn": ["uvicorn", target, *address, "--no-proxy-headers"],
        "gunicorn": ["gunicorn", target, *_GUNICORN, "--bind", f"{HOST}:{port}", "--workers", str(workers)],
        "granian": ["granian", "--interface", "asgi", target, *address],
        "hypercorn": ["hypercorn", target, "--bind", f"{HOST}:{port}", "--workers", str(workers)],
        "shieldmw": ["shieldmw", "serve", target, *address],
    }
    return [sys.executable, "-m", *command[kind], *args]


def clean_environment(env: Mapping[str, str]) -> dict[str, str]:
    """What a server sees: enough to run, where the apps under test are, and what the test asked for."""
    basic = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {
        **basic,
        "PYTHONPATH": os.pathsep.join(map(str, (APPS, APPS.parent, REPOSITORY))),
        "PYTHONUNBUFFERED": "1",
        **env,
    }


@contextmanager
def asgi_server(
    kind: AsgiKind,
    target: str,
    *,
    env: Mapping[str, str],
    cwd: Path,
    workers: int = 1,
    args: Sequence[str] = (),
    ready_path: str = "/healthz",
    uds: bool = False,
) -> Iterator[HttpServer]:
    """Serve `module:app` and wait until every worker serves.

    Nothing of the caller's environment but PATH and HOME is passed on. Readiness is seen by a GET of
    `ready_path`, which should be an exempt path, since it would be charged otherwise. uvicorn reads no proxy
    headers unless `args` say `--proxy-headers`. `uds` is for uvicorn and `shieldmw serve`: a unix socket
    instead of the port. `{port}` in a value of `env` stands for the port.
    """
    if importlib.util.find_spec(kind) is None:
        missing(kind)
    with own_directory() as directory:

        def start(port: int) -> HttpServer:
            """Start on a given port."""
            environment = clean_environment({name: value.replace("{port}", str(port)) for name, value in env.items()})
            path, log = directory / "s" if uds else None, directory / f"{port}.log"
            command = _asgi_command(kind, target, port, workers, args, path)
            server = HttpServer(port, spawn(command, log, cwd, environment), log, path)
            return ready(server, f"{kind} to serve {target}", ready_path, _WORKER_STARTED[kind], workers)

        server = on_free_port(start)
        try:
            yield server
        finally:
            end_group(server.process)
