"""Measures one case: in each round all its apps are launched, checked, and measured by turns."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from benchmarks.cases import Case
from benchmarks.load import Load, Seen, Wrk
from benchmarks.progress import say
from benchmarks.proof import check, prove
from benchmarks.servers import PEERS, YARDSTICKS, App, Server, peer_name, running
from benchmarks.store import Store, Work

_IDLE_S: Final = 3.0
# A call that times out is not retried, and the worker then decides alone: on a machine with other work that would
# measure something else.
_PATIENT: Final = {"SHIELD_REDIS_TIMEOUT_MS": "2000"}


@dataclass(frozen=True, slots=True)
class Plan:
    """Number of launches of each server, and the length of a turn in seconds; ``part`` of the clients; and further
    checkouts of shieldmw beside this one.
    """

    rounds: int = 5
    seconds: int = 5
    part: float = 1.0
    also: tuple[Path, ...] = ()

    def apps(self, case: Case) -> list[App]:
        """The apps to measure, the reference first."""
        apps = [App(case.reference, case.reference, case.server), App("shield", "shield", case.server)]
        if case.server == "uvicorn":  # shieldmw serve is always this checkout's
            apps += [App(f"shield of {path.name}", "shield", case.server, path) for path in self.also]
        if case.yardstick is not None:
            apps.append(App(YARDSTICKS[case.yardstick], case.yardstick))
        if case.peers:
            apps += [App(peer_name(peer), peer) for peer in PEERS]
        return apps


@dataclass(frozen=True, slots=True)
class Turn:
    """One app, measured once. ``work`` is that of Redis, without its background work."""

    seen: Seen
    cpu_s: float
    work: Work


Turns = Mapping[str, Sequence[Turn]]


async def measure(case: Case, plan: Plan, store: Store) -> Turns:
    """Measure a case: all turns, by the name of the app.

    Each round launches every server anew: one launch is faster or slower than the next by up to 15 %, for as long as it
    runs.
    """
    say(f"{case.name}: {case.title}")
    load = case.load(case.clients)
    turns: dict[str, list[Turn]] = {app.name: [] for app in plan.apps(case)}
    for number in range(plan.rounds):
        for name, turn in (await _round(case, plan, store, load, number)).items():
            turns[name].append(turn)
        rates = "  ".join(f"{name} {mine[-1].seen.rate:,.0f}" for name, mine in turns.items())
        say(f"  launch {number + 1} of {plan.rounds}, answers a second: {rates}")
    return turns


async def _round(case: Case, plan: Plan, store: Store, load: Load, number: int) -> dict[str, Turn]:
    """Launch all servers on an empty store and measure each once, beginning with another one each time."""
    store.client.flushall()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        servers = await start(case, plan.apps(case), store, load, folder, stack)
        wrks = {server.app.name: Wrk(load, folder) for server in servers}
        for server in servers:
            await _warm_up(case, server, wrks[server.app.name])
        idle = await _idle(store)
        turns = {}
        first = number % len(servers)
        for server in servers[first:] + servers[:first]:
            await check(case, server, load)
            turns[server.app.name] = await _turn(case, server, wrks[server.app.name], plan.seconds, store, idle)
        return turns


async def start(
    case: Case, apps: Sequence[App], store: Store, load: Load, folder: Path, stack: AsyncExitStack
) -> list[Server]:
    """Start and check all servers of a case; the refusal app comes last, since it sends what the shield has sent."""
    sample = folder / "refusal"
    servers = {}
    for database, app in enumerate(sorted(apps, key=lambda app: app.kind == "refusal")):
        settings = {"BENCH_REFUSAL": str(sample), "BENCH_LIMIT": case.limit, "BENCH_REDIS_URL": store.url(database)}
        if app.kind in ("shield", "uncounted"):
            settings |= {"SHIELD_REDIS_URL": store.url(database), **_PATIENT, **case.settings()}
        server = servers[app.name] = await stack.enter_async_context(running(app, settings))
        answer = await prove(case, server, store, database, load)
        if app.kind == "shield" and case.refused:
            answer.save(sample)
    return [servers[app.name] for app in apps]


async def _warm_up(case: Case, server: Server, wrk: Wrk) -> None:
    """Every client once, so that buckets and tokens are known; twice if only the second request is refused."""
    for _ in range(case.passes if server.app.has_store else 0):
        await wrk.pass_through(server.url)


async def _idle(store: Store) -> Work:
    before = store.work()
    await asyncio.sleep(_IDLE_S)
    return store.work() - before


async def _turn(case: Case, server: Server, wrk: Wrk, seconds: int, store: Store, idle: Work) -> Turn:
    await wrk.run(server.url, 1)
    before, cpu_s = store.work(), server.cpu_s()
    seen = await wrk.run(server.url, seconds)
    work, cpu_s = store.work() - before, server.cpu_s() - cpu_s
    refused = seen.requests if case.refused else 0
    if seen.errors or seen.refused != refused:
        raise click.ClickException(
            f"{server.app.name}: of {seen.requests:,} answers {seen.refused:,} were refusals, not {refused:,};"
            f" {seen.errors:,} requests failed"
        )
    share = work.at_s / idle.at_s
    return Turn(
        seen,
        cpu_s,
        Work(
            work.at_s,
            max(0, work.reads - round(idle.reads * share)),
            max(0, work.scripts - round(idle.scripts * share)),
            max(0.0, work.cpu_s - idle.cpu_s * share),
        ),
    )
