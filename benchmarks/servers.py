"""The servers under load, one worker each: uvicorn with uvloop and httptools, or granian; and the venv of the peers."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

import click

import shieldmw
from benchmarks.apps import READY_PATH
from benchmarks.progress import say
from benchmarks.store import HOST
from shieldmw.rehearsal.load.server import free_port, serving

HOME: Final = Path(__file__).resolve().parent.parent
CHECKOUT: Final = Path(shieldmw.__file__).resolve().parent.parent
PEERS: Final = ("slowapi", "limits", "throttled_py", "asgi_ratelimit", "fastapi_limiter")
# The name of each yardstick in a table.
YARDSTICKS: Final = {
    "counter": "a count in a dict and two headers",
    "group": "a shared call to take.lua and two headers",
    "ping": "a PING",
}
# Packages that the peers run on in the same versions as the shield, so that only the limiter differs.
SHARED: Final = ("starlette", "uvicorn", "uvloop", "httptools", "hiredis")
_PEERS_VENV: Final = HOME / ".venv-bench"
_PEERS_LIST: Final = Path(__file__).with_name("peers.txt")
# Under granian, the shield is that of ``shieldmw serve``.
ServerName = Literal["uvicorn", "granian"]
_TICKS_A_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class App:
    """One app to measure: its name in the table, its kind (``BENCH_APP``), its server, and the checkout of shieldmw."""

    name: str
    kind: str
    server: ServerName = "uvicorn"
    checkout: Path = CHECKOUT

    @property
    def is_peer(self) -> bool:
        """Whether it runs in the venv of the peers."""
        return self.kind in PEERS

    @property
    def module(self) -> str:
        """The module that builds it."""
        if self.is_peer:
            return "benchmarks.peers"
        return "benchmarks.yardsticks" if self.kind in YARDSTICKS else "benchmarks.apps"

    @property
    def has_store(self) -> bool:
        """Whether it counts in Redis."""
        return self.kind not in {"bare", "refusal", "counter", "ping"}


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers."""

    app: App
    url: str
    pid: int
    last_lines: Callable[[int], str]

    def cpu_s(self) -> float:
        """The processor time that it and its workers have used."""
        workers = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return sum(_cpu_s(pid) for pid in (str(self.pid), *workers))


def _cpu_s(pid: str) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_S


def peer_name(kind: str) -> str:
    """The name of its package."""
    return kind.replace("_", "-")


@asynccontextmanager
async def running(app: App, settings: Mapping[str, str]) -> AsyncIterator[Server]:
    """A server from its first answer to its end."""
    port = free_port(HOST)
    command = [*_command(app), "--host", HOST, "--port", str(port), "--log-level", "warning"]
    environ = own_environment() | dict(settings) | {"BENCH_APP": app.kind, "BENCH_CHECKOUT": str(app.checkout)}
    async with serving(command, HOME, environ) as server:
        await server.ready(f"http://{HOST}:{port}{READY_PATH}", 30, lambda _: None)
        yield Server(app, f"http://{HOST}:{port}/", server._process.pid, server.last_lines)


def _command(app: App) -> list[str]:
    if app.server == "granian":
        if app.kind == "shield":
            return [sys.executable, "-m", "shieldmw", "serve", "benchmarks.apps:served"]
        command = [sys.executable, "-m", "granian", "--factory", f"{app.module}:build"]
        return [*command, "--interface", "asgi", "--loop", "uvloop"]
    python = peers_python() if app.is_peer else sys.executable
    command = [python, "-m", "uvicorn", "--factory", f"{app.module}:build", "--loop", "uvloop", "--http", "httptools"]
    # Otherwise uvicorn trusts any header from loopback before the shield sees it.
    return [*command, "--no-access-log", "--no-proxy-headers"]


def own_environment() -> dict[str, str]:
    """This environment without settings of a shield, and with these benchmarks on the path."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SHIELD_", "BENCH_"))}
    return inherited | {"PYTHONPATH": str(HOME)}


def peers_python() -> str:
    """The Python of the peers' venv, which is created if it is missing or out of date.

    Raises:
        click.ClickException: pip failed.
    """
    wanted = [f"{name}=={version(name)}" for name in SHARED]
    stamp = _PEERS_VENV / "made-of"
    made_of = hashlib.sha256("\n".join([_PEERS_LIST.read_text("utf-8"), sys.version, *wanted]).encode()).hexdigest()
    python = _PEERS_VENV / "bin" / "python"
    if stamp.exists() and stamp.read_text() == made_of:
        return str(python)
    say(f"making {_PEERS_VENV} for the peers (once; about a minute)")
    started_s = time.monotonic()
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(_PEERS_VENV)],
        [*install, "-r", str(_PEERS_LIST), *wanted],
    ):
        if subprocess.run(command, check=False).returncode != 0:  # noqa: S603
            raise click.ClickException(f"failed: {' '.join(command)}")
    stamp.write_text(made_of)
    say(f"  took {time.monotonic() - started_s:.0f} s")
    return str(python)
