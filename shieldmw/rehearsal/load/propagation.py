"""Measures when the last worker obeys the switch, by requests to each worker.

A probe is a guest with one TCP connection, and a connection belongs to one worker for as long as it lives; the event
says which (``worker`` in ``/api/now``). Before the flip a probe requests the live path and must be admitted; from the
moment the flip is requested it tries again and again, on the same connection, until the answer is 503. The fleet has
obeyed when the last probe has its 503. Several probes per worker, each from an address of its own and out of step with
the others, give a resolution finer than their interval. Their addresses are on the allow list: no limit answers in
place of the switch, and while the app is flooded they do not wait behind others.

A probe uses HEAD, which requests a seat as GET does, and leaves the connection open for the next request.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

_KNOCK_EACH_S: Final = 0.06
_GIVE_UP_AFTER_S: Final = 5.0
_ANSWER_WITHIN_S: Final = 5.0
_NO_SEAT: Final = 503


@dataclass(frozen=True, slots=True)
class Propagation:
    """For each probed worker, when its last probe was refused; None if one never was."""

    refused_s: dict[str, float | None]

    def after_s(self, flipped_s: float) -> float | None:
        """Seconds from the flip to the last worker; None if not all obeyed, or none was probed."""
        times = [at_s for at_s in self.refused_s.values() if at_s is not None]
        if not times or len(times) < len(self.refused_s):
            return None
        return max(0.0, max(times) - flipped_s)


class Probes:
    """``each`` probes for each of ``workers`` workers, from as many of the ``sources`` as that takes."""

    def __init__(self, host: str, port: int, sources: Sequence[str], workers: int, each: int = 3) -> None:
        self._place = (host, port)
        self._sources = sources
        self._workers = workers
        self._each = each
        self._probes: dict[str, list[_Probe]] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Probes:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def prepare(self) -> None:
        """Find every worker and be admitted there. The kernel chooses which worker takes a connection."""
        for source in self._sources:
            if len(self._probes) >= self._workers and all(len(some) >= self._each for some in self._probes.values()):
                return
            probe = await self._connect(source)
            if probe is not None:
                self._probes.setdefault(probe.worker, []).append(probe)

    async def obeyed(self) -> Propagation:
        """Knock until all are refused. Call it when the switch is flipped."""
        begun_s = time.monotonic()
        names = [worker for worker, some in self._probes.items() for _ in some]
        every = [probe for some in self._probes.values() for probe in some]
        pauses = [_KNOCK_EACH_S * index / max(1, len(every)) for index in range(len(every))]
        knocks = (probe.refused_s(pause_s, begun_s) for probe, pause_s in zip(every, pauses, strict=True))
        times = await asyncio.gather(*knocks)
        found: dict[str, float | None] = {f"unseen {n}": None for n in range(self._workers - len(self._probes))}
        for worker in self._probes:
            of_it = [at_s for name, at_s in zip(names, times, strict=True) if name == worker]
            found[worker] = None if None in of_it else max(at_s for at_s in of_it if at_s is not None)
        return Propagation(found)

    async def _connect(self, source: str) -> _Probe | None:
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                reader, writer = await asyncio.open_connection(*self._place, local_addr=(source, 0))
                self._stack.callback(writer.close)
                probe = _Probe(reader, writer)
                await probe.find_worker()
                return probe if await probe.knock() == 200 else None
        except (OSError, EOFError, TimeoutError, ValueError):
            return None


class _Probe:
    """HTTP/1.1 by hand: a client with a pool could not guarantee that it stays on one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.worker = ""
        self._reader = reader
        self._writer = writer

    async def find_worker(self) -> None:
        """Ask the event which worker is at the other end."""
        _, length = await self._ask("GET /api/now")
        self.worker = str(json.loads(await self._reader.readexactly(length))["worker"])

    async def knock(self) -> int:
        """The status of a request for the live path."""
        status, _ = await self._ask("HEAD /live")
        return status

    async def refused_s(self, pause_s: float, begun_s: float) -> float | None:
        """Knock until a seat is refused; returns when that was."""
        await asyncio.sleep(pause_s)
        try:
            while time.monotonic() < begun_s + _GIVE_UP_AFTER_S:
                async with asyncio.timeout(_ANSWER_WITHIN_S):
                    status = await self.knock()
                if status == _NO_SEAT:
                    return time.monotonic()
                await asyncio.sleep(_KNOCK_EACH_S)
        except (OSError, EOFError, TimeoutError, ValueError):
            return None
        return None

    async def _ask(self, line: str) -> tuple[int, int]:
        """Status and content length of the answer; its body, if any, is still to be read."""
        self._writer.write(f"{line} HTTP/1.1\r\nHost: demo\r\n\r\n".encode())
        await self._writer.drain()
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (text.partition(":") for text in lines)}
        return int(first.split()[1]), int(headers.get("content-length", "0"))
