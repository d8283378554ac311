"""``shieldmw limits``: shows and changes limits during the event, for operators in a hurry."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

import click

from shieldmw.core.text import harmless

from .clients import client
from .durations import clock, duration_s, span
from .numbers import Whole
from .operator import WrongInput, is_unchanged
from .options import DIRECT, FOREVER, REASON, URL, target

Answer = Mapping[str, Any]

# Widths of the columns of the table.
_NAME, _VALUE = 32, 24

_IF_VERSION = click.option("--if-version", type=Whole(0), help="Change nothing if they are of another version by now.")


@click.group(invoke_without_command=True)
@click.pass_context
def limits(ctx: click.Context) -> None:
    """Show the limits in force, or change them on every worker, through the admin routes.

    Needs SHIELD_ADMIN_TOKEN; with --direct the SHIELD_* variables of the workers instead.
    Exit status: 0 done, 1 not done, 2 wrong usage.
    """
    if ctx.invoked_subcommand is None:
        with show.make_context("show", [], parent=ctx) as shown:
            show.invoke(shown)


@limits.command()
@URL
@DIRECT
@click.pass_context
def show(ctx: click.Context, url: str, direct: bool) -> None:
    """Show the limits in force, and what the settings say.

    Example: shieldmw limits show
    """
    with client(url, direct=direct, to_look=True) as fleet:
        _print(fleet.limits(), fleet.place, ctx)


def _duration_or_forever(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Seconds; 0 for ``forever``."""
    return 0 if value == FOREVER else duration_s(ctx, param, value)


@limits.command("set")
@click.argument("values", nargs=-1, required=True, metavar="NAME=VALUE...")
@click.option(
    "--for",
    "for_seconds",
    callback=_duration_or_forever,
    metavar="TIME",
    help="When all that is changed ends by itself: 90s, 30m, 2h, or 'forever': when it is undone.  "
    "[default: at the end in force; when it is undone, if there is none]",
)
@REASON
@URL
@_IF_VERSION
@DIRECT
@click.pass_context
def set_(
    ctx: click.Context,
    /,
    values: tuple[str, ...],
    for_seconds: int | None,
    reason: str,
    **way: Any,
) -> None:
    """Change limits on every worker, within a second.

    NAME is a variable, such as SHIELD_IP_LIMIT=60/minute or SHIELD_CAPACITY=40000, or a part of a rule: search.limits,
    search.burst or search.dry_run. What was changed before stays changed; NAME= with no value ends the change of one.
    The end time is that of all changes together.

    Example: shieldmw limits set SHIELD_IP_LIMIT=60/minute --for 30m --reason "flood"
    """
    given = {"reason": reason} if for_seconds is None else {"for_seconds": for_seconds or None, "reason": reason}
    _change(ctx, lambda known: {**_merged(known, values), **given}, otherwise="all of that is in force already", **way)


@limits.command()
@REASON
@URL
@_IF_VERSION
@DIRECT
@click.pass_context
def undo(ctx: click.Context, /, reason: str, **way: Any) -> None:
    """Restore what the last change replaced, with the end time that it had. Undoing twice restores it again.

    Example: shieldmw limits undo
    """
    _change(
        ctx,
        lambda known: _body(known["before"], reason or f"undo of version {known['version']}"),
        otherwise="there is nothing to undo",
        **way,
    )


def _change(
    ctx: click.Context,
    body: Callable[[Answer], Mapping[str, object]],
    *,
    url: str,
    direct: bool,
    if_version: int | None,
    otherwise: str,
) -> None:
    """Change the document in force, or say ``otherwise`` if that changes nothing.

    The version that was read must still be there, so nobody's change is lost.
    """
    with client(url, direct=direct, to_look=False) as fleet:
        now = fleet.limits()
        changed = body(now)
        if is_unchanged(now, if_version) and _is_in_force(now, changed):
            click.echo(f"Nothing was changed: {otherwise}.")
        else:
            # Without a version if what is stored cannot be read: the change replaces it.
            read = now["version"] if now["store"] == "up" else None
            now = fleet.set_limits(changed, read if if_version is None else if_version)
        _print(now, fleet.place, ctx)


def _is_in_force(now: Answer, body: Mapping[str, Any]) -> bool:
    """Whether a document would change nothing: neither a value in force nor, if there are any changes, their end."""
    if body["for_seconds"] != now["seconds_left"] and (now["settings"] or now["rules"]):
        return False
    rules = {rule["name"]: rule["in_force"] for rule in now["rules_in_force"]}
    known = _body(now, "")
    return _same_values(known["settings"], body["settings"], now["in_force"]) and all(
        _same_values(known["rules"].get(name, {}), body["rules"].get(name, {}), rules.get(name, {}))
        for name in {*known["rules"], *body["rules"]}
    )


def _same_values(known: Mapping[str, Any], given: Mapping[str, Any], in_force: Mapping[str, Any]) -> bool:
    """Whether values replace those that operators have changed by the same, and others by what is in force.

    A limit replaces its burst as well, so it changes something unless no burst is in force.
    """
    new = given.keys() - known.keys()
    bursts = ["burst" if name == "limits" else f"{name.removesuffix('_LIMIT')}_BURST" for name in new]
    return (
        all(name in given and given[name] == value for name, value in known.items())
        and all(name in in_force and _text(given[name]) == _text(in_force[name]) for name in new)
        and all(burst in given or in_force.get(burst) is None for burst in bursts)
    )


def _body(document: Answer, reason: str) -> dict[str, Any]:
    """The body that restores a document."""
    rules = {
        name: {part: value for part, value in rule.items() if value is not None}
        for name, rule in document["rules"].items()
    }
    return {
        "settings": dict(document["settings"]),
        "rules": rules,
        "for_seconds": document["seconds_left"],
        "reason": reason[:200],
    }


def _merged(known: Answer, texts: tuple[str, ...]) -> dict[str, Any]:
    """The document in force with other values."""
    document: dict[str, Any] = _body(known, "")
    for text in texts:
        name, mark, value = text.partition("=")
        if not mark:
            right = "is not of the form NAME=VALUE: write it like SHIELD_IP_LIMIT=60/minute"
            raise WrongInput(harmless(f"'{text}' {right}"))
        rule, dot, part = name.rpartition(".")
        if not value:
            _check_known(known, rule, name)
        values = document["rules"].setdefault(rule, {}) if dot else document["settings"]
        if value:
            values[part] = _value(part, value)
        else:
            values.pop(part, None)
    return document


def _check_known(known: Answer, rule: str, name: str) -> None:
    """Refuse to take back a value of something that there is not: nothing of it would be sent, so nobody else would."""
    rules = [one["name"] for one in known["rules_in_force"]]
    of, names = ("rule", rules) if rule else ("limit", list(known["in_force"]))
    if (rule or name) in names or rule in known["rules"]:
        return
    nearest = get_close_matches(rule or name, names, n=1)
    meant = f", did you mean '{nearest[0]}'?" if nearest else ""
    raise WrongInput(harmless(f"'{name}=': there is no {of} '{rule or name}' that can be changed{meant}"))


def _value(name: str, text: str) -> object:
    """A value as JSON has it: only limits are text. The admin routes say what is wrong with others."""
    if name == "limits" or name.endswith("_LIMIT"):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _print(now: Answer, place: str, ctx: click.Context) -> None:
    for label, text in _lines(now, place, target(ctx)):
        click.echo(f"{label:<8}{harmless(text)}")
    for line in _table(now):
        click.echo(harmless(line))


def _lines(now: Answer, place: str, target: str) -> Iterator[tuple[str, str]]:
    yield "now", _words(now)
    if now["until"] is not None:
        ends = f"{clock(now['until'], now['now'])}, in {span(now['seconds_left'])}; then as in the settings by itself"
        yield "until", ends
    for line in now["ignored"]:
        yield "warning", f"ignored on the worker that answered: {line}"
    if now["store"] != "up":
        yield "store", "AWAY: the limits stay as they are and cannot be changed until the store is back"
    yield "asked", place
    if now["version"]:
        yield "undo", f"shieldmw limits undo{target}  (restores: {_document(now['before'])})"


def _words(now: Answer) -> str:
    if not now["version"]:
        return "as in the settings (never changed)"
    changed = "changed" if now["settings"] or now["rules"] else "as in the settings"
    reason = f': "{now["reason"]}"' if now["reason"] else ""
    return f"{changed} since {clock(now['since'], now['now'])}, by {now['actor']}{reason} (version {now['version']})"


def _document(document: Answer) -> str:
    words = [f"{name}={value}" for name, value in document["settings"].items()]
    for name, rule in document["rules"].items():
        words += [f"{name}.{part}={_text(value)}" for part, value in rule.items() if value is not None]
    return ", ".join(words) or "the settings"


def _table(now: Answer) -> Iterator[str]:
    """Every value that can be changed; one that differs from the settings is marked."""
    for name, value in now["in_force"].items():
        yield _row(name, value, now["configured"][name])
    for rule in now["rules_in_force"]:
        for part, value in rule["in_force"].items():
            yield _row(f"{rule['name']}.{part}", value, rule["configured"][part])


def _row(name: str, value: object, configured: object) -> str:
    row = f"{'*' if value != configured else ' '} {name:<{_NAME}}{_text(value):<{_VALUE}}"
    return f"{row}settings: {_text(configured)}" if value != configured else row.rstrip()


def _text(value: object) -> str:
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
