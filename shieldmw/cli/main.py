"""The group of all commands. Each is imported when it is called, since it may need packages of its own."""

from __future__ import annotations

from importlib import import_module

import click

import shieldmw

# Command names, in the order of the help, and the extra that each needs.
COMMANDS = {
    "serve": "server",
    "envoy": "envoy",
    "check": None,
    "env": None,
    "keys": None,
    "mode": None,
    "limits": None,
    "deny": None,
    "reset": "cli",
    "audit": None,
    "top": "cli",
    "demo": "demo",
}


class LazyGroup(click.Group):
    """A group whose commands are modules of this package with the same names."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command with this name; if a package is missing, one that says so."""
        if cmd_name not in COMMANDS:
            return None
        try:
            command = getattr(import_module(f"shieldmw.cli.{cmd_name}"), cmd_name)
        except ModuleNotFoundError as error:
            extra = COMMANDS[cmd_name]
            if extra is None or (error.name or "").startswith("shieldmw"):
                raise
            return _missing(cmd_name, f"'{cmd_name}' needs {error.name}: pip install 'shieldmw[{extra}]'")
        assert isinstance(command, click.Command)
        return command


def _missing(name: str, message: str) -> click.Command:
    def fail(**_: object) -> None:
        raise click.ClickException(message)

    return click.Command(
        name,
        callback=fail,
        help=f"Not installed: {message}.",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(shieldmw.__version__, prog_name="shieldmw")
def main() -> None:
    """Overload protection for ASGI apps.

    Everything is set by SHIELD_* variables: see 'shieldmw env'.
    """
