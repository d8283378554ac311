"""Where servers live: ports, folders, binaries. Nothing here starts anything."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest

Value = TypeVar("Value")

HOST = "127.0.0.1"
REPOSITORY = Path(__file__).resolve().parent.parent.parent
APPS = REPOSITORY / "tests" / "e2e"


def free_port() -> int:
    """A TCP port that nobody on loopback holds at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextmanager
def _reserved_port() -> Iterator[int]:
    """A free port that only the server started inside the block can take.

    Without it two test processes can be given the same port, and one takes the other's answer for that of its
    own server. The flags come after the bind: whoever looks for a free port is not given this one, but a
    server that sets SO_REUSEADDR, as all of them do, may bind it by number. Only Linux allows that.
    """
    with socket.socket() as held:
        held.bind((HOST, 0))
        port = int(held.getsockname()[1])
        if sys.platform == "linux":
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        else:
            held.close()
        yield port


MOST_PORTS = 10


def on_free_port(start: Callable[[int], Value]) -> Value:
    """Start on a free port, and on another where somebody took it in between, or an old connection still lingers."""
    for last in (*[False] * (MOST_PORTS - 1), True):
        try:
            with _reserved_port() as port:
                return start(port)
        except Exception as error:
            if last or "in use" not in str(error):
                raise
    raise AssertionError("the last port raises")


def missing(what: str) -> NoReturn:
    """Skip where something cannot be had, but fail in CI: a suite that skips there proves nothing."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is needed in CI")
    pytest.skip(f"{what} is not installed")


def require(binary: str) -> str:
    """The path of a system binary; see `missing` for what happens without it."""
    places = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
    return shutil.which(binary, path=places) or missing(binary)


@contextmanager
def own_directory() -> Iterator[Path]:
    """A temporary directory with a name short enough for a unix socket's path."""
    with tempfile.TemporaryDirectory(prefix="shield-", ignore_cleanup_errors=True) as name:
        yield Path(name)
