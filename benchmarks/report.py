"""Turns measurements into Markdown: medians, with their spread over the rounds."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from os import cpu_count
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.alone import Cost
from benchmarks.cases import Case
from benchmarks.rounds import Plan, Turn, Turns
from benchmarks.servers import CHECKOUT, PEERS, peer_name

Row = Sequence[str]
_PACKAGES: Final = ("uvicorn", "granian", "uvloop", "httptools", "starlette", "redis")
_MOST_CALLS: Final = 0.1
_MOST_REDIS_US: Final = 4.0


def table(header: Row, rows: Sequence[Row]) -> str:
    """A Markdown table: the first column to the left, figures to the right."""
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def of_case(case: Case, turns: Turns) -> str:
    """The table of one case, and the verdict below it."""
    reference = turns[case.reference]
    ratios = {name: _ratios(mine, reference) for name, mine in turns.items()}
    header = [
        case.title,
        "a second",
        f"of {case.reference} (least–most)",
        "p50 ms",
        "p99 ms",
        "worker CPU µs",
        "Redis calls",
        "Redis CPU µs",
    ]
    rows = [_row(name, mine, ratios[name]) for name, mine in turns.items()]
    text = table(header, rows)
    return "\n\n".join([text, *_verdicts(case, turns, ratios)])


def _row(name: str, turns: Sequence[Turn], ratios: Sequence[float]) -> Row:
    def each(value: Callable[[Turn], float]) -> float:
        return median(value(turn) / turn.seen.requests for turn in turns)

    return [
        name,
        f"{median(turn.seen.rate for turn in turns):,.0f}",
        f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
        f"{median(turn.seen.p50_us for turn in turns) / 1000:.1f}",
        f"{median(turn.seen.p99_us for turn in turns) / 1000:.1f}",
        f"{each(lambda turn: turn.cpu_s) * 1e6:.1f}",
        f"{each(lambda turn: turn.work.calls):.3f}",
        f"{each(lambda turn: turn.work.cpu_s) * 1e6:.1f}",
    ]


def _ratios(mine: Sequence[Turn], reference: Sequence[Turn]) -> list[float]:
    """The ratio of each round: other work on the machine slowed both."""
    return [turn.seen.rate / other.seen.rate for turn, other in zip(mine, reference, strict=True)]


def _verdicts(case: Case, turns: Turns, ratios: dict[str, list[float]]) -> list[str]:
    found = []
    if case.target is not None:
        reached = median(ratios["shield"])
        found.append(f"Target: at least {case.target:.2f} of {case.reference}; {verdict(reached >= case.target)}.")
        found.append(_calls_of_refusals(case, turns) if case.refused else _calls(turns))
    if case.peers:
        best = max(map(peer_name, PEERS), key=lambda peer: median(turn.seen.rate for turn in turns[peer]))
        times = _ratios(turns["shield"], turns[best])
        target = 4 if case.refused else 3
        found.append(
            f"Target: {target} times the best peer; {median(times):.1f} times {best}"
            f" ({min(times):.1f}–{max(times):.1f}): {verdict(median(times) >= target)}."
        )
    return found


def _calls(turns: Turns) -> str:
    calls = median(turn.work.calls / turn.seen.requests for turn in turns["shield"])
    cpu_us = median(turn.work.cpu_s / turn.seen.requests for turn in turns["shield"]) * 1e6
    return (
        f"Target: at most 0.1 Redis calls a request; {calls:.3f}: {verdict(calls <= _MOST_CALLS)}."
        f" At most 4 µs of Redis's CPU a decision; {cpu_us:.1f}: {verdict(cpu_us <= _MOST_REDIS_US)}."
    )


def _calls_of_refusals(case: Case, turns: Turns) -> str:
    """The verdict on calls a second. Background calls are subtracted as an estimate, so less than one is none."""
    calls = median(turn.work.calls / turn.work.at_s for turn in turns["shield"])
    most = case.clients // 1000
    wanted = f"at most {most}" if most else "no"
    return f"Target: {wanted} Redis calls a second; {calls:.1f}: {verdict(calls < most + 1)}."


def of_costs(title: str, costs: Mapping[str, Cost]) -> str:
    """The table of the decision's cost without a server."""
    rows = [
        [name, f"{cost.worker_us:.1f}", f"{cost.redis_us:.1f}", f"{cost.calls:.3f}"] for name, cost in costs.items()
    ]
    return table([title, "worker CPU µs", "Redis CPU µs", "Redis calls"], rows)


def verdict(reached: bool) -> str:
    """The verdict in words."""
    return "reached" if reached else "**not reached**"


def circumstances(plan: Plan, store: str, benchmark: str = "bench") -> str:
    """The machine, the versions, and the command of the measurement."""
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    git = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(git, cwd=CHECKOUT, capture_output=True, text=True, check=False)  # noqa: S603
    return (
        f"{cpu_count()} cores, {_processor()}, Python {platform.python_version()}, {packages}, {store};"
        f" commit {commit.stdout.strip() or 'unknown'}; {plan.rounds} rounds of {plan.seconds} s by turns:"
        f" `python -m benchmarks.{benchmark} {' '.join(sys.argv[1:])}`"
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
