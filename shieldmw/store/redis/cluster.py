"""Calls to a Redis Cluster: finds the node that serves a key, and follows redirections. Knows nothing of buckets.

Each node has its own connection, so concurrent calls reach each node in one round trip, and all nodes at the same
time. The owners of slots are learnt from any node, and corrected by redirections.
"""

from __future__ import annotations

import asyncio
import logging
import random
from binascii import crc_hqx
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from shieldmw.core.text import harmless
from shieldmw.errors import NotApplied, StoreError, StoreUnavailable
from shieldmw.settings.store_url import Address, parse_servers
from shieldmw.store.scripts import PER_BUCKET_SCRIPTS

from .calls import Ask, ClusterDown, Command, Moved, TryAgain
from .connection import RedisConnection
from .topology import TopologyRefresher

log = logging.getLogger(__name__)

# Number of hash slots of a cluster (Redis Cluster specification, "Key distribution model").
SLOTS = 16_384

# Longest and shortest interval between two refreshes of the topology. MOVED reports changes, but not those of masters
# whose slots we do not use.
REFRESH_EVERY_S = 10.0
REFRESH_LEAST_S = 0.1

# Cool-down after a node times out, since requests to other nodes in the same batch wait for it.
REST_S = 0.2

# Pause between two attempts while a slot is moving or has no master, which takes milliseconds at best.
PAUSE_S = 0.005

# Shortest interval between two log lines saying that the same node is away.
LOG_EVERY_S = 10.0

T = TypeVar("T")

# A call to one node; the flag says whether to send ASKING first, because the slot is moving there.
NodeCall = Callable[[RedisConnection, bool], Awaitable[T]]


def slot_of(key: str) -> int:
    """The slot of a key, by its hash tag if it has one (Redis Cluster specification, "Hash tags")."""
    _, brace, rest = key.partition("{")
    tag, end, _ = rest.partition("}")
    return crc_hqx((tag if brace and end and tag else key).encode(), 0) % SLOTS


def owners_of(reply: Any, asked: Address) -> list[Address | None]:
    """The owner of each slot, from the reply to ``CLUSTER SLOTS``; a node without a host has that of ``asked``.

    Raises:
        StoreError: it is not such a reply.
    """
    owners: list[Address | None] = [None] * SLOTS
    try:
        for first, last, (host, port, *_), *_ in reply:
            owner = Address(host.decode("ascii") if host else asked.host, int(port))
            owners[first : last + 1] = [owner] * (last - first + 1)
    except (TypeError, ValueError, AttributeError):
        raise StoreError(f"CLUSTER SLOTS of {asked} is {reply!r:.200}: expected ranges of slots") from None
    return owners


class Cluster:
    """Makes calls to the nodes of a cluster, which are found through those that the URL names.

    A call that is redirected, or that no node can serve now, is tried again within ``timeout_s``: nothing was done.
    """

    slotted = True

    def __init__(self, url: str, timeout_s: float) -> None:
        self._named = parse_servers(url)
        # The cluster may call these nodes by other names, so connections to them are closed after each query.
        self._first = [
            (address, RedisConnection(self._named.url_of(address), timeout_s)) for address in self._named.addresses
        ]
        self._timeout_s = timeout_s
        self._owners: list[Address | None] = [None] * SLOTS
        self._nodes: dict[Address, RedisConnection] = {}
        self._rests_until_s: dict[Address, float] = {}
        self._away: set[Address] = set()
        self._logged_s: dict[Address, float] = {}
        self._topology = TopologyRefresher(
            self._refresh, every_s=REFRESH_EVERY_S, least_s=REFRESH_LEAST_S, within_s=timeout_s
        )

    async def run(self, script: str, keys: Sequence[str], arguments: Sequence[str | int | bytes]) -> object:
        """Run a script on the node that owns its keys.

        Raises:
            TryAgain: their slot is moving, and the script can be run for each of its keys alone.
        """

        def call(node: RedisConnection, asking: bool) -> Awaitable[object]:
            return node.run(script, keys, arguments, asking=asking)

        slot = slot_of(keys[0] if keys else "")
        return await self._follow(slot, call, waits=script not in PER_BUCKET_SCRIPTS)

    async def command(self, *command: str | int | bytes) -> Any:
        """Send one command to the owner of its key, the first argument. A channel counts as a key, though any node
        would do."""
        return await self._follow(_slot([command]), lambda node, asking: node.command(*command, asking=asking))

    async def transaction(self, *commands: Command) -> list[Any]:
        """Send several commands as a transaction to the owner of the first key."""
        return await self._follow(_slot(commands), lambda node, asking: node.transaction(*commands, asking=asking))

    async def messages(self, channel: str) -> AsyncIterator[bytes]:
        """The messages of a channel, from any master: each delivers all of them."""
        await self._owner(slot_of(channel))
        masters = self._masters()
        awake = [address for address in masters if not self._rests(address)]
        node = self._node(random.choice(awake or masters))
        with self._topology.watching():
            async with aclosing(node.messages(channel)) as messages:
                async for message in messages:
                    yield message

    async def infos(self) -> Mapping[str, bytes]:
        """Each master's INFO."""
        await self._topology.now()
        return {str(address): await self._node(address).command("INFO") for address in self._masters()}

    async def aclose(self) -> None:
        """Close all connections, and forget the owners."""
        await self._topology.aclose()
        nodes, self._nodes = self._nodes, {}
        self._owners = [None] * SLOTS
        for node in nodes.values():
            await node.aclose()

    # --- one call

    async def _follow(self, slot: int, call: NodeCall[T], *, waits: bool = True) -> T:
        """Call the owner of a slot, and follow redirections. ``waits``: also wait until the slot has moved."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._timeout_s
        address, asking = await self._owner(slot), False
        hops = 0
        while True:
            try:
                return await self._ask(address, call, asking)
            except (Moved, Ask) as elsewhere:
                failure = StoreUnavailable(str(elsewhere))
                address = Address(elsewhere.host or address.host, elsewhere.port)
                asking = isinstance(elsewhere, Ask)
                if not asking:
                    self._owners[slot] = address
                    self._topology.suspect()
            except (TryAgain, ClusterDown) as not_now:
                if isinstance(not_now, TryAgain) and not waits:
                    raise
                failure = not_now
                self._topology.suspect()
                await asyncio.sleep(PAUSE_S)
                address, asking = await self._owner(slot), False
            hops += 1
            if loop.time() > until_s:
                raise failure
            if hops > 2:  # two nodes may each name the other while a slot changes hands
                await asyncio.sleep(PAUSE_S)

    async def _ask(self, address: Address, call: NodeCall[T], asking: bool) -> T:
        """Call a node, unless it has just timed out."""
        loop = asyncio.get_running_loop()
        if self._rests(address):
            raise NotApplied(f"{address} has just been too slow")
        sent_s = loop.time()
        try:
            reply = await call(self._node(address), asking)
        except (TryAgain, ClusterDown):
            raise
        except StoreUnavailable as failure:
            if loop.time() - sent_s >= self._timeout_s:
                self._rests_until_s[address] = loop.time() + REST_S
            self._log_away(address, failure)
            self._topology.suspect()
            raise
        self._no_longer_away(address, "answers again")
        return reply

    def _log_away(self, address: Address, failure: StoreUnavailable) -> None:
        """Log once that a node is away, unless it is no longer part of the cluster."""
        now_s = asyncio.get_running_loop().time()
        if address in self._away or address not in self._nodes:
            return
        if now_s - self._logged_s.get(address, float("-inf")) >= LOG_EVERY_S:
            self._away.add(address)
            self._logged_s[address] = now_s
            log.warning("node %s of the cluster is away (%s)", address, harmless(failure))

    def _no_longer_away(self, address: Address, why: str) -> None:
        if address in self._away:
            self._away.remove(address)
            log.warning("node %s of the cluster %s", address, why)

    def _rests(self, address: Address) -> bool:
        return asyncio.get_running_loop().time() < self._rests_until_s.get(address, 0)

    def _node(self, address: Address) -> RedisConnection:
        if address not in self._nodes:
            self._nodes[address] = RedisConnection(self._named.url_of(address), self._timeout_s)
        return self._nodes[address]

    # --- owners of slots

    async def _owner(self, slot: int) -> Address:
        """The owner of a slot; queried only if it is not known."""
        self._topology.used()
        owner = self._owners[slot]
        if owner is None:
            await self._topology.now()
            owner = self._owners[slot]
        if owner is None:
            raise StoreUnavailable(f"no node of the cluster serves slot {slot}")
        return owner

    def _masters(self) -> list[Address]:
        """All owners, each once."""
        return [address for address in dict.fromkeys(self._owners) if address is not None]

    async def _refresh(self) -> None:
        """Learn the owners from the first node that answers, and drop nodes that own no slots any more."""
        failure = StoreError("no node was asked")
        async with aclosing(self._slot_replies()) as replies:
            async for asked, reply in replies:
                if not isinstance(reply, StoreError):
                    self._owners = owners_of(reply, asked)
                    break
                failure = type(reply)(f"{asked}: {reply}")
            else:
                raise failure
        self._rests_until_s = {address: s for address, s in self._rests_until_s.items() if self._rests(address)}
        masters = self._masters()
        for address in [address for address in self._nodes if address not in masters]:
            self._no_longer_away(address, "has been replaced")
            self._logged_s.pop(address, None)
            await self._nodes.pop(address).retire()

    async def _slot_replies(self) -> AsyncGenerator[tuple[Address, Any], None]:
        """Nodes' replies to ``CLUSTER SLOTS``, or their errors: of the known masters, then of those in the URL."""
        for address in sorted(_shuffled(self._masters()), key=self._rests):
            yield address, await _slots_by(self._node(address))
        for address, node in _shuffled(self._first):
            try:
                yield address, await _slots_by(node)
            finally:
                await node.aclose()


def _slot(commands: Sequence[Command]) -> int:
    """The slot of the first command that has a key."""
    keys: Iterator[str] = (str(command[1]) for command in commands if len(command) > 1)
    return slot_of(next(keys))


async def _slots_by(node: RedisConnection) -> Any:
    """A node's reply to ``CLUSTER SLOTS``, or its error."""
    try:
        return await node.command("CLUSTER", "SLOTS")
    except StoreError as error:
        return error


def _shuffled(nodes: Sequence[T]) -> list[T]:
    """The nodes in random order, so that the workers of a fleet do not all query the same one."""
    return random.sample(nodes, len(nodes))
