"""Plots of the growth curves."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import click

from benchmarks.alone import Cost

AXES: Final = {
    "clients": "distinct clients, in turn",
    "rules": "rules, of which the last matches",
    "workers": "workers on one Redis",
    "at once": "requests under way at once in one worker",
}


def require() -> None:
    """Check that matplotlib is installed, before measuring for nothing.

    Raises:
        click.ClickException: it is not installed.
    """
    if find_spec("matplotlib") is None:
        raise click.ClickException("pictures are drawn by matplotlib, which is not installed: pip install '.[bench]'")


def file_name(curve: str) -> str:
    """The file name of a plot, in the folder of images."""
    return f"growth-{curve.replace(' ', '-')}.png"


def draw(curve: str, costs: Mapping[int, Cost], folder: Path) -> None:
    """Write the plot."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), dpi=110, layout="constrained")
    points = list(costs)
    for label, marker, values in (
        ("worker's CPU", "o", [cost.worker_us for cost in costs.values()]),
        ("Redis's CPU", "s", [cost.redis_us for cost in costs.values()]),
    ):
        axes.plot(points, values, marker=marker, label=label)
    axes.set_xscale("log")
    axes.set_xticks(points, [f"{point:,}" for point in points])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel(AXES[curve])
    axes.set_ylabel("µs a decision")
    axes.grid(alpha=0.3)
    axes.legend()
    folder.mkdir(parents=True, exist_ok=True)
    # No version or date inside: the same figures give the same file.
    figure.savefig(folder / file_name(curve), metadata={"Software": None})
    pyplot.close(figure)
