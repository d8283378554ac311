"""``shieldmw deny``: shows and edits the deny list during the event, for operators in a hurry."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import click

from shieldmw.core.address import network_of
from shieldmw.core.deny import LONGEST_DENY_S, not_denied
from shieldmw.core.text import counted, harmless

from .clients import client
from .durations import clock, duration_up_to, span, written
from .options import DIRECT, REASON, URL, target

Entry = Mapping[str, Any]

# Width of the networks in the list: of most IPv6 ones.
_NETWORK = 24

# Most networks that are named because they overlap the lifted one.
SHOWN = 5


def _network(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """The network as it is on the list: a bare address is a network of one."""
    try:
        return str(network_of(value.strip()))
    except ValueError as error:
        raise click.BadParameter(harmless(error), ctx, param) from None


_NETWORK_ARGUMENT = click.argument("network", callback=_network)
_SHOWN = ("undo", "lift it")


@click.group(invoke_without_command=True)
@click.pass_context
def deny(ctx: click.Context) -> None:
    """Show the denied networks, or change them at once on every worker, through the admin routes.

    Needs SHIELD_ADMIN_TOKEN; with --direct the SHIELD_* variables of the workers instead.
    Exit status: 0 done, 1 not done, 2 wrong usage.
    """
    if ctx.invoked_subcommand is None:
        with list_.make_context("list", [], parent=ctx) as shown:
            list_.invoke(shown)


@deny.command("list")
@URL
@DIRECT
def list_(url: str, direct: bool) -> None:
    """Show the denied networks. Those of SHIELD_DENY_IPS are not among them.

    SHIELD_VIEW_TOKEN is enough, and shows them in part.

    Example: shieldmw deny list
    """
    with client(url, direct=direct, to_look=True) as fleet:
        entries = fleet.deny_list()
        click.echo(f"{'denied':<8}{counted(len(entries), 'network') if entries else 'nothing'}")
        click.echo(f"{'asked':<8}{harmless(fleet.place)}")
    for entry in entries:
        click.echo(harmless(f"  {entry['cidr']:<{_NETWORK}}{_words(entry)}"))


@deny.command()
@_NETWORK_ARGUMENT
@click.option(
    "--for",
    "for_seconds",
    callback=duration_up_to(LONGEST_DENY_S),
    default="1h",
    show_default=True,
    metavar="TIME",
    help="When it is allowed again by itself: 90s, 30m, 2h, 30d at most.",
)
@REASON
@click.option("--force", is_flag=True, help="Deny it even if it contains your own address.")
@URL
@DIRECT
@click.pass_context
def add(ctx: click.Context, network: str, for_seconds: int, reason: str, force: bool, url: str, direct: bool) -> None:
    """Deny NETWORK for a while: a CIDR, or an address. One that is denied already gets the new end.

    Your own address is not denied without --force; with --direct nobody knows it, so look twice.

    Example: shieldmw deny add 203.0.113.0/24 --for 30m --reason "flood"
    """
    with client(url, direct=direct, to_look=False) as fleet:
        was = fleet.denied(network)
        entry = fleet.deny(network, {"for_seconds": for_seconds, "reason": reason, "force": force})
        _print(_added(was, entry, fleet.place), ctx)


@deny.command()
@_NETWORK_ARGUMENT
@URL
@DIRECT
@click.pass_context
def lift(ctx: click.Context, network: str, url: str, direct: bool) -> None:
    """Let NETWORK in again, named as it was denied.

    Example: shieldmw deny lift 203.0.113.0/24
    """
    with client(url, direct=direct, to_look=False) as fleet:
        was = fleet.denied(network)
        is_lifted = was is not None and fleet.lift(network)
        others = _overlapping(fleet.deny_list(), network)
        if was is None or not is_lifted:
            by = f" Addresses of it are denied by {', '.join(others[:SHOWN])}." if others else ""
            raise click.ClickException(
                f"{not_denied(network)}{by} Lift a network as it was denied: see 'shieldmw deny list{target(ctx)}'."
            )
        _print(_lifted(was, others, fleet.place), ctx)


def _added(was: Entry | None, entry: Entry, place: str) -> Iterator[tuple[str, str]]:
    if was is not None:
        yield "was", _words(was)
    yield "denied", f"{entry['cidr']} {_words(entry)}"
    yield "asked", place
    lifting = shlex.join(("shieldmw", "deny", "lift", entry["cidr"]))
    if was is None:
        yield "undo", lifting
    else:
        yield "undo", _again(was)
        yield "lift it", lifting


def _overlapping(entries: Iterable[Entry], network: str) -> list[str]:
    """The networks of the list that share addresses with this one."""
    own = network_of(network)
    found = []
    for entry in entries:
        other = network_of(entry["cidr"])
        if other != own and type(other) is type(own) and other.overlaps(own):
            found.append(str(other))
    return found


def _lifted(was: Entry, others: Sequence[str], place: str) -> Iterator[tuple[str, str]]:
    yield "lifted", f"{was['cidr']}, which was denied {_words(was)}"
    if others:
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        yield "but", f"still denied, with addresses of it: {', '.join(others[:SHOWN])}{more}"
    yield "asked", place
    yield "undo", _again(was)


def _print(lines: Iterator[tuple[str, str]], ctx: click.Context) -> None:
    for label, text in lines:
        click.echo(f"{label:<8}{harmless(text)}{target(ctx) if label in _SHOWN else ''}")


def _words(entry: Entry) -> str:
    """The end of a denial, and who denied it why."""
    left_s = entry["seconds_left"]
    reason = f': "{entry["reason"]}"' if entry["reason"] else ""
    until = clock(entry["until"], entry["until"] - left_s)
    return f"until {until}, in {span(left_s)}, by {entry['actor']}{reason}"


def _again(was: Entry) -> str:
    """The command that denies a network as it was, for the time that was left."""
    words = ["shieldmw", "deny", "add", was["cidr"], "--for", written(max(1, was["seconds_left"]))]
    if was["reason"]:
        words += ["--reason", was["reason"]]
    return shlex.join(words)
