"""Options that operators' commands share, and commands written out for operators to type."""

from __future__ import annotations

import shlex

import click

from .durations import written

URL = click.option(
    "--url",
    envvar="SHIELD_ADMIN_URL",
    default="http://127.0.0.1:8000",
    show_default=True,
    help="The admin routes, or just the host.  [env: SHIELD_ADMIN_URL]",
)
DIRECT = click.option(
    "--direct", is_flag=True, help="Use the store of SHIELD_REDIS_URL, if the admin routes do not answer."
)
# A --for that never ends, which is 0 seconds where it is allowed.
FOREVER = "forever"

REASON = click.option("--reason", default="", help="Why: other operators see it, the audit keeps it.")


def is_url_given(ctx: click.Context) -> bool:
    """Whether --url was typed, not just found in the environment."""
    return ctx.get_parameter_source("url") is click.core.ParameterSource.COMMANDLINE


def target(ctx: click.Context) -> str:
    """What follows a command that should go the same way as the current one: --direct, the --url that was typed, or
    nothing."""
    if ctx.params.get("direct"):
        return " --direct"
    return f" --url {shlex.quote(ctx.params['url'])}" if is_url_given(ctx) else ""


def typed(ctx: click.Context) -> str:
    """The current command as it was typed, normalised, without --url and --direct."""
    words = ctx.command_path.split()
    for param in ctx.command.params:
        value = ctx.params.get(param.name or "")
        if param.name in ("url", "direct") or value is None or value is False or value == "":
            continue
        if isinstance(param, click.Argument):
            words += value if isinstance(value, tuple) else [f"{value}"]
        elif ctx.get_parameter_source(param.name or "") is click.core.ParameterSource.COMMANDLINE:
            words.append(param.opts[0])
            if value is not True:
                words.append(written(value) or FOREVER if param.name == "for_seconds" else f"{value}")
    return shlex.join(words)
