"""The time to import the shield, compared with what any app with Starlette and Redis imports anyway."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.progress import say
from benchmarks.report import table, verdict
from benchmarks.servers import CHECKOUT, own_environment

_TARGET: Final = 1.3
_STATEMENTS: Final = {
    "starlette and redis": "import starlette.applications, starlette.responses, redis.asyncio",
    "shieldmw": "import shieldmw",
    "shieldmw, built for Redis": "from shieldmw import *; ShieldMiddleware(None, Settings(redis_url='redis://localhost'))",
}
_TIMED: Final = "import time; began = time.perf_counter(); {}; print(time.perf_counter() - began)"


def measure(times: int) -> str:
    """Time fresh interpreters in turn; returns a table. The first run of each writes the bytecode, which an installed
    package already has, and does not count.
    """
    say(f"import: {times} fresh interpreters each")
    took: dict[str, list[float]] = {name: [] for name in _STATEMENTS}
    with TemporaryDirectory() as bytecode:
        for number in range(times + 1):
            for name, statement in _STATEMENTS.items():
                seconds = _time(statement, Path(bytecode))
                if number:
                    took[name].append(seconds)
    reference, imported, built = took.values()
    rows = [
        [name, f"{median(seconds) * 1000:.0f}", f"{min(seconds) * 1000:.0f}–{max(seconds) * 1000:.0f}"]
        for name, seconds in took.items()
    ]
    text = table(["import", "ms", "least–most"], rows)
    ratio = median(_ratios(imported, reference))
    return (
        f"{text}\n\nTarget: at most {_TARGET} times starlette and redis; {_spread(imported, reference)}:"
        f" {verdict(ratio <= _TARGET)}. Built for Redis, which is imported only then: {_spread(built, reference)}."
    )


def _ratios(mine: Sequence[float], reference: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(mine, reference, strict=True)]


def _spread(mine: Sequence[float], reference: Sequence[float]) -> str:
    ratios = _ratios(mine, reference)
    return f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def _time(statement: str, bytecode: Path) -> float:
    environ = own_environment() | {"PYTHONPATH": str(CHECKOUT), "PYTHONPYCACHEPREFIX": str(bytecode)}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-P", "-c", _TIMED.format(statement)], env=environ, capture_output=True, check=True
    )
    return float(done.stdout)
