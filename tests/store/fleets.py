"""Shared by the tests of Cluster and Sentinel: stores opened as by the settings, and what a bucket must contain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import pytest

from core.addresses import clients_at
from servers import RedisCluster, RedisServer, slot_of
from shieldmw.core import bucket
from shieldmw.core.bucket import Charge, Outcome, TakeRequest, statuses
from shieldmw.core.client import AddressClients, Client
from shieldmw.core.limits import Limit, aggregate
from shieldmw.errors import StoreUnavailable
from shieldmw.gate.fleet.changes import ChangeListener
from shieldmw.settings import Settings
from shieldmw.store.keys import Keys
from shieldmw.store.opener import store_opener
from shieldmw.store.port import Store
from store.stores import PREFIX, SECRET, slow_limit, someone

T = TypeVar("T")

KEYS = Keys(PREFIX, SECRET)

# What takes seconds and depends little on the kind of server.
ONCE = pytest.mark.parametrize("kind", ["valkey"], indirect=True, scope="session")

# The longest budget there is: a failure is none of a busy machine's.
AMPLE_MS = 10_000

PATIENCE_S = 20.0

# By how much the clocks of two nodes, read one after the other, may differ in a decision that asked both.
APART_US = 5_000_000


def fleet_store(url: str, *, timeout_ms: int = AMPLE_MS, secret: bytes | None = SECRET) -> Store:
    """The store of one worker at a URL, as the settings open it."""
    given = None if secret is None else secret.decode()
    return store_opener(Settings(redis_url=url, redis_timeout_ms=timeout_ms, key_prefix=PREFIX, secret=given))()


@asynccontextmanager
async def opened(url: str, *, timeout_ms: int = AMPLE_MS, secret: bytes | None = SECRET) -> AsyncIterator[Store]:
    """The same, closed at the end."""
    store = fleet_store(url, timeout_ms=timeout_ms, secret=secret)
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def fleet(url: str, workers: int) -> AsyncIterator[list[Store]]:
    """The stores of several workers."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(opened(url)) for _ in range(workers)]


async def take(store: Store, *charges: Charge) -> Outcome:
    """One request's charges."""
    [outcome] = await store.take([TakeRequest(charges)])
    return outcome


async def remaining(store: Store, client: Client, limit: Limit) -> int:
    """How many units a bucket still has; takes none."""
    look = (Charge(client, limit, 0),)
    return statuses(look, await take(store, *look))[0].remaining


def key(client: Client, limit: Limit) -> str:
    """Where a bucket lies."""
    return KEYS.bucket_of(client, limit.name)


def ipv6(site: int, number: int) -> AddressClients:
    """A /64 of a /56: both are charged, and share a slot."""
    return clients_at(f"2001:db8:{site:x}:{number:x}::1")


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition, but not for ever."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 - what happens on a server tells no event
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"still waiting for {what}") from None


class Reference:
    """The buckets as `core/bucket.py` keeps them; one request after the other on each."""

    def __init__(self) -> None:
        self._tats: dict[str, int] = {}

    def check(self, charges: Sequence[Charge], outcome: Outcome, apart_us: int = 0) -> None:
        """The outcome is the reference's by the clock it was made by, give or take so many microseconds."""
        names = [key(charge.client, charge.limit) for charge in charges]
        expected = bucket.take([self._tats.get(name) for name in names], TakeRequest(tuple(charges)), outcome.now_us)
        assert outcome.allowed == expected.allowed, f"{outcome} instead of {expected}"
        assert len(outcome.tats_us) == len(charges)
        for found, wanted in zip(outcome.tats_us, expected.tats_us, strict=True):
            assert abs(found - wanted) <= apart_us, f"{outcome} instead of {expected}"
        if outcome.allowed:
            for name, charge, tat_us in zip(names, charges, outcome.tats_us, strict=True):
                if charge.cost:
                    self._tats[name] = tat_us


def within_promise(limit: Limit, outcomes: Sequence[Outcome]) -> bool:
    """Whether no more passed, of requests that cost 1, than burst + rate * D."""
    times = [outcome.now_us for outcome in outcomes]
    span_us = max(times) - min(times)
    return sum(outcome.allowed for outcome in outcomes) <= limit.burst + span_us // limit.unit_us


# --- a cluster and its clients

SLOW = slow_limit(5)
FAST = Limit("fast", 200, 1, 20)


def owner(cluster: RedisCluster, client: Client) -> RedisServer:
    """The master that a client's buckets live on."""
    return cluster.owner(slot_of(key(client, SLOW)))


def clients_of(cluster: RedisCluster, count: int) -> list[Client]:
    """``count`` clients on each master."""
    found: dict[int, list[Client]] = {master.port: [] for master in cluster.masters()}
    number = 0
    while any(len(clients) < count for clients in found.values()):
        client = someone(f"client {number}")
        here = found[owner(cluster, client).port]
        if len(here) < count:
            here.append(client)
        number += 1
    return [client for clients in found.values() for client in clients]


async def off(work: Callable[..., T], *arguments: Any) -> T:
    """What is done to the servers, beside the requests."""
    return await asyncio.to_thread(work, *arguments)


async def patiently(condition: Callable[[], Any], what: str) -> None:
    """Ask until it is so, but not for ever."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not await condition():  # noqa: ASYNC110 - what happens on a server tells no event
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"still waiting for {what}") from None


@asynccontextmanager
async def listening(store: Store) -> AsyncIterator[list[str]]:
    """What a worker hears of changes, as it comes; once it listens."""
    heard: list[str] = []
    listener = ChangeListener(store, heard.append)
    await listener.start()
    try:
        await until(lambda: "" in heard, "the subscription")
        yield heard
    finally:
        await listener.stop()


# --- requests under way, whatever happens to the cluster


class Traffic:
    """Requests under way, each client's one after the other, compared with the reference."""

    def __init__(self, stores: Sequence[Store], *, may_be_down: bool) -> None:
        self.counts: list[int] = []
        self.failures: list[BaseException] = []
        self._stores = stores
        self._may_be_down = may_be_down
        self._reference = Reference()
        self._tasks: list[asyncio.Task[None]] = []
        self._over = False

    def start(self, charges: Sequence[tuple[Charge, ...]]) -> None:
        """Begin to ask for these in turn; what is asked together is another's task."""
        self.counts.append(0)
        self._tasks.append(asyncio.create_task(self._ask(len(self.counts) - 1, charges)))

    async def _ask(self, place: int, charges: Sequence[tuple[Charge, ...]]) -> None:
        try:
            while not self._over:
                await self._ask_once(place, charges[self.counts[place] % len(charges)])
        except BaseException as error:
            self.failures.append(error)

    async def _ask_once(self, place: int, asked: tuple[Charge, ...]) -> None:
        """One request; where the cluster said that it is down, nothing was charged."""
        store = self._stores[self.counts[place] % len(self._stores)]
        try:
            outcome = await take(store, *asked)
        except StoreUnavailable:
            if not self._may_be_down:
                raise
            await asyncio.sleep(0.01)
        else:
            self._reference.check(asked, outcome, APART_US if len(asked) > 1 else 0)
            self.counts[place] += 1

    async def goes_on(self, more: int = 5) -> None:
        """Wait until each task has had some more outcomes, or one has failed."""
        wanted = [count + more for count in self.counts]
        await until(
            lambda: bool(self.failures) or all(a >= b for a, b in zip(self.counts, wanted, strict=True)), "outcomes"
        )
        self._tell()

    def _tell(self) -> None:
        """Raise the first failure, if there was one."""
        if self.failures:
            raise self.failures[0]

    async def end(self) -> None:
        """The last outcomes."""
        self._over = True
        await asyncio.gather(*self._tasks)
        self._tell()


@asynccontextmanager
async def traffic_on(
    cluster: RedisCluster, client: Client, site: int = 7, *, may_be_down: bool = False
) -> AsyncIterator[Traffic]:
    """Two workers, asked for a client and others on every node, for a site and for charges in two slots.

    A worker may be told that the store is away only where the cluster may be down for a moment.
    """
    others = clients_of(cluster, 2)
    limits = [FAST, Limit("b", 100, 1, 10), slow_limit(3, "c")]
    addresses = [ipv6(site, number) for number in range(8)]
    wide = slow_limit(1000)
    pairs = [(Charge(a.network, wide), Charge(a.site, aggregate(wide))) for a in addresses if a.site is not None]
    async with fleet(cluster.url, 2) as stores:
        traffic = Traffic(stores, may_be_down=may_be_down)
        traffic.start([(Charge(client, limit),) for limit in limits])
        for other in others:
            traffic.start([(Charge(other, FAST),)])
        traffic.start(pairs)
        traffic.start(
            [(Charge(someone("both"), slow_limit(50, "one")), Charge(someone("both"), slow_limit(90, "two")))]
        )
        await traffic.goes_on()
        yield traffic
        await traffic.end()
