"""Processes, ended by their own handles, and their logs."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0


def spawn(
    command: Sequence[str], log: Path, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own, its output appended to the log."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command, cwd=cwd, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )


def end(process: subprocess.Popen[bytes], timeout: float = STOP_TIMEOUT_S) -> int:
    """Ask a process to end, wait, and kill it as the last resort; returns its exit code."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process, then kill workers of its group that outlived it."""
    end(process)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def read(log: Path) -> str:
    """The text of a log so far."""
    return log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
