"""``shieldmw limits``: shows and changes limits during the event, for operators in a hurry."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import click

from shieldmw.admin.client import Overtaken
from shieldmw.core.text import harmless

from .admin_client import admin_client
from .durations import clock, duration_s, span
from .numbers import Whole
from .operator import WrongInput

Answer = Mapping[str, Any]

# Widths of the columns of the table.
_NAME, _VALUE = 32, 24

_URL = click.option(
    "--url",
    envvar="SHIELD_ADMIN_URL",
    default="http://127.0.0.1:8000",
    show_default=True,
    help="The admin routes, or just the host.  [env: SHIELD_ADMIN_URL]",
)
_REASON = click.option("--reason", default="", help="Why: other operators see it, the audit keeps it.")
_IF_VERSION = click.option("--if-version", type=Whole(0), help="Change nothing if they are of another version by now.")


@click.group(invoke_without_command=True)
@click.pass_context
def limits(ctx: click.Context) -> None:
    """Show the limits in force, or change them on every worker, through the admin routes.

    Needs SHIELD_ADMIN_TOKEN. Exit status: 0 done, 1 not done, 2 wrong usage.
    """
    if ctx.invoked_subcommand is None:
        with show.make_context("show", [], parent=ctx) as shown:
            show.invoke(shown)


@limits.command()
@_URL
def show(url: str) -> None:
    """Show the limits in force, and what the settings say."""
    _print(_ask(url))


def _duration_or_forever(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Seconds; 0 for ``forever``."""
    return 0 if value == "forever" else duration_s(ctx, param, value)


@limits.command("set")
@click.argument("values", nargs=-1, required=True, metavar="NAME=VALUE...")
@click.option(
    "--for",
    "for_seconds",
    callback=_duration_or_forever,
    metavar="TIME",
    help="When all that is changed ends by itself: 90s, 30m, 2h, or 'forever': when it is undone.  "
    "[default: at the end that is in force, if there is one]",
)
@_REASON
@_URL
@_IF_VERSION
def set_(values: tuple[str, ...], for_seconds: int | None, reason: str, url: str, if_version: int | None) -> None:
    """Change limits on every worker, within a second.

    NAME is a variable, such as SHIELD_IP_LIMIT=60/minute or SHIELD_CAPACITY=40000, or a part of a rule: search.limits,
    search.burst or search.dry_run. What was changed before stays changed; NAME= with no value ends the change of one.
    The end time is that of all changes together.
    """
    given = {"reason": reason} if for_seconds is None else {"for_seconds": for_seconds or None, "reason": reason}
    _change(url, if_version, lambda known: {**_merged(known, values), **given})


@limits.command()
@_REASON
@_URL
@_IF_VERSION
def undo(reason: str, url: str, if_version: int | None) -> None:
    """Restore what the last change replaced, with the end time that it had. Undoing twice restores it again."""
    _change(url, if_version, lambda known: _body(known["before"], reason or f"undo of version {known['version']}"))


def _ask(url: str) -> Answer:
    with admin_client(url, to_look=True) as client:
        return {**client.limits(), "place": client.place}


def _change(url: str, if_version: int | None, body: Any) -> None:
    """Change the document in force: the version that was read must still be there, so nobody's change is lost."""
    with admin_client(url, to_look=False) as client:
        known = client.limits()
        try:
            now = client.set_limits(body(known), known["version"] if if_version is None else if_version)
        except Overtaken as error:
            raise click.ClickException(harmless(_overtaken(error.current))) from None
    _print({**now, "place": client.place})


def _overtaken(current: Answer) -> str:
    reason = f', "{current["reason"]}"' if current.get("reason") else ""
    return (
        f"someone else changed them: {current.get('actor') or 'nobody'}{reason}, now version {current.get('version')}. "
        "Nothing was changed by this command: see 'shieldmw limits', then repeat it."
    )


def _body(document: Answer, reason: str) -> dict[str, object]:
    """The body that restores a document."""
    rules = {
        name: {part: value for part, value in rule.items() if value is not None}
        for name, rule in document["rules"].items()
    }
    return {
        "settings": document["settings"],
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
        values = document["rules"].setdefault(rule, {}) if dot else document["settings"]
        if value:
            values[part] = _value(part, value)
        else:
            values.pop(part, None)
    return document


def _value(name: str, text: str) -> object:
    """A value as JSON has it: only limits are text. The admin routes say what is wrong with others."""
    if name == "limits" or name.endswith("_LIMIT"):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _print(now: Answer) -> None:
    for label, text in _lines(now):
        click.echo(f"{label:<8}{harmless(text)}")
    for line in _table(now):
        click.echo(harmless(line))


def _lines(now: Answer) -> Iterator[tuple[str, str]]:
    yield "now", _words(now)
    if now["until"] is not None:
        ends = f"{clock(now['until'], now['now'])}, in {span(now['seconds_left'])}; then as in the settings by itself"
        yield "until", ends
    for line in now["ignored"]:
        yield "warning", f"ignored on the worker that answered: {line}"
    if now["store"] != "up":
        yield "store", "AWAY: the limits stay as they are and cannot be changed until the store is back"
    yield "asked", now["place"]
    if now["version"]:
        yield "undo", f"{shlex.join(('shieldmw', 'limits', 'undo'))}  (restores: {_document(now['before'])})"


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
