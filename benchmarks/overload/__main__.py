"""Measures members' latency, the use of capacity and the operator's access while a botnet overloads the app."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import uvloop

from benchmarks.document import require_marks, write_into
from benchmarks.overload import report
from benchmarks.overload.app import LOADS
from benchmarks.overload.cases import attack, calm, halves
from benchmarks.overload.worker import SERVERS, Setup
from benchmarks.progress import say
from benchmarks.report import circumstances
from benchmarks.rounds import Plan
from benchmarks.store import Store, running_store

_Measure = Callable[[Setup, Store, int], Awaitable[Any]]

# How each case is measured and reported, and whether it is also measured without the lane.
_CASES: Final[Mapping[str, tuple[_Measure, Callable[[Any], str], bool]]] = {
    "attack": (attack, report.of_attacks, True),
    "halves": (halves, report.of_halves, True),
    "calm": (calm, report.of_calm, False),
}
_HELP: Final = f"""{(__doc__ or "").strip()}

One worker, 40 members who send one request a second from a process of their own, and wrk as a botnet of 5,000
addresses, each below every limit. Everything runs on this machine. Tables go to stdout, progress to stderr.

\b
  attack  calm, the attack, PUT /mode during it, and calm again
  halves  members send half of what the app can serve, guests three times as much as it can
  calm    70 % of what the app can serve: in bursts, with slow requests, with a pause of 300 ms, and from the start

What a request costs:

\b
  cpu      2 ms of the event loop
  threads  2 ms of one of 40 threads
  pool     30 ms with one of 16 connections
"""


@dataclass(frozen=True, slots=True)
class What:
    """What to measure, and for how long."""

    cases: Sequence[str]
    loads: Sequence[str]
    servers: Sequence[str]
    overloads: Sequence[str]
    connections: int
    settings: tuple[tuple[str, str], ...]
    plan: Plan

    def setups(self, *, all_overloads: bool) -> Iterator[Setup]:
        """Each load under each server, with the lane and without."""
        for server in self.servers:
            for load in self.loads:
                for overload in self.overloads if all_overloads else self.overloads[:1]:
                    yield Setup(load, server, overload, self.connections, self.settings)


async def run(what: What, into: Path | None) -> None:
    """Measure, and print each table as soon as there is one."""
    async with running_store() as store:
        for name in what.cases:
            measure, tell, with_all = _CASES[name]
            setups = list(what.setups(all_overloads=with_all))
            rounds = await _rounds(name, measure, setups, what.plan, store)
            text = f"{tell(rounds)}\n\n{circumstances(what.plan, store.name(), 'overload')}"
            click.echo(f"{text}\n")
            if into is not None:
                write_into(into, f"overload: {name}", text)


async def _rounds(
    name: str, measure: _Measure, setups: Sequence[Setup], plan: Plan, store: Store
) -> dict[Setup, list[Any]]:
    """Measure all setups in turn."""
    results: dict[Setup, list[Any]] = {setup: [] for setup in setups}
    for number in range(plan.rounds):
        for setup in setups:
            say(f"{name}, round {number + 1} of {plan.rounds}: {setup.title}")
            results[setup].append(await measure(setup, store, plan.seconds))
            say(f"  {results[setup][-1]}")
    return results


def _settings(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    for setting in given:
        if not setting.startswith("SHIELD_") or "=" not in setting:
            raise click.BadParameter(f"{setting!r} is not of the form SHIELD_NAME=VALUE")
    return tuple((name, value) for name, _, value in (setting.partition("=") for setting in given))


@click.command(help=_HELP)
@click.option("--only", "cases", multiple=True, type=click.Choice(list(_CASES)), help="only this; may be repeated")
@click.option("--load", "loads", multiple=True, type=click.Choice(list(LOADS)), help="only this; may be repeated")
@click.option("--server", "servers", multiple=True, type=click.Choice(list(SERVERS)), help="only this; may be repeated")
@click.option("--lane", "overloads", multiple=True, type=click.Choice(["on", "off", "shadow"]), default=["on", "off"])
@click.option("--connections", default=0, help="connections of the botnet; by default 250 for cpu, otherwise 700")
@click.option("--set", "settings", multiple=True, callback=_settings, metavar="NAME=VALUE", help="a shield setting")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="turns of each")
@click.option("--seconds", default=8, show_default=True, type=click.IntRange(4), help="length of each part")
@click.option("--into", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="a document for the tables")
def main(  # noqa: PLR0913, PLR0917  (one for each option)
    cases: tuple[str, ...],
    loads: tuple[str, ...],
    servers: tuple[str, ...],
    overloads: tuple[str, ...],
    connections: int,
    settings: tuple[tuple[str, str], ...],
    rounds: int,
    seconds: int,
    into: Path | None,
) -> None:
    """Measure, and print the tables."""
    names = [name for name in _CASES if not cases or name in cases]
    if into is not None:
        require_marks(into, [f"overload: {name}" for name in names])
    plan = Plan(rounds, seconds)
    what = What(names, loads or [*LOADS], servers or [*SERVERS], overloads, connections, settings, plan)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # so that the servers are stopped, too
    uvloop.run(run(what, into))


if __name__ == "__main__":
    main()
