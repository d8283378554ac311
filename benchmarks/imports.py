"""What importing the shield takes, against what any app with Starlette and Redis imports anyway."""

from __future__ import annotations

import subprocess
import sys
from statistics import median
from typing import Final

from benchmarks.progress import say
from benchmarks.report import table, verdict
from benchmarks.servers import CHECKOUT, own_environment

_TARGET: Final = 1.3
_STATEMENTS: Final = {
    "starlette and redis": "import starlette.applications, starlette.responses, redis.asyncio",
    "shieldmw": "import shieldmw",
}
_TIMED: Final = "import time; began = time.perf_counter(); {}; print(time.perf_counter() - began)"


def measure(times: int) -> str:
    """Fresh interpreters by turns, as a table. The first of each fills the file cache and does not count."""
    say(f"import: {times} fresh interpreters each")
    took: dict[str, list[float]] = {name: [] for name in _STATEMENTS}
    for number in range(times + 1):
        for name, statement in _STATEMENTS.items():
            seconds = _time(statement)
            if number:
                took[name].append(seconds)
    ratios = [mine / other for mine, other in zip(took["shieldmw"], took["starlette and redis"], strict=True)]
    rows = [
        [name, f"{median(seconds) * 1000:.0f}", f"{min(seconds) * 1000:.0f}–{max(seconds) * 1000:.0f}"]
        for name, seconds in took.items()
    ]
    text = table(["import", "ms", "least–most"], rows)
    return (
        f"{text}\n\nTarget: at most {_TARGET} times starlette and redis; {median(ratios):.2f}"
        f" ({min(ratios):.2f}–{max(ratios):.2f}): {verdict(median(ratios) <= _TARGET)}."
    )


def _time(statement: str) -> float:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-P", "-c", _TIMED.format(statement)],
        env=own_environment() | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        check=True,
    )
    return float(done.stdout)
