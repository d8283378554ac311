"""The output of `shieldmw demo`: a live table or log lines, the final figures, the verdict.

It knows nothing of how the figures were obtained. Imported only if rich is installed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table

from shieldmw.demo.cut import Cut
from shieldmw.demo.polled import Polled
from shieldmw.demo.report import (
    CUT_COLUMNS,
    FINAL_COLUMNS,
    LIVE_COLUMNS,
    POLLED_COLUMNS,
    Speeds,
    audience_line,
    cut_rows,
    final_row,
    live_row,
    polled_rows,
    progress_line,
    refusal_lines,
)
from shieldmw.rehearsal.load.audience import Audience
from shieldmw.rehearsal.load.drill import Drill, Refusal
from shieldmw.rehearsal.load.tally import GroupTally
from shieldmw.rehearsal.load.verdict import Verdict

_WIDTH_IN_A_LOG: Final = 120
_TABLE_EVERY_S: Final = 0.5
_LINE_EVERY_S: Final = 5.0
_WORDS: Final = ("group",)  # columns of words; the others are figures


@dataclass(frozen=True, slots=True)
class View:
    """A running act to display: its drill, and its audience if there are live streams."""

    drill: Drill
    audience: Audience | None = None


def open_console() -> Console:
    """A console for the terminal, or for a log, wide enough for the tables."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH_IN_A_LOG)
    return console


async def watch(console: Console, view: View, act: Coroutine[None, None, None]) -> None:
    """Run the act to its end and show its progress: as a live table, or as lines if there is no terminal."""
    running = asyncio.create_task(act)
    try:
        if console.is_terminal:
            await _watch_table(console, view, running)
        else:
            await _watch_lines(console, view, running)
        await running
    finally:
        running.cancel()
        await asyncio.wait({running})


async def _watch_table(console: Console, view: View, running: asyncio.Task[None]) -> None:
    speeds, drill = Speeds(), view.drill
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while not running.done():
            at_s = drill.elapsed_s
            phase = drill.story.phase_at(at_s).name
            table = _table(f"{at_s:.0f} of {drill.story.seconds:.0f} s: {phase}", LIVE_COLUMNS)
            for group in drill.tallies.values():
                table.add_row(*live_row(group, speeds, at_s))
            if view.audience is not None:
                table.caption = audience_line(view.audience)
            live.update(table, refresh=True)
            await asyncio.wait({running}, timeout=_TABLE_EVERY_S)


async def _watch_lines(console: Console, view: View, running: asyncio.Task[None]) -> None:
    speeds, drill = Speeds(), view.drill
    while not (await asyncio.wait({running}, timeout=_LINE_EVERY_S))[0]:
        at_s = drill.elapsed_s
        line = progress_line(drill.story.phase_at(at_s).name, at_s, drill.tallies, speeds)
        if view.audience is not None:
            line += f" | {audience_line(view.audience)}"
        console.print(line, markup=False, soft_wrap=True)


def show_figures(console: Console, tallies: Mapping[str, GroupTally]) -> None:
    """Print the requests of each group and their results."""
    table = _table("What they asked for, what they got, and what the limits allow", FINAL_COLUMNS)
    for group in tallies.values():
        table.add_row(*final_row(group))
    console.print(table)
    console.print("let through: got + app errors; limits allow: burst + rate * time, for all clients", style="dim")


def show_refusals(console: Console, refusals: Mapping[tuple[int, str], Refusal], status: int) -> None:
    """Print one refusal of each kind with this status."""
    for (its_status, title), refusal in refusals.items():
        if its_status == status:
            console.print(
                f"\nOne answer of {status}, \N{LEFT DOUBLE QUOTATION MARK}{title}\N{RIGHT DOUBLE QUOTATION MARK}:",
                style="bold",
                markup=False,
            )
            for line in refusal_lines(refusal):
                console.print(f"  {line}", markup=False, soft_wrap=True)


def show_cut(console: Console, cut: Cut, polled: Polled) -> None:
    """Print the results of the cut, for those on streams and for those who poll."""
    for title, columns, rows in (
        ("The switch was flipped, and let go again", CUT_COLUMNS, cut_rows(cut)),
        ("The same for listeners who poll and hold no connection", POLLED_COLUMNS, polled_rows(polled)),
    ):
        console.print()
        table = _table(title, columns, words=columns)
        for row in rows:
            table.add_row(*row)
        console.print(table)


def show_verdict(console: Console, judged: Verdict) -> None:
    """Print each promise, kept or broken, and the verdict."""
    console.print()
    for promise in judged.promises:
        mark = "[green]kept  [/]" if promise.kept else "[bold red]BROKEN[/]"
        console.print(f"{mark} {promise.words}", soft_wrap=True)
    for remark in judged.remarks:
        console.print(f"[yellow]note[/]   {remark}", soft_wrap=True)
    broken = sum(not promise.kept for promise in judged.promises)
    if broken:
        console.print(f"[bold red]Verdict: {broken} of {len(judged.promises)} promises broken.[/]")
    else:
        console.print(
            "[bold green]Verdict: the members were served and kept their seats, and nobody got past a limit.[/]"
        )


def _table(title: str, columns: tuple[str, ...], words: tuple[str, ...] = _WORDS) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in columns:
        name = column in words
        table.add_column(column, justify="left" if name else "right", min_width=8 if name else None)
    return table
