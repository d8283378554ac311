"""Calls to the master that Sentinels name. While it is in use, Sentinels are queried each second, and a new master is
used at once.

After a manual failover the old master accepts writes for some ten seconds, which are lost, so we cannot wait until it
fails.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from shieldmw.errors import StoreError, StoreUnavailable
from shieldmw.settings.store_url import Address, parse_servers

from .calls import Command
from .connection import RedisConnection
from .topology import TopologyRefresher

# Longest and shortest interval between two queries of the Sentinels.
REFRESH_EVERY_S = 1.0
REFRESH_LEAST_S = 0.1

T = TypeVar("T")


class Sentinels:
    """Makes calls to the master of a service. The URL's password is for the master; Sentinels may have another."""

    slotted = False

    def __init__(self, url: str, timeout_s: float) -> None:
        self._named = parse_servers(url)
        self._timeout_s = timeout_s
        # The one that answered most recently comes first.
        self._sentinels = [
            (address, RedisConnection(self._named.sentinel_url_of(address), timeout_s))
            for address in self._named.addresses
        ]
        self._address: Address | None = None
        self._connection: RedisConnection | None = None
        self._topology = TopologyRefresher(
            self._refresh, every_s=REFRESH_EVERY_S, least_s=REFRESH_LEAST_S, within_s=timeout_s
        )

    async def run(self, script: str, keys: Sequence[str], arguments: Sequence[str | int | bytes]) -> object:
        """Run a script on the master."""
        return await self._ask(lambda master: master.run(script, keys, arguments))

    async def command(self, *command: str | int | bytes) -> Any:
        """Send one command."""
        return await self._ask(lambda master: master.command(*command))

    async def transaction(self, *commands: Command) -> list[Any]:
        """Send several commands as a transaction."""
        return await self._ask(lambda master: master.transaction(*commands))

    async def messages(self, channel: str) -> AsyncIterator[bytes]:
        """The messages of a channel. Fails once there is another master: the caller then subscribes again."""
        master = await self._master()
        with self._topology.watching():
            async with aclosing(master.messages(channel)) as messages:
                async for message in messages:
                    yield message

    async def infos(self) -> Mapping[str, bytes]:
        """The master's INFO."""
        info = await self.command("INFO")
        return {str(self._address): info}

    async def aclose(self) -> None:
        """Close all connections, and forget the master."""
        await self._topology.aclose()
        master, self._connection, self._address = self._connection, None, None
        if master is not None:
            await master.aclose()
        for _, sentinel in self._sentinels:
            await sentinel.aclose()

    async def _ask(self, call: Callable[[RedisConnection], Awaitable[T]]) -> T:
        """Call the master; if it is away, or says that it is a replica, look for another."""
        master = await self._master()
        with self._topology.watching():
            return await call(master)

    async def _master(self) -> RedisConnection:
        """The last known master; waits only if none is known."""
        self._topology.used()
        if self._connection is None:
            await self._topology.now()
        if self._connection is None:
            raise StoreUnavailable("closed")
        return self._connection

    async def _refresh(self) -> None:
        """Learn the master from the first Sentinel that knows it.

        Raises:
            StoreUnavailable: none does; the message gives each one's reason.
        """
        failures = []
        for place, (address, sentinel) in enumerate(self._sentinels):
            try:
                reply = await sentinel.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._named.service)
            except StoreError as error:
                failures.append(f"sentinel {address}: {error}")
                continue
            if reply is None:
                failures.append(f"sentinel {address} knows no service {self._named.service!r}")
                continue
            self._sentinels.insert(0, self._sentinels.pop(place))
            await self._move_to(_address_in(reply, address))
            return
        raise StoreUnavailable("; ".join(failures))

    async def _move_to(self, address: Address) -> None:
        """Use that master from now on. Calls under way at the old one may finish there."""
        if address == self._address:
            return
        old = self._connection
        self._address = address
        self._connection = RedisConnection(self._named.url_of(address), self._timeout_s)
        if old is not None:
            await old.retire()


def _address_in(reply: Any, sentinel: Address) -> Address:
    """The address in a Sentinel's reply.

    Raises:
        StoreError: the reply is not an address.
    """
    try:
        host, port = reply
        return Address(host.decode("ascii"), int(port))
    except (TypeError, ValueError, AttributeError):
        raise StoreError(f"sentinel {sentinel} answers {reply!r:.80}: expected the master's address") from None
