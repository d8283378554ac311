"""A lost deny list is restored once; an existing one, even an empty one, is kept."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network

from servers import RedisServer
from shieldmw.core.deny import MOST_ENTRIES, DenyEntry
from shieldmw.store.memory import MemoryStore
from shieldmw.store.port import DenyRegister
from store.stores import SECRET, opened, run

UNTIL_S = 4_102_444_800
DENIED = DenyEntry(ip_network("198.51.100.0/24"), UNTIL_S, "kim", "flood")
OTHER = DenyEntry(ip_network("2001:db8::/32"), UNTIL_S, "jo", "")


async def networks(store: DenyRegister) -> set[DenyEntry]:
    """What is denied."""
    deny_list = await store.deny_list(None)
    assert deny_list is not None
    return set(deny_list.entries)


def test_a_list_that_was_lost_is_told_once(server: RedisServer) -> None:
    """Many workers restore it at the same time: one succeeds, and the audit log has one entry."""

    async def story() -> None:
        async with opened(server.url) as store, opened(server.url) as another:
            stores = (store, another) * 10
            told = await asyncio.gather(*(one.restore_deny([DENIED, OTHER]) for one in stores))
            assert sum(told) == 1
            assert await networks(store) == {DENIED, OTHER}
            (entry,) = await store.audit(10)
            assert (entry.who, entry.what, entry.now) == ("shieldmw", "deny list", "2 networks")

    run(story())


def test_a_list_that_is_there_is_kept(server: RedisServer) -> None:
    """What operators say holds, also where they have taken off all there was."""

    async def story() -> None:
        async with opened(server.url) as store:
            await store.deny(OTHER)
            assert not await store.restore_deny([DENIED])
            assert await networks(store) == {OTHER}
            await store.undeny(str(OTHER.network), "kim")
            assert not await store.restore_deny([DENIED])
            assert await networks(store) == set()

    run(story())


def test_workers_hear_of_a_list_that_was_told_again(server: RedisServer) -> None:
    """It has a version that none had before, and is told on the channel of changes."""

    async def story() -> None:
        async with opened(server.url) as store:
            changes = store.changes()
            assert await anext(changes) == ""
            assert await store.restore_deny([DENIED])
            assert await anext(changes) == "deny"
            deny_list = await store.deny_list(None)
            assert deny_list is not None
            assert deny_list.version > 0
            await changes.aclose()  # type: ignore[attr-defined]

    run(story())


def test_the_longest_list_is_told_in_one_call(server: RedisServer) -> None:
    """As many networks as there can be are back at once."""
    entries = [DenyEntry(ip_network(f"10.{n >> 8}.{n & 255}.0/24"), UNTIL_S, "kim", "") for n in range(MOST_ENTRIES)]

    async def story() -> None:
        async with opened(server.url) as store:
            assert await store.restore_deny(entries)
            assert await networks(store) == set(entries)

    run(story())


def test_memory_loses_nothing() -> None:
    """The store of one process has its list as long as there is a worker who could know it."""
    store = MemoryStore(SECRET)
    run(store.deny(OTHER))
    assert not run(store.restore_deny([DENIED]))
    assert run(networks(store)) == {OTHER}
