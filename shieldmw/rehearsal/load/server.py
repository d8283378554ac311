"""A server process for a drill: starts it, waits for it, stops it by SIGTERM, and says whether it stopped cleanly.

Independent of the served app: the command, folder and environment are arguments.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import sysconfig
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Final

import aiohttp

from shieldmw.errors import ShieldError

_PACKAGE: Final = Path(__file__).resolve().parent.parent
_ASK_AGAIN_S: Final = 0.1
_CHILDREN_END_WITHIN_S: Final = 3.0
_PR_SET_PDEATHSIG: Final = 1


class ServerNotReady(ShieldError):
    """The server ended or did not answer. The message ends with the last lines of its log."""


class Server:
    """One running server, in a process group of its own, so that a Ctrl-C at the terminal does not reach it."""

    def __init__(self, process: asyncio.subprocess.Process, log: IO[bytes]) -> None:
        self._process = process
        self._log = log

    @property
    def running(self) -> bool:
        """Whether the main process still runs."""
        return self._process.returncode is None

    async def ended(self) -> None:
        """Return once it has ended, by itself or otherwise."""
        await self._process.wait()

    def last_lines(self, count: int, *marks: str) -> str:
        """The last lines of its stdout and stderr; if ``marks`` are given, of those that contain one."""
        end = os.fstat(self._log.fileno()).st_size
        text = os.pread(self._log.fileno(), 65536, max(0, end - 65536)).decode("utf-8", "replace")
        lines = [line for line in text.splitlines() if not marks or any(mark in line for mark in marks)]
        return "\n".join(lines[-count:])

    async def ready(self, url: str, within_s: float, waiting: Callable[[float], None]) -> None:
        """Return once ``url`` answers 200; ``waiting`` is called with the seconds passed, now and then."""
        started = time.monotonic()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            while not await _answers(session, url):
                passed = time.monotonic() - started
                if not self.running:
                    raise self._not_ready(f"the server ended with status {self._process.returncode}")
                if passed > within_s:
                    raise self._not_ready(f"the server did not answer {url} within {within_s:g} s")
                waiting(passed)
                await asyncio.sleep(_ASK_AGAIN_S)

    async def stop(self, within_s: float = 15.0) -> str | None:
        """Send SIGTERM and wait. Returns None if it stopped cleanly, or what was wrong; nothing is left running."""
        if not self.running:
            _kill_group(self._process.pid)
            return f"it had already ended, with status {self._process.returncode}"
        self._process.terminate()
        wrong = None
        try:
            status = await asyncio.wait_for(self._process.wait(), within_s)
            if status != 0:
                wrong = f"it ended with status {status} after SIGTERM"
        except TimeoutError:
            wrong = f"it did not end within {within_s:g} s of SIGTERM and was killed"
        if wrong is None and not await self._group_ends():
            wrong = "it left a process behind, which was killed"
        _kill_group(self._process.pid)
        await self._process.wait()
        return wrong

    async def _group_ends(self) -> bool:
        """Whether its children end too. They may take a moment longer, as Python's resource tracker does."""
        until = time.monotonic() + _CHILDREN_END_WITHIN_S
        while _group_lives(self._process.pid):
            if time.monotonic() > until:
                return False
            await asyncio.sleep(_ASK_AGAIN_S)
        return True

    def _not_ready(self, what: str) -> ServerNotReady:
        return ServerNotReady(f"{what}; its last lines were:\n{self.last_lines(20) or '(nothing)'}")


@asynccontextmanager
async def serving(command: Sequence[str], folder: Path, environ: Mapping[str, str]) -> AsyncIterator[Server]:
    """Start the server, and stop it at the end if it still runs."""
    libc = ctypes.CDLL(None)

    def end_with_the_drill() -> None:
        # A drill that is killed cannot stop the server. Linux only, as are the addresses that the drill sends from.
        if hasattr(libc, "prctl"):
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    # A file, not a pipe: a pipe that is not read fills up and blocks the server.
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,
            env=dict(environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=end_with_the_drill,
        )
        server = Server(process, log)
        try:
            yield server
        finally:
            await server.stop()


def environment(inherited: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of the server: without inherited settings, and with this package on the path, even though the
    server runs in another folder. Pure, except that it reads where this package is."""
    environ = {name: value for name, value in inherited.items() if not name.startswith("SHIELD_")}
    paths = [str(Path(path).absolute()) for path in inherited.get("PYTHONPATH", "").split(os.pathsep) if path]
    home = str(_PACKAGE.parent)
    if home not in (*paths, sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        paths.insert(0, home)
    if paths:
        environ["PYTHONPATH"] = os.pathsep.join(paths)
    return environ | dict(settings)


def free_port(host: str) -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    with suppress(aiohttp.ClientError, OSError, TimeoutError):
        async with session.get(url) as answer:
            return answer.status == 200
    return False


def _group_lives(group: int) -> bool:
    """Whether a process of the group still runs. Zombies do not count: if the first process of a container reaps
    none, they stay forever."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _parent, its_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                return True
    return False


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
