"""What the shield adds to a request at a tenth of the load, and what one round trip to Redis takes."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import click

from benchmarks.cases import Case
from benchmarks.load import Wrk
from benchmarks.progress import say
from benchmarks.report import table, verdict
from benchmarks.rounds import Plan, start
from benchmarks.servers import HOME, App, own_environment
from benchmarks.store import Store

# Shortest run, so that p99 rests on more than a handful of answers.
_LEAST_S: Final = 5
_TARGET_P50_US: Final = 150
_TARGET_P99_US: Final = 1000


@dataclass(frozen=True, slots=True)
class Pace:
    """Latencies of one run."""

    asked: int
    p50_us: float
    p99_us: float

    def __sub__(self, other: Pace) -> Pace:
        return Pace(self.asked, self.p50_us - other.p50_us, self.p99_us - other.p99_us)


async def measure(case: Case, plan: Plan, store: Store) -> str:
    """Measure the bare app, the shielded one, Redis, and an app that only sends Redis a PING."""
    say("latency: at a tenth of what the bare app can answer")
    load = case.load(case.clients)
    paces: dict[str, list[Pace]] = {}
    rate = 0.0
    for number in range(plan.rounds):
        store.client.flushall()
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            apps = [App("bare", "bare"), App("shield", "shield"), App("ping", "ping")]
            servers = await start(case, apps, store, load, folder, stack)
            wrk = Wrk(load, folder)
            rate = rate or (await wrk.run(servers[0].url, 2)).rate / 10
            await wrk.run(servers[1].url, 2)
            for name, url in [*((server.app.name, server.url) for server in servers), ("Redis", store.url(0))]:
                pace = await _pace(url, rate, max(_LEAST_S, plan.seconds), folder / "lines")
                paces.setdefault(name, []).append(pace)
        say(f"  launch {number + 1}: " + "  ".join(f"{name} {mine[-1].p50_us:.0f} µs" for name, mine in paces.items()))
    return _table(case, paces, rate)


async def _pace(url: str, rate: float, seconds: int, lines: Path) -> Pace:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.paced", url, str(rate), str(seconds), str(lines)),
        cwd=HOME,
        env=own_environment(),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise click.ClickException("the paced load failed")
    return Pace(**json.loads(output))


def _table(case: Case, paces: dict[str, list[Pace]], rate: float) -> str:
    added = _added(paces, "shield")
    trip = _typical(paces["Redis"])
    most = Pace(0, trip.p50_us + _TARGET_P50_US, trip.p50_us + _TARGET_P99_US)
    rows = [
        _row("bare", _typical(paces["bare"])),
        _row("shield", _typical(paces["shield"])),
        _row("added", added),
        _row("added by an app that asks Redis a PING", _added(paces, "ping")),
        _row("one round trip to Redis (PING, redis-py on uvloop)", trip),
        _row("target for what is added", most),
    ]
    reached = added.p50_us <= most.p50_us and added.p99_us <= most.p99_us
    return table([f"{case.title}: {rate:,.0f} a second", "p50 µs", "p99 µs"], rows) + f"\n\nTarget: {verdict(reached)}."


def _added(paces: dict[str, list[Pace]], name: str) -> Pace:
    return _typical([mine - other for mine, other in zip(paces[name], paces["bare"], strict=True)])


def _row(name: str, pace: Pace) -> list[str]:
    return [name, f"{pace.p50_us:,.0f}", f"{pace.p99_us:,.0f}"]


def _typical(paces: list[Pace]) -> Pace:
    return Pace(0, median(pace.p50_us for pace in paces), median(pace.p99_us for pace in paces))
