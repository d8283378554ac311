"""One worker under load: starts it, flips its switch, counts what it serves, and runs the botnet."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Final

import aiohttp
import click

from benchmarks.load import Load, Seen, Wrk
from benchmarks.overload.app import READY_PATH
from benchmarks.overload.crowd import ISSUER
from benchmarks.overload.tally import Tally
from benchmarks.servers import HOME, own_environment
from benchmarks.store import HOST, Store
from shieldmw.rehearsal.load.server import free_port, serving

SERVERS: Final = {"uvloop": "uvicorn, uvloop", "asyncio": "uvicorn, asyncio", "serve": "shieldmw serve"}
BOTS: Final = 5000
_ADMIN_TIMEOUT_S: Final = 20

# Connections of the botnet: enough to overload the app and few enough for one machine.
CONNECTIONS: Final = {"cpu": 250, "threads": 700, "pool": 700}
# Connections for measuring capacity: they keep the app busy while hardly any request waits.
_BUSY: Final = {"cpu": 4, "threads": 4, "pool": 32}
_CAPACITY_S: Final = 3

_TICKS_A_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Setup:
    """What to measure: a load, under a server, with SHIELD_OVERLOAD and other settings; and the botnet's size."""

    load: str
    server: str
    overload: str = "on"
    connections: int = 0
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def title(self) -> str:
        """Its name in a table."""
        return f"{SERVERS[self.server]}: {self.load}" + ("" if self.overload == "on" else f", {self.overload}")

    def command(self, port: int, admin_port: int) -> list[str]:
        """The command of the worker, one process. Only ``serve`` has a separate listener for operators."""
        where = ["--host", HOST, "--port", str(port)]
        if self.server == "serve":
            command = [sys.executable, "-m", "shieldmw", "serve", "benchmarks.overload.served:app", *where]
            return [*command, "--admin", f"{HOST}:{admin_port}"]
        command = [sys.executable, "-m", "uvicorn", "--factory", "benchmarks.overload.served:shielded", *where]
        command += ["--loop", self.server, "--http", "httptools", "--log-level", "warning", "--no-access-log"]
        return [*command, "--no-proxy-headers"]


@dataclass(frozen=True, slots=True)
class Capacity:
    """The requests per second that an app can serve, and the worker's processor time for each."""

    per_s: float
    cpu_us: float

    def mean(self, other: Capacity) -> Capacity:
        """The mean of two measurements."""
        return Capacity((self.per_s + other.per_s) / 2, (self.cpu_us + other.cpu_us) / 2)


class Worker:
    """A running worker, as seen by its operator and its attackers."""

    def __init__(
        self, setup: Setup, port: int, admin_port: int, group: int, settings: Mapping[str, str], folder: Path
    ) -> None:
        self.setup = setup
        self.port = port
        self._admin_port = admin_port
        self._group = group
        self._settings = settings
        self._folder = folder
        self._tally = Tally(settings["OVERLOAD_TALLY"])
        self._url = f"http://{HOST}:{port}"

    @property
    def secret(self) -> str:
        """The secret that signs the members' tokens."""
        return self._settings["SHIELD_JWT_SECRET"]

    def served(self) -> int:
        """Requests that the app has served."""
        return self._tally.read()

    def cpu_s(self) -> float:
        """The processor time that its processes have used."""
        return sum(_cpu_s_of(self._group))

    async def capacity(self) -> Capacity:
        """The app's capacity without an attack, measured with few connections."""
        before, cpu_s = self.served(), self.cpu_s()
        seen = await self._wrk(_BUSY[self.setup.load]).run(self._url, _CAPACITY_S)
        cpu_us = (self.cpu_s() - cpu_s) / (self.served() - before) * 1e6
        return Capacity((seen.requests - seen.refused) / seen.duration_us * 1e6, cpu_us)

    async def drown(self, seconds: int) -> Seen:
        """Run the botnet: clients below every limit that send again as soon as they are answered."""
        return await self._wrk(self.setup.connections or CONNECTIONS[self.setup.load]).run(self._url, seconds)

    async def flip(self, mode: str) -> float:
        """Seconds until the operator has flipped the switch, on a new connection; infinite if that failed."""
        return await self._flip(mode, self.port)

    async def flip_apart(self, mode: str) -> float | None:
        """The same through the operators' own listener; None if there is none."""
        return await self._flip(mode, self._admin_port) if self.setup.server == "serve" else None

    async def _flip(self, mode: str, port: int) -> float:
        timeout, began_s = aiohttp.ClientTimeout(total=_ADMIN_TIMEOUT_S), time.monotonic()
        bearer = {"Authorization": f"Bearer {self._settings['SHIELD_ADMIN_TOKEN']}"}
        url = f"http://{HOST}:{port}/-/shield/mode"
        while time.monotonic() - began_s < _ADMIN_TIMEOUT_S:
            with suppress(aiohttp.ClientError, TimeoutError):
                async with (
                    aiohttp.ClientSession(timeout=timeout, headers=bearer) as session,
                    session.put(url, json={"mode": mode}) as answer,
                ):
                    if answer.status == 200:
                        return time.monotonic() - began_s
                    if answer.status != 503:  # the store did not answer in time: try again
                        raise click.ClickException(f"the mode was not changed: {answer.status} {await answer.text()}")
        return inf

    async def flip_directly(self, mode: str) -> float:
        """Seconds that ``shieldmw mode --direct`` takes, from the command's start to its end."""
        began_s = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "shieldmw", "mode", mode, "--direct"),
            cwd=HOME,
            env=own_environment() | dict(self._settings),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        if process.returncode != 0:
            raise click.ClickException(f"the mode was not changed: {output.decode()}")
        return time.monotonic() - began_s

    async def ask(self, path: str) -> None:
        """Send a request without any client header."""
        async with aiohttp.ClientSession() as session, session.get(self._url + path) as answer:
            answer.raise_for_status()

    def _wrk(self, connections: int) -> Wrk:
        bots = (f"X-Forwarded-For: 10.0.{number // 250}.{number % 250 + 1}" for number in range(BOTS))
        return Wrk(Load(tuple(bots)), self._folder, connections)


def _cpu_s_of(group: int) -> Iterator[float]:
    """The processor time of each process of a group."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                yield (int(fields[11]) + int(fields[12])) / _TICKS_A_S


@asynccontextmanager
async def starting(setup: Setup, store: Store) -> AsyncIterator[tuple[Worker, asyncio.Task[None]]]:
    """A worker from its start to its end, and a task that ends when it answers."""
    store.client.flushall()
    port, admin_port = free_port(HOST), free_port(HOST)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        Tally.create(folder / "tally")
        settings = {
            "OVERLOAD_LOAD": setup.load,
            "OVERLOAD_TALLY": str(folder / "tally"),
            "SHIELD_REDIS_URL": store.url(0),
            "SHIELD_OVERLOAD": setup.overload,
            # Far above what any client sends: only the lane sheds.
            "SHIELD_IP_LIMIT": "100000/minute",
            "SHIELD_TOKEN_LIMIT": "100000/minute",
            "SHIELD_EMERGENCY_IP_LIMIT": "100000/minute",
            "SHIELD_TRUSTED_PROXIES": "127.0.0.0/8",
            "SHIELD_EXEMPT_PATHS": f"{READY_PATH},/pause",
            "SHIELD_JWT_SECRET": secrets.token_hex(32),
            "SHIELD_JWT_AUDIENCE": ISSUER,
            "SHIELD_JWT_ISSUER": ISSUER,
            "SHIELD_ADMIN_TOKEN": secrets.token_hex(16),
            **dict(setup.settings),
        }
        async with serving(setup.command(port, admin_port), HOME, own_environment() | settings) as server:
            ready = asyncio.create_task(server.ready(f"http://{HOST}:{port}{READY_PATH}", 30, lambda _: None))
            try:
                yield Worker(setup, port, admin_port, server._process.pid, settings, folder), ready
            finally:
                ready.cancel()


@asynccontextmanager
async def running(setup: Setup, store: Store) -> AsyncIterator[Worker]:
    """A worker from its first answer to its end."""
    async with starting(setup, store) as (worker, ready):
        await ready
        yield worker
