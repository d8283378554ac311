"""A flood of new clients leaves only numbers in memory, no objects for Python's garbage collector to traverse."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import pytest

from gate.doubles import FakeClock, LeasingStore, WorkerParts, facts, nth_address, run, worker
from shieldmw.core.facts import Facts
from shieldmw.gate.limiter.leases import CLIENTS_KEPT, MOST_LEASES
from shieldmw.gate.limiter.lookups import PATHS_KEPT

CLIENTS = 50_000
AT_ONCE = 500


def at_home(number: int) -> Facts:
    """From an IPv4 address."""
    return facts(peer=nth_address(number))


def behind_a_proxy(number: int) -> Facts:
    """Behind the same proxy, on paths that nobody has asked for."""
    path = f"/{number}"
    return facts(peer="127.0.0.1", path=path)._replace(forwarded=(nth_address(number),))


def at_a_site(number: int) -> Facts:
    """From an IPv6 address; 256 belong to one site."""
    return facts(peer=f"2001:db8:{number >> 8:x}:{number & 0xFF:x}::7")


async def flood(one: WorkerParts, asked: Callable[[int], Facts], first: int, count: int) -> int:
    """``count`` new clients send three requests each at once; returns how many were refused."""
    refused = 0
    for start in range(first, first + count, AT_ONCE):
        numbers = range(start, start + AT_ONCE)
        for _ in range(3):
            decisions = await asyncio.gather(*(one.gate.decide(asked(number)) for number in numbers))
            refused += sum(decision.refused for decision in decisions)
    return refused


def walked_over() -> int:
    """How many objects the garbage collector walks over."""
    gc.collect()
    return len(gc.get_objects())


@pytest.mark.thorough
@pytest.mark.parametrize("asked", [at_home, behind_a_proxy, at_a_site])
def test_a_flood_of_new_clients_leaves_no_objects(asked: Callable[[int], Facts]) -> None:
    """Once the tables are there: allowed, then refused by the store, then by what is known."""
    clock = FakeClock()
    one = worker(LeasingStore(clock), clock, ip_limit="1/day", trusted_proxies="127.0.0.1")

    async def story() -> None:
        await flood(one, asked, 0, 2 * PATHS_KEPT // AT_ONCE * AT_ONCE)
        before = walked_over()
        refused = await flood(one, asked, CLIENTS, CLIENTS)
        grown = walked_over() - before
        assert refused >= 2 * CLIENTS
        assert grown < 100
        assert len(one.leases._asked_us) <= CLIENTS_KEPT
        assert len(one.leases._paces) <= 2 * MOST_LEASES
        assert len(one.leases.open) + len(one.leases._asking) == 0
        assert len(one.gate._lookups.routes) <= PATHS_KEPT
        assert len(one.gate._lookups._by_rules) <= 2

    run(story())


@pytest.mark.thorough
def test_a_flood_of_hot_clients_opens_no_more_than_so_many_leases() -> None:
    """The others ask for each of their requests, and nothing is kept of them but numbers."""
    clock = FakeClock()
    one = worker(LeasingStore(clock), clock, ip_limit="10000/day")

    async def story() -> None:
        await flood(one, at_home, 0, 2 * MOST_LEASES // AT_ONCE * AT_ONCE)
        assert len(one.leases.open) == MOST_LEASES
        before = walked_over()
        assert await flood(one, at_home, CLIENTS, CLIENTS) == 0
        assert walked_over() - before < 100
        assert (len(one.leases.open), len(one.leases._asking)) == (MOST_LEASES, 0)

    run(story())
