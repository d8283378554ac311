"""The interface by which the store calls its server: a single one, a cluster, or the master that Sentinels name.

A cluster node's redirections are exceptions here; only code that knows the whole cluster can handle them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from shieldmw.errors import NotApplied, StoreError

Command = tuple[str | int | bytes, ...]


class Calls(Protocol):
    """Calls to a server. Each has a time budget, and none is sent again if it may have been carried out.

    ``slotted``: the keys of one call must share their hash tag.
    """

    slotted: bool

    async def run(self, script: str, keys: Sequence[str], arguments: Sequence[str | int | bytes]) -> object:
        """Run one of our scripts."""

    async def command(self, *command: str | int | bytes) -> Any:
        """Send one command, whose first argument is its key."""

    async def transaction(self, *commands: Command) -> list[Any]:
        """Send several commands as a transaction: all or none are carried out. Their keys share a hash tag."""

    def messages(self, channel: str) -> AsyncIterator[bytes]:
        """The messages of a channel; the first is empty, and sent once we are subscribed."""

    async def infos(self) -> Mapping[str, bytes]:
        """The INFO of each server that is written to, by its address (host:port; '' if it is that of the URL)."""

    async def aclose(self) -> None:
        """Close all connections; a later call opens new ones."""


class Redirected(StoreError):
    """Another node must be called; nothing was changed. An empty host means the host of the node that answered."""

    def __init__(self, text: str, host: str, port: int) -> None:
        super().__init__(text, host, port)
        self.host = host
        self.port = port

    def __str__(self) -> str:
        return str(self.args[0])


class Moved(Redirected):
    """MOVED: the slot is owned by that node."""


class Ask(Redirected):
    """ASK: the slot is moving; this one call must go to the node that it moves to."""


class TryAgain(NotApplied):
    """TRYAGAIN: the slot is moving, and the call's keys are on different nodes until the move ends."""


class ClusterDown(NotApplied):
    """CLUSTERDOWN: the cluster cannot serve the slot now."""
