"""The load: wrk, with one client or with many in turn, and its results."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

CONNECTIONS: Final = 64
_SCRIPT: Final = Path(__file__).with_name("load.lua")


@dataclass(frozen=True, slots=True)
class Load:
    """The clients: each line is the header of one (``Name: value``); no lines mean one client without a header."""

    lines: tuple[str, ...] = ()

    def headers(self) -> dict[str, str]:
        """The header of the first client."""
        return dict([self.lines[0].split(": ", 1)]) if self.lines else {}


@dataclass(frozen=True, slots=True)
class Seen:
    """The results of wrk. ``refused`` are all answers over 399, ``errors`` requests without an answer."""

    requests: int
    duration_us: int
    refused: int
    errors: int
    p50_us: int
    p99_us: int

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.requests / self.duration_us * 1e6


class Wrk:
    """Sends one load to any server. Each run continues with the client after the last one of the previous run."""

    def __init__(self, load: Load, folder: Path, connections: int = CONNECTIONS) -> None:
        if shutil.which("wrk") is None:
            raise click.ClickException("the load comes from wrk, which is not on PATH: apt-get install wrk")
        self._load = load
        self._connections = connections
        self._lines = folder / "lines"
        self._lines.write_text("".join(f"{line}\n" for line in load.lines), "utf-8")
        self._next = 0

    async def pass_through(self, url: str) -> None:
        """Let each client send at least one request; wrk itself only has a duration."""
        until = self._next + max(1, len(self._load.lines))
        while self._next < until:
            await self.run(url, 1)

    async def run(self, url: str, seconds: int) -> Seen:
        """Send requests for this many seconds."""
        command = ["wrk", "-t1", f"-c{self._connections}", f"-d{seconds}s", "-s", str(_SCRIPT)]
        environ = dict(os.environ)
        if len(self._load.lines) > 1:
            environ |= {"BENCH_LINES": str(self._lines), "BENCH_START": str(self._next)}
        elif self._load.lines:
            command += ["-H", self._load.lines[0]]
        process = await asyncio.create_subprocess_exec(
            *command,
            url,
            env=environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        lines = output.decode().strip().splitlines()
        if process.returncode != 0 or not lines or not lines[-1].startswith("{"):
            raise click.ClickException(f"wrk failed with status {process.returncode}:\n{output.decode()}")
        seen = Seen(**json.loads(lines[-1]))
        self._next += seen.requests
        return seen
