"""What a live audience costs: one worker, many SSE listeners, with and without the shield, and two cuts.

Everything runs on this machine: the worker, a Valkey server on a unix socket, and one process of listeners.
"""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import click
import redis
import uvloop

from benchmarks.audience_app import LIVE_PATH
from benchmarks.audience_client import Crowd, guests, members
from benchmarks.document import require_marks, write_into
from benchmarks.progress import say
from shieldmw.rehearsal.load.server import environment, free_port, serving
from shieldmw.rehearsal.load.tokens import Issuer
from shieldmw.store.redis.embedded import EmbeddedServer

HOST: Final = "127.0.0.1"
APP: Final = "benchmarks.audience_app:app"
HOME: Final = Path(__file__).resolve().parent.parent
SETTLE_S: Final = 1.5
WARM_UP: Final = 100
TARGET_BYTES: Final = 2048
TARGET_CUT_S: Final = 12.0
_ISSUER: Final = "audience"
_LIMITS_OFF: Final = {f"SHIELD_{name}_LIMIT": "off" for name in ("IP", "TOKEN", "EMERGENCY_IP", "FAILED_AUTH")}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure: the number of listeners, and the server."""

    listeners: int
    server: str
    trace: bool
    secret: str = field(default_factory=lambda: secrets.token_hex(32))
    admin_token: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def half(self) -> int:
        """The number of members, and of guests."""
        return self.listeners // 2

    def crowd(self, port: int, count: int) -> Crowd:
        """An audience of ``count`` of each kind."""
        issuer = Issuer(self.secret, _ISSUER, _ISSUER, int(time.time()))
        return Crowd(HOST, port, members(count, issuer), guests(count))

    def command(self, port: int) -> list[str]:
        """The worker: one process with uvloop."""
        if self.server == "granian":
            served = [sys.executable, "-m", "granian", "--interface", "asgi", "--workers", "1", "--loop", "uvloop"]
            # It accepts no more connections at a time than its backpressure, which by default is its backlog.
            served += ["--log-level", "warning", "--backlog", "4096", "--backpressure", str(self.listeners + 500)]
        else:
            served = [sys.executable, "-m", "uvicorn", "--loop", "uvloop", "--http", "httptools", "--no-access-log"]
            served += ["--log-level", "warning", "--backlog", "4096"]
        return [*served, "--host", HOST, "--port", str(port), APP]

    def settings(self, redis_url: str) -> dict[str, str]:
        """Settings of the worker's shield. Its store shares two cores with the listeners: waiting is no failure."""
        return {
            "AUDIENCE_SHIELD": "1",
            "SHIELD_REDIS_URL": redis_url,
            "SHIELD_REDIS_TIMEOUT_MS": "2000",
            "SHIELD_CAPACITY": str(self.listeners),
            "SHIELD_LIVE_PATHS": LIVE_PATH,
            "SHIELD_EXEMPT_PATHS": "/probe/*",
            "SHIELD_JWT_SECRET": self.secret,
            "SHIELD_JWT_AUDIENCE": _ISSUER,
            "SHIELD_JWT_ISSUER": _ISSUER,
            "SHIELD_ADMIN_TOKEN": self.admin_token,
        }


@dataclass(frozen=True, slots=True)
class Cut:
    """The result of a cut."""

    before: int
    after: int
    seconds: float
    members_lost: int
    guests_evicted: int
    told_why: int
    lag: Mapping[str, float]


@dataclass(slots=True)
class Held:
    """The cost of holding the audience."""

    bytes_each: float
    seconds: float
    lag: Mapping[str, float]
    scripts_each: float = 0.0
    commands_each: float = 0.0
    idle_scripts_per_s: float = 0.0


class Worker:
    """The worker as this process sees it: its probes and its admin routes."""

    def __init__(self, port: int, admin_token: str, session: aiohttp.ClientSession) -> None:
        self.port = port
        self._url = f"http://{HOST}:{port}"
        self._bearer = {"Authorization": f"Bearer {admin_token}"}
        self._session = session

    async def probe(self, name: str) -> Any:
        """The answer of a probe."""
        async with self._session.get(f"{self._url}/probe/{name}") as answer:
            answer.raise_for_status()
            return await answer.json()

    async def rss(self) -> int:
        """Resident bytes."""
        return int((await self.probe("memory"))["rss"])

    async def set_mode(self, **body: object) -> None:
        """Flip the switch through the admin route."""
        async with self._session.put(f"{self._url}/-/shield/mode", json=body, headers=self._bearer) as answer:
            if answer.status != 200:
                raise click.ClickException(f"the mode was not changed: {answer.status} {await answer.text()}")


class CommandStats:
    """Calls of the store, by its own count."""

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(url)

    def calls(self) -> tuple[int, int]:
        """Scripts that were run, and all commands, including those within scripts and this one."""
        stats: dict[str, dict[str, Any]] = self._redis.info("commandstats")
        calls = {name.removeprefix("cmdstat_"): int(entry["calls"]) for name, entry in stats.items()}
        return calls.get("evalsha", 0) + calls.get("fcall", 0) + calls.get("eval", 0), sum(calls.values())


@asynccontextmanager
async def running(plan: Plan, settings: Mapping[str, str]) -> AsyncIterator[Worker]:
    """A worker, from its first answer to its end."""
    port = free_port(HOST)
    environ = environment(os.environ, settings) | ({"AUDIENCE_TRACE": "1"} if plan.trace else {})
    timeout = aiohttp.ClientTimeout(total=120)
    async with serving(plan.command(port), HOME, environ) as server, aiohttp.ClientSession(timeout=timeout) as session:
        await server.ready(f"http://{HOST}:{port}/probe/lag", 30, lambda _: None)
        yield Worker(port, plan.admin_token, session)


async def fill(plan: Plan, worker: Worker, stats: CommandStats | None) -> tuple[Crowd, Held]:
    """Seat the whole audience, and measure the cost."""
    few = plan.crowd(worker.port, WARM_UP)
    await few.come(lambda here, wanted: None)
    if not few.listening():
        raise click.ClickException("nobody could listen")
    await few.leave()
    await asyncio.sleep(SETTLE_S)
    crowd = plan.crowd(worker.port, plan.half)
    empty, (scripts, commands) = await worker.rss(), stats.calls() if stats else (0, 0)
    seconds = await crowd.come(lambda here, wanted: say(f"  {here:,} of {wanted:,} listen"))
    scripts_now, commands_now = stats.calls() if stats else (0, 0)
    await asyncio.sleep(SETTLE_S)
    listening = crowd.listening()
    if listening < plan.half * 2:
        say(f"  only {listening:,} of {plan.half * 2:,} got in")
    held = Held((await worker.rss() - empty) / max(1, listening), seconds, {})
    held.scripts_each = (scripts_now - scripts) / max(1, listening)
    held.commands_each = (commands_now - commands) / max(1, listening)
    if plan.trace:
        _write_allocations(await worker.probe("allocations"), listening)
    await worker.probe("lag")
    idle_from = stats.calls()[0] if stats else 0
    await asyncio.sleep(5)
    held.idle_scripts_per_s = ((stats.calls()[0] if stats else 0) - idle_from) / 5
    held.lag = await worker.probe("lag")
    return crowd, held


async def cut(worker: Worker, crowd: Crowd, target: int, body: Mapping[str, object]) -> Cut:
    """Flip the switch, and see who leaves."""
    before = crowd.listening()
    await worker.probe("lag")
    started_s = time.monotonic()
    await worker.set_mode(mode="emergency", for_seconds=600, reason="benchmark", **body)
    done = await crowd.until_at_most(target, within_s=30)
    lag = await worker.probe("lag")
    await asyncio.sleep(2.5)  # no further listener may leave from now on
    lost, evicted = crowd.gone(member=True), crowd.gone(member=False)
    ends = [entry.ended_s for entry in (*lost, *evicted) if entry.ended_s is not None and entry.ended_s > started_s]
    return Cut(
        before=before,
        after=crowd.listening(),
        seconds=max(ends, default=started_s) - started_s if done else float("inf"),
        members_lost=len(lost),
        guests_evicted=len(evicted),
        told_why=sum(entry.shed for entry in evicted),
        lag=lag,
    )


async def two_cuts(plan: Plan, worker: Worker, crowd: Crowd) -> tuple[Cut, Cut]:
    """Cut to 60 %, go back and fill up again, then cut to no guests at all."""
    target = plan.half * 2 * 6 // 10
    share = (target - plan.half) / target
    say(f"cut to {target:,}, guests at most {share:.1%}")
    first = await cut(worker, crowd, target, {"capacity": target, "guest_share": share})
    say(f"  {first}")
    await worker.set_mode(mode="normal", reason="benchmark")
    await asyncio.sleep(SETTLE_S)
    await crowd.come(lambda here, wanted: say(f"  {here:,} of {wanted:,} listen again"))
    await asyncio.sleep(SETTLE_S)
    say("cut to members only")
    second = await cut(worker, crowd, plan.half, {"guest_share": 0})
    say(f"  {second}")
    return first, second


@dataclass(frozen=True, slots=True)
class Results:
    """All figures of one run."""

    bare: Held
    shielded: Held
    unlimited: Held
    cuts: tuple[Cut, Cut]


async def measure(plan: Plan) -> Results:
    """Measure the bare app, the shielded one with the usual limits and both cuts, and without limits."""
    say(f"{plan.listeners:,} listeners, {plan.server}: bare")
    async with running(plan, {}) as worker:
        crowd, bare = await fill(plan, worker, None)
        await crowd.leave()
    say(f"  {bare}")
    with EmbeddedServer() as store:
        settings, stats = plan.settings(store.url), CommandStats(store.url)
        say("shielded, without limits")
        async with running(plan, settings | _LIMITS_OFF) as worker:
            crowd, unlimited = await fill(plan, worker, stats)
            await crowd.leave()
        say(f"  {unlimited}")
        say("shielded, with the usual limits")
        async with running(plan, settings) as worker:
            crowd, shielded = await fill(plan, worker, stats)
            say(f"  {shielded}")
            cuts = await two_cuts(plan, worker, crowd)
            await crowd.leave()
    return Results(bare, shielded, unlimited, cuts)


def table(results: Results) -> str:
    """The figures as a Markdown table."""
    bare, on, off = results.bare, results.shielded, results.unlimited
    first, second = results.cuts
    rows = [
        ("worker's memory a listener, bare", f"{bare.bytes_each:,.0f} B", ""),
        *_memory_rows("usual limits", on, bare),
        *_memory_rows("limits off", off, bare),
        ("scripts run in Redis a listener, usual limits", f"{on.scripts_each:.3f}", "1 a charge"),
        ("scripts run in Redis a listener, limits off", f"{off.scripts_each:.4f}", "about 0"),
        ("scripts a second, whoever comes or not", f"{off.idle_scripts_per_s:.1f}", ""),
        ("listeners admitted a second, bare", f"{first.before / bare.seconds:,.0f}", ""),
        ("listeners admitted a second, usual limits", f"{first.before / on.seconds:,.0f}", ""),
        ("event loop's lag at rest, p99", f"{on.lag['p99_ms']:.1f} ms", f"bare {bare.lag['p99_ms']:.1f} ms"),
        *_cut_rows("cut to 60 %", first),
        *_cut_rows("guest share 0", second),
    ]
    lines = ["| what | figure | target |", "|---|---:|---|"]
    return "\n".join([*lines, *(f"| {what} | {figure} | {target} |" for what, figure, target in rows)])


def _memory_rows(name: str, held: Held, bare: Held) -> list[tuple[str, str, str]]:
    return [(f"the shield's part of it, {name}", f"{held.bytes_each - bare.bytes_each:,.0f} B", f"{TARGET_BYTES:,} B")]


def _cut_rows(name: str, done: Cut) -> list[tuple[str, str, str]]:
    return [
        (f"{name}: audience before and after", f"{done.before:,} → {done.after:,}", ""),
        (f"{name}: members lost", f"{done.members_lost:,}", "0"),
        (f"{name}: guests evicted, and told why", f"{done.guests_evicted:,}, {done.told_why:,}", "all told"),
        (f"{name}: from the flip to the last who leaves", f"{done.seconds:.1f} s", f"{TARGET_CUT_S:.0f} s"),
        (f"{name}: event loop's lag meanwhile, p50 and p99", f"{_lag(done.lag)}", ""),
    ]


def _lag(lag: Mapping[str, float]) -> str:
    return f"{lag['p50_ms']:.1f} and {lag['p99_ms']:.1f} ms (most {lag['max_ms']:.0f})"


def _write_allocations(found: list[tuple[int, int, list[str]]], listening: int) -> None:
    """Write the places that hold at least 16 bytes per listener."""
    with tempfile.NamedTemporaryFile("w", prefix="audience-", suffix=".txt", delete=False) as file:
        for size, count, lines in found:
            if size / max(1, listening) >= 16:
                file.write(f"{size / listening:8.0f} B {count / listening:6.2f} blocks a listener\n")
                file.writelines(f"      {line}\n" for line in lines)
    say(f"  allocations are in {file.name}")


def _raise_open_files(listeners: int) -> None:
    """Raise the limit of open files as far as allowed, for this process and the worker that inherits it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < listeners + 300:
        raise click.ClickException(f"a process may open {most:,} files here: use --listeners {most - 300} or fewer")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@click.command(help=(__doc__ or "").split("\n", 1)[0])
@click.option("--listeners", default=10_000, show_default=True, type=click.IntRange(20), help="number of listeners")
@click.option("--server", default="uvicorn", show_default=True, type=click.Choice(["uvicorn", "granian"]))
@click.option("--trace", is_flag=True, help="trace allocations: which lines hold memory; the figures are then wrong")
@click.option("--into", type=click.Path(path_type=Path, exists=True), help="a document to write the table to")
def main(listeners: int, server: str, trace: bool, into: Path | None) -> None:
    """Measure, and print the table."""
    if into is not None:
        require_marks(into, [f"live audience: {server}"])
    _raise_open_files(listeners)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # so that the worker is stopped, too
    results = uvloop.run(measure(Plan(listeners, server, trace)))
    click.echo(table(results))
    if into is not None:
        write_into(into, f"live audience: {server}", table(results))


if __name__ == "__main__":
    main()
