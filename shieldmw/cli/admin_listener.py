"""Keeps the process of ``--admin`` alive, for ``serve`` and ``envoy``: the admin routes on a listener that a flood of
the app cannot affect.

It is a separate process, since a saturated worker cannot answer, and the main process must not have event loops or
native threads: workers are forked from it at any time, and a fork copies whatever state another thread was in. For the
same reason it is spawned rather than forked. It is not in the terminal's process group, so that after Ctrl-C it serves
operators until the workers have ended.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from typing import Self

import click

from shieldmw.errors import SettingsError
from shieldmw.settings import Settings
from shieldmw.wiring import admin_alone

from .listening import Address, TcpAddress, is_loopback, overlap, parse_address
from .load import EXIT_WRONG_INPUT

# Shortest and longest pause before a restart; it doubles each time the process ends early.
AGAIN_S, LONGEST_AGAIN_S = 1.0, 10.0

# Time to stop before the process is killed.
STOP_S = 5.0


class AdminListener:
    """Runs the listener's process, and restarts it if it dies, until the block ends.

    ``metrics_path``: where the workers share their metrics.
    """

    def __init__(self, address: Address, log_level: str, metrics_path: str | None) -> None:
        where = (address.ip, str(address.port)) if isinstance(address, TcpAddress) else ("unix", str(address.path))
        arguments = ["-m", "shieldmw.cli.admin_process", str(os.getpid()), log_level, metrics_path or "", *where]
        # -P: Python files in the app's folder must not shadow this process's modules.
        self._command = [sys.executable, "-P", *arguments]
        self._stopping = threading.Event()
        self._process = self._start()
        self._watcher = threading.Thread(target=self._watch, name="shieldmw admin listener", daemon=True)

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stdin=subprocess.DEVNULL, process_group=0)  # noqa: S603  (our own module)

    def _watch(self) -> None:
        again_s = AGAIN_S
        while True:
            began_s = time.monotonic()
            status = self._process.wait()
            if self._stopping.is_set():
                return
            click.echo(f"shieldmw: the admin listener ended with status {status}: it is started again", err=True)
            if self._stopping.wait(again_s):
                return
            again_s = AGAIN_S if began_s < time.monotonic() - LONGEST_AGAIN_S else min(2 * again_s, LONGEST_AGAIN_S)
            try:
                self._process = self._start()
            except OSError as error:  # too many processes, or no memory: retried as if it had ended at once
                click.echo(f"shieldmw: the admin listener cannot be started: {error}", err=True)

    def __enter__(self) -> Self:
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._process.terminate()
        self._watcher.join(STOP_S)
        if self._watcher.is_alive():
            self._process.kill()
            self._watcher.join()


def admin_address(text: str, other: Address, settings: Settings) -> Address:
    """The address for the admin routes, after checking that they can be served there, beside what listens at ``other``.

    Raises:
        click.ClickException: they cannot be served there.
    """
    try:
        admin_alone(settings)
    except SettingsError as error:
        for line in error.problems:
            click.echo(f"shieldmw: --admin {text}: {line}", err=True)
        sys.exit(EXIT_WRONG_INPUT)
    address = parse_address(text, "--admin")
    if overlap(address, other):
        # Both would listen there (SO_REUSEPORT), and the kernel would spread connections over them.
        raise click.BadParameter(f"the app is served on {other}: choose another port or path", param_hint="--admin")
    warn_of_strangers(address)
    return address


def warn_of_strangers(address: Address) -> None:
    """Warn if other machines can connect, since the token would travel unencrypted."""
    if isinstance(address, TcpAddress) and not is_loopback(address.ip):
        click.echo(
            f"shieldmw: warning: --admin {address} can be reached from other machines and is not encrypted: the token "
            "can be read on the way, use 127.0.0.1 or unix:PATH",
            err=True,
        )
