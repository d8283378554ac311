"""``shieldmw mode``: shows and flips the switch. The output is short, for operators in a hurry."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import click

from shieldmw.core.text import counted, harmless

from .clients import client
from .durations import clock, duration_s, span, written
from .numbers import Number, Whole
from .operator import is_unchanged
from .options import DIRECT, REASON, URL, target

Status = Mapping[str, Any]


@click.command(context_settings={"allow_extra_args": True})
@click.argument("what", type=click.Choice(["status", "emergency", "normal"]), default="status")
@click.option(
    "--for",
    "for_seconds",
    callback=duration_s,
    metavar="TIME",
    help="When the emergency ends by itself: 90s, 30m, 2h.  [default: 7d]",
)
@click.option("--capacity", type=Whole(0), help="Seats in the emergency, 0 for no limit.")
@click.option("--guest-share", type=Number(0, 1, "0.1 for a tenth"), help="Part of the seats for guests, 0 to 1.")
@REASON
@URL
@click.option("--if-version", type=Whole(0), help="Change nothing if the mode is of another version by now.")
@DIRECT
@click.pass_context
def mode(
    ctx: click.Context,
    /,
    what: str,
    reason: str,
    url: str,
    if_version: int | None,
    direct: bool,
    **numbers: float | None,
) -> None:
    """Show the mode of the fleet, or switch it, through the admin routes.

    Needs SHIELD_ADMIN_TOKEN; with --direct the SHIELD_* variables of the workers instead.
    Exit status: 0 done, 1 not done, 2 wrong usage.
    """
    if ctx.args:
        quotes = ": put quotes around a --reason of several words" if reason else ""
        raise click.UsageError(f"unexpected arguments ({' '.join(ctx.args)}){quotes}.")
    given = {name: value for name, value in numbers.items() if value is not None}
    if what != "emergency" and given:
        raise click.UsageError(f"--for, --capacity and --guest-share go with 'emergency', not with '{what}'.")
    if what == "status" and (reason or if_version is not None):
        raise click.UsageError("--reason and --if-version go with 'emergency' or 'normal'.")
    with client(url, direct=direct, to_look=what == "status") as fleet:
        was = fleet.status()
        is_normal_already = what == was["mode"] == "normal" and is_unchanged(was, if_version)
        if what == "status" or is_normal_already:
            lines = status_lines(was, fleet.place)
        else:
            now = fleet.set_mode({"mode": what, "reason": reason, **given}, if_version)
            lines = _change_lines(was, now, fleet.place, given)
    if is_normal_already:
        click.echo("Nothing was changed: the mode is normal already.")
    for label, text in lines:
        click.echo(f"{label:<8}{harmless(text)}{target(ctx) if label in _COMMANDS else ''}")


_COMMANDS = ("end it", "undo")
_END = "shieldmw mode normal"
_NOBODY = "nobody follows: no worker that this store knows of; is SHIELD_REDIS_URL the workers', and SHIELD_KEY_PREFIX?"

_DRY_RUN = "SHIELD_DRY_RUN=true: nothing is refused and nobody has to leave, it is only counted and logged"


def status_lines(now: Status, place: str) -> Iterator[tuple[str, str]]:
    """The labels and texts that show the status of the fleet."""
    yield from _warning(now)
    yield "now", _words(now)
    yield from _details(now, place)


def _change_lines(was: Status, now: Status, place: str, given: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    yield from _warning(now)
    yield "was", _words(was)
    yield "now", _words(now)
    if was["mode"] == now["mode"] == "emergency":
        yield from (("but", text) for text in _not_kept(was, now, given))
    yield from _details(now, place)
    if was["mode"] == "emergency":
        yield "undo", _again(was)


def _not_kept(was: Status, now: Status, given: Mapping[str, float]) -> Iterator[str]:
    """What an emergency in the place of another one has dropped, because the command did not name it again."""
    if "for_seconds" not in given and was["seconds_left"] is not None:
        yield f"without --for it lasts {span(now['seconds_left'])}, no longer {span(was['seconds_left'])}"
    for name, flag in (("capacity", "--capacity"), ("guest_share", "--guest-share")):
        if name not in given and (before := was[f"requested_{name}"]) is not None:
            yield f"without {flag} the settings hold, no longer {flag} {before:g}"


def _warning(now: Status) -> Iterator[tuple[str, str]]:
    if now["workers"] == 0:
        yield "warning", _NOBODY


def _words(status: Status) -> str:
    """The mode in one line: since when, by whom and why."""
    name = "EMERGENCY" if status["mode"] == "emergency" else "normal"
    if status["since"] is None:
        return f"{name} (never switched)"
    reason = f': "{status["reason"]}"' if status["reason"] else ""
    since = clock(status["since"], status["now"])
    return f"{name} since {since}, by {status['actor']}{reason} (version {status['version']})"


def _details(now: Status, place: str) -> Iterator[tuple[str, str]]:
    if now.get("dry_run"):  # missing in answers of older servers
        yield "dry run", _DRY_RUN
    if now["until"] is not None:
        ends = f"{clock(now['until'], now['now'])}, in {span(now['seconds_left'])}; then normal again by itself"
        yield "until", ends
    yield "seats", _seats(now)
    yield "present", _listeners(now)
    workers = now["workers"]
    if workers != 0:
        yield "on", f"{'every worker' if workers is None else counted(workers, 'worker')}, within a second"
    from .load_lines import load_lines  # imported late, when the process has its priority

    yield from load_lines(now)
    if now["store"] != "up":
        yield "store", "AWAY: the mode stays as it is and cannot be changed until the store is back"
    yield "asked", place
    if now["mode"] == "emergency":
        yield "end it", _END


def _seats(now: Status) -> str:
    total = "unlimited" if now["capacity"] is None else f"{now['capacity']:,}"
    if now["mode"] == "emergency" and now["guest_share"] == 0:
        return f"{total}, but none for guests"
    return total if now["capacity"] is None else f"{total}, at most {now['guest_seats']:,} for guests"


def _listeners(now: Status) -> str:
    here = now["seats"]
    if here is None:
        return "not known: the store does not tell"
    where = "" if now["counted"] == "fleet" else " on the worker that answered"
    text = ", ".join(counted(here[name], name) for name in ("host", "member", "guest")) + where
    if polling := sum((now.get("leased") or {}).values()):
        text += f" ({polling:,} of them polling)"
    demand = now["demand"]
    away = 0 if demand is None else sum(demand.values()) - sum(here.values())
    return f"{text}; {away:,} more without a seat" if away > 0 else text


def _again(was: Status) -> str:
    """The command that restores the emergency as it was requested: what was left to the settings stays with them."""
    words = ["shieldmw", "mode", "emergency"]
    if was["seconds_left"]:
        words += ["--for", written(was["seconds_left"])]
    if was["requested_capacity"] is not None:
        words += ["--capacity", str(was["requested_capacity"])]
    if was["requested_guest_share"] is not None:
        words += ["--guest-share", f"{was['requested_guest_share']:g}"]
    if was["reason"]:
        words += ["--reason", was["reason"]]
    return shlex.join(words)
