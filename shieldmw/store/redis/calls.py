"""How a store calls its server, of whatever kind it is: one, a cluster of them, or whoever sentinels say is the master.

What servers of a cluster answer where they are not the one to ask is an exception here; only who knows the whole
cluster can make something of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from shieldmw.errors import NotApplied, StoreError

Command = tuple[str | int | bytes, ...]


class Calls(Protocol):
    """Calls to a server. Each has a budget, and none is sent twice where the first may have been carried out.

    ``slotted``: keys of one call must share their hash tag.
    """

    slotted: bool

    async def run(self, script: str, keys: Sequence[str], arguments: Sequence[str | int | bytes]) -> object:
        """Run a script of ours."""

    async def command(self, *command: str | int | bytes) -> Any:
        """One command; its first argument is its key."""

    async def transaction(self, *commands: Command) -> list[Any]:
        """Several commands as one: all or none are carried out. Their keys share a hash tag."""

    def messages(self, channel: str) -> AsyncIterator[bytes]:
        """What is published on a channel, beginning with an empty message once we listen."""

    async def infos(self) -> Mapping[str, bytes]:
        """What each server that is written to says of itself, by where it is (host:port; '' where the URL says it)."""

    async def aclose(self) -> None:
        """End all connections; a later call opens new ones."""


class Redirected(StoreError):
    """Another node is to be asked, and nothing has been done. An empty host means the one that was asked."""

    def __init__(self, text: str, host: str, port: int) -> None:
        super().__init__(text, host, port)
        self.host = host
        self.port = port

    def __str__(self) -> str:
        return str(self.args[0])


class Moved(Redirected):
    """The slot is that node's."""


class Asked(Redirected):
    """The slot is on the move: for this one call ask the node that it goes to."""


class TryAgain(NotApplied):
    """The slot is on the move and the call's keys lie apart, until the move ends."""


class ClusterDown(NotApplied):
    """The cluster cannot serve the slot now."""
