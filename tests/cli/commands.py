"""Runs `shieldmw` for tests: in this process if that is enough, otherwise as users do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from shieldmw.cli import main

REPOSITORY = Path(__file__).resolve().parent.parent.parent

LONGEST_S = 60.0


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it printed."""

    status: int
    out: str
    err: str

    @property
    def printed(self) -> str:
        """Everything."""
        return self.out + self.err


def shieldmw(*args: str, cwd: Path | str | None = None, **env: str) -> Ran:
    """Run the command as a process of its own; it sees PATH, HOME and these variables."""
    return _process([sys.executable, "-m", "shieldmw", *args], env, cwd)


def python(code: str, *args: str, cwd: Path | str | None = None, **env: str) -> Ran:
    """Run some Python in a process of its own."""
    return _process([sys.executable, "-c", code, *args], env, cwd)


def without(modules: str, *args: str, **env: str) -> Ran:
    """Run the command where these modules (separated by spaces) are not installed."""
    code = (
        f"import sys\nfor name in {modules.split()!r}:\n    sys.modules[name] = None\n"
        "from shieldmw.cli import main\nmain(prog_name='shieldmw')"
    )
    return python(code, *args, **env)


def _process(command: list[str], env: Mapping[str, str], cwd: Path | str | None) -> Ran:
    basic = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        command,
        env={**basic, "PYTHONPATH": str(REPOSITORY), **env},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def invoke(*args: str, **env: str) -> Ran:
    """Run the command in this process; anything it raises but an exit is raised here."""
    unset = {name: None for name in os.environ if name.startswith("SHIELD_")}
    result = CliRunner().invoke(main, args, env={**unset, **env}, prog_name="shieldmw")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)
