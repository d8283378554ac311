"""The decision alone: its cost in a process that does nothing else, and how that grows."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Final

import click

from benchmarks.cases import ONCE, PLENTY
from benchmarks.drive import Job, Report
from benchmarks.progress import say
from benchmarks.servers import CHECKOUT, HOME, own_environment
from benchmarks.store import Store

PATIENT: Final = {"SHIELD_REDIS_TIMEOUT_MS": "2000"}
GUEST: Final = {"SHIELD_IP_LIMIT": PLENTY}
USUAL: Final = {"SHIELD_IP_LIMIT": "300/minute"}
REFUSED: Final = {"SHIELD_IP_LIMIT": ONCE}
NO_LANE: Final = {"SHIELD_OVERLOAD": "off"}


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one decision: CPU of the worker, without the driver's own, and of Redis, in µs; and calls."""

    worker_us: float
    redis_us: float
    calls: float

    def __str__(self) -> str:
        return f"{self.worker_us:.1f} µs + {self.redis_us:.1f} µs in Redis, {self.calls:.3f} calls"


async def drive(job: Job, settings: Mapping[str, str], store: Store) -> Report:
    """Run one job in a fresh process.

    Raises:
        click.ClickException: it failed, or a request was answered neither 200 nor 429.
    """
    environ = own_environment() | {"PYTHONPATH": os.pathsep.join([str(CHECKOUT), str(HOME)])}
    environ |= {"SHIELD_REDIS_URL": store.url(0), **PATIENT, **settings}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "benchmarks.drive", json.dumps(asdict(job)), str(store.port)),
        env=environ,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise click.ClickException(f"the driver ended with status {process.returncode}")
    report = Report(**json.loads(output))
    if report.allowed + report.refused != job.requests:
        raise click.ClickException(
            f"of {job.requests:,} requests {report.allowed:,} + {report.refused:,} were answered"
        )
    return report


async def cost(
    job: Job, settings: Mapping[str, str], store: Store, *, rounds: int, workers: int = 1, refused: bool = False
) -> Cost:
    """The median of the rounds; each round also measures the driver alone."""
    found = []
    for _ in range(rounds):
        store.client.flushall()
        empty = await drive(replace(job, shielded=False, warm_up=1000), settings, store)
        reports = await asyncio.gather(*(drive(job, settings, store) for _ in range(workers)))
        _check(reports, refused=refused)
        found.append(_cost(reports, empty))
    return Cost(*(median(column) for column in zip(*found, strict=True)))


def _cost(reports: Sequence[Report], empty: Report) -> tuple[float, float, float]:
    requests = sum(report.requests for report in reports)
    own_us = sum(report.cpu_s for report in reports) / requests - empty.cpu_s / empty.requests
    # Each process measures the work of Redis for all of them, so the largest measurement is the right one.
    most = max(reports, key=lambda report: report.redis_cpu_s)
    return own_us * 1e6, most.redis_cpu_s / requests * 1e6, most.calls / requests


def _check(reports: Sequence[Report], *, refused: bool) -> None:
    for report in reports:
        if (report.refused if refused else report.allowed) != report.requests:
            raise click.ClickException(
                f"{report.allowed:,} were allowed and {report.refused:,} refused, where all should be "
                + ("refused" if refused else "allowed")
            )


async def decisions(store: Store, rounds: int, part: float) -> dict[str, Cost]:
    """One client and many, allowed and refused; allowed ones also without the lane, to show its cost."""
    many = int(100_000 * part)
    count = int(200_000 * part)
    jobs = {
        "one guest, allowed": (Job(count), GUEST, False),
        "the same without overload protection": (Job(count), GUEST | NO_LANE, False),
        f"{many:,} guests in turn, allowed": (Job(count, many, warm_up=many), USUAL, False),
        f"{many:,} in turn without overload protection": (Job(count, many, warm_up=many), USUAL | NO_LANE, False),
        "one guest, refused": (Job(count), REFUSED, True),
        f"{many:,} guests in turn, refused": (Job(count, many, warm_up=2 * many), REFUSED, True),
    }
    found = {}
    for name, (job, settings, refused) in jobs.items():
        found[name] = await cost(job, settings, store, rounds=rounds, refused=refused)
        say(f"  {name}: {found[name]}")
    return found


async def growth(store: Store, rounds: int, part: float, long: bool) -> dict[str, dict[int, Cost]]:
    """How the cost grows with clients, rules, workers and concurrent requests."""
    count = int(100_000 * part)
    many = int(100_000 * part)
    found: dict[str, dict[int, Cost]] = {}

    async def point(curve: str, at: int, job: Job, settings: Mapping[str, str], workers: int = 1) -> None:
        found.setdefault(curve, {})[at] = await cost(job, settings, store, rounds=rounds, workers=workers)
        say(f"  {curve} {at:,}: {found[curve][at]}")

    for clients in (1, 1_000, many, *((10_000_000,) if long else ())):
        settings = GUEST if clients == 1 else {"SHIELD_IP_LIMIT": "6000/minute"}
        await point("clients", clients, Job(max(count, clients), clients, warm_up=min(clients, many)), settings)
    for rules in (1, 10, 100):
        await point("rules", rules, Job(count, path=f"/r{rules - 1}/x"), GUEST | {"SHIELD_RULES": _rules(rules)})
    for workers in (1, 2, 4):
        await point("workers", workers, Job(count, many, warm_up=1000), {"SHIELD_IP_LIMIT": "6000/minute"}, workers)
    for at_once in (1, 4, 16, 64, 256):
        await point("at once", at_once, Job(count, many, at_once=at_once), {"SHIELD_IP_LIMIT": "6000/minute"})
    return found


def _rules(count: int) -> str:
    rules = [{"name": f"r{n}", "path": f"/r{n}/*", "limits": PLENTY} for n in range(count)]
    return json.dumps(rules)
