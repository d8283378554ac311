"""What the shield costs: the bare app, the shielded one, the bytes of a refusal and the peers, by turns."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import click
import uvloop

from benchmarks import alone, imports, instructions, latency, memory, plots, proxies, report
from benchmarks.cases import CASES, Case
from benchmarks.document import require_marks, write_into
from benchmarks.progress import say
from benchmarks.rounds import Plan, measure
from benchmarks.store import Store, running_store

_CASES: Final = {case.name: case for case in CASES}
_OTHERS: Final = (*proxies.UPSTREAMS, "latency", "memory", "import", "decision", "instructions", "growth")
_NAMES: Final = (*_CASES, *_OTHERS)
_ALL_CLIENTS: Final = 10_000_000
_ROUNDS_OF_GROWTH: Final = 3
_HELP: Final = f"""{(__doc__ or "").partition(chr(10))[0]}

Everything runs on this machine: one worker of uvicorn, or of granian, for each app, wrk with 64 connections, and one
Redis server. Each round launches all servers of a case anew and measures each once, since one launch is faster or
slower than the next; figures are medians of the rounds. Each app is checked to do what it claims before it is measured.
Tables go to stdout, progress to stderr.

\b
{chr(10).join(f"  {case.name:<15} {case.title}" for case in CASES)}
  proxy           shieldmw serve --upstream and other reverse proxies before the bare app
  proxy-constant  the same before an nginx that sends a constant
  latency         what is added at a tenth of the load
  memory          ten million distinct clients through one worker
  import          what importing shieldmw takes
  decision        the decision alone, without a server
  instructions    the machine instructions that it takes, counted by valgrind
  growth          how its cost grows with clients, rules, workers and requests at once
"""


class Bench:
    """All measurements, each as the Markdown text of its result."""

    def __init__(self, store: Store, plan: Plan, *, long: bool, images: Path | None) -> None:
        self._store = store
        self._plan = plan
        self._long = long
        self._images = images
        self._parts: Mapping[str, Callable[[], Awaitable[str]]] = {
            **{name: partial(self._case, case.smaller(plan.part)) for name, case in _CASES.items()},
            **{name: partial(proxies.measure, name, plan, store) for name in proxies.UPSTREAMS},
            "latency": partial(latency.measure, _CASES["guests"].smaller(plan.part), plan, store),
            "memory": self._memory,
            "import": self._import,
            "decision": self._decision,
            "instructions": self._instructions,
            "growth": self._growth,
        }

    async def measure(self, name: str) -> str:
        """The result, and the circumstances of the measurement."""
        text = await self._parts[name]()
        return f"{text}\n\n{report.circumstances(self._plan, self._store.name())}"

    async def _case(self, case: Case) -> str:
        return report.of_case(case, await measure(case, self._plan, self._store))

    async def _memory(self) -> str:
        return memory.of(await memory.measure(self._store, int(_ALL_CLIENTS * self._plan.part**2)))

    async def _import(self) -> str:
        return imports.measure(self._plan.rounds * 4)

    async def _decision(self) -> str:
        say("decision: alone, without a server")
        return report.of_costs("alone", await alone.decisions(self._store, self._plan.rounds, self._plan.part))

    async def _instructions(self) -> str:
        say("instructions: counted by valgrind, which takes some minutes")
        return await instructions.measure(self._store)

    async def _growth(self) -> str:
        say("growth: of the cost of a decision")
        rounds = min(self._plan.rounds, _ROUNDS_OF_GROWTH)
        curves = await alone.growth(self._store, rounds, self._plan.part, self._long)
        texts = []
        for curve, costs in curves.items():
            texts.append(report.of_costs(plots.AXES[curve], {f"{at:,}": cost for at, cost in costs.items()}))
            if self._images is not None:
                plots.draw(curve, costs, self._images)
                texts.append(f"![Cost of a decision by {curve}]({self._images.name}/{plots.file_name(curve)})")
        return "\n\n".join(texts)


async def run(names: tuple[str, ...], plan: Plan, into: Path | None, *, long: bool) -> None:
    """Measure, and print each table as soon as there is one."""
    images = None if into is None else into.parent / "images"
    async with running_store() as store:
        bench = Bench(store, plan, long=long, images=images)
        for name in names:
            text = await bench.measure(name)
            click.echo(f"{text}\n")
            if into is not None:
                write_into(into, f"bench: {name}", text)


_document = click.Path(path_type=Path, exists=True, dir_okay=False)
_folder = click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True)


@click.command(help=_HELP)
@click.option("--only", multiple=True, type=click.Choice(_NAMES), metavar="CASE", help="only this; may be repeated")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="launches of each server")
@click.option("--seconds", default=5, show_default=True, type=click.IntRange(1), help="length of a turn")
@click.option("--quick", is_flag=True, help="3 launches, 2 s, a tenth of the clients: for tuning, not for the document")
@click.option("--long", is_flag=True, help="let growth go to ten million clients")
@click.option("--also", multiple=True, type=_folder, help="another checkout of shieldmw, measured in the same rounds")
@click.option("--into", type=_document, help="a document to write the tables to; plots go to images/ beside it")
def main(
    only: tuple[str, ...],
    rounds: int,
    seconds: int,
    quick: bool,
    long: bool,
    also: tuple[Path, ...],
    into: Path | None,
) -> None:
    """Measure, and print the tables."""
    names = tuple(name for name in _NAMES if not only or name in only)
    if into is not None:
        require_marks(into, [f"bench: {name}" for name in names])
        if "growth" in names:
            plots.require()
    plan = Plan(3, 2, 0.1, also) if quick else Plan(rounds, seconds, 1.0, also)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # so that the servers are stopped, too
    uvloop.run(run(names, plan, into, long=long))


if __name__ == "__main__":
    main()
