"""Moving slots and failovers in a Redis Cluster: no request is wrongly refused or admitted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import ip_network

import pytest

from servers import RedisCluster, slot_of
from shieldmw.core.bucket import Charge, Outcome
from shieldmw.core.deny import DenyEntry
from shieldmw.core.limits import Limit
from shieldmw.core.mode import Mode, ModeChange, ModeState
from shieldmw.core.seats import Audience, Capacity, Report
from shieldmw.store.documents import MODE
from shieldmw.store.port import Store
from store.fleets import (
    APART_US,
    SLOW,
    Reference,
    fleet,
    ipv6,
    key,
    off,
    owner,
    remaining,
    take,
    traffic_on,
    until,
    within_promise,
)
from store.stores import run, slow_limit, someone


def slot_of_site(site: int) -> int:
    """The slot of the buckets of a site."""
    client = ipv6(site, 0).site
    assert client is not None
    return slot_of(key(client, SLOW))


# --- a slot on the move ---------------------------------------------------------------------------


def test_a_slot_moves_while_requests_run(cluster: RedisCluster) -> None:
    """There, and back, a key at a time: every outcome is the reference's, so nobody is refused or let in falsely."""

    async def work() -> None:
        client = someone("on the move")
        slots = [slot_of(key(client, SLOW)), slot_of_site(7), slot_of(key(someone("both"), SLOW))]
        async with traffic_on(cluster, client) as traffic:
            for slot in slots * 2:
                move = cluster.move(slot)
                await off(move.begin)
                await traffic.goes_on()
                for name in move.left()[:3]:
                    await off(move.migrate, name)
                    await traffic.goes_on(2)
                await off(move.finish)
                await traffic.goes_on()

    run(work())
    keys = cluster.keys()
    assert len(set(keys)) == len(keys), "a bucket lies on two nodes"


def test_a_slot_that_stays_on_the_move_refuses_nobody(cluster: RedisCluster) -> None:
    """New buckets, buckets that have moved and buckets that have not, alone and together: all are decided exactly."""
    site = ipv6(9, 0).site
    assert site is not None
    limit = slow_limit(3)
    wide = slow_limit(12)

    async def all_ask(stores: Sequence[Store], reference: Reference, numbers: Sequence[int]) -> None:
        for number in numbers:
            charges = (Charge(ipv6(9, number).network, limit), Charge(site, wide))
            for store in stores:
                reference.check(charges, await take(store, *charges), APART_US)

    async def work() -> None:
        reference = Reference()
        async with fleet(cluster.url, 2) as stores:
            await all_ask(stores, reference, [0, 1])
            move = cluster.move(slot_of(key(site, wide)))
            move.begin()
            await all_ask(stores, reference, [0, 2])  # the site is still at the source, the second address is new
            move.migrate(key(ipv6(9, 1).network, limit))
            await all_ask(stores, reference, [1, 0])
            move.migrate(key(site, wide))
            await all_ask(stores, reference, [0, 3])  # now the site has moved
            await all_ask(stores, reference, [0, 1, 2, 3, 4])  # and is empty in between
            new = (Charge(ipv6(9, 5).network, limit), Charge(ipv6(9, 5).network, slow_limit(3, "another")))
            reference.check(new, await take(stores[0], *new), APART_US)  # neither was ever there
            move.finish()
            await all_ask(stores, reference, [0, 1, 2, 3, 4])
            assert await remaining(stores[0], site, wide) == 0

    run(work())
    keys = cluster.keys()
    assert len(set(keys)) == len(keys), "a bucket lies on two nodes"


def test_under_pressure_a_move_admits_no_more(cluster: RedisCluster) -> None:
    """Tasks of several workers on one bucket whose slot moves: never more than burst + rate * D, and not less."""
    # A pause of less than three seconds, while a node hands the slot over, does not fill it.
    limit = Limit("long", 20, 1, 60)

    async def work() -> None:
        client, outcomes = someone("hot"), list[Outcome]()
        over = False
        async with fleet(cluster.url, 3) as stores:

            async def ask(store: Store) -> None:
                while not over:
                    outcomes.append(await take(store, Charge(client, limit)))

            tasks = [asyncio.create_task(ask(stores[number % 3])) for number in range(12)]
            for _ in range(4):
                seen = len(outcomes)
                await until(lambda seen=seen: len(outcomes) > seen + 100, "outcomes")  # type: ignore[misc]
                move = cluster.move(slot_of(key(client, limit)))
                await off(move.begin)
                await asyncio.sleep(0.05)
                await off(move.finish)
            over = True
            await asyncio.gather(*tasks)
        assert within_promise(limit, outcomes)
        refused = max(outcome.now_us for outcome in outcomes if not outcome.allowed)
        span_us = refused - min(outcome.now_us for outcome in outcomes)
        earlier = [outcome for outcome in outcomes if outcome.now_us <= refused]
        assert sum(outcome.allowed for outcome in earlier) >= (limit.burst + span_us // limit.unit_us) * 0.5

    run(work())


def test_a_slot_that_moves_as_a_whole(cluster: RedisCluster) -> None:
    """As Valkey 9 moves slots by itself, without ASK: every outcome is the reference's."""
    if cluster.kind != "valkey":
        pytest.skip("Redis 7 cannot")

    async def work() -> None:
        client = someone("on the move")
        async with traffic_on(cluster, client) as traffic:
            for slot in [slot_of(key(client, SLOW)), slot_of_site(7)] * 2:
                target = cluster.other(cluster.owner(slot))
                await off(cluster.move_at_once, slot, target)
                await traffic.goes_on()

    run(work())


def test_the_control_slot_moves(cluster: RedisCluster) -> None:
    """Mode, audit, deny list and seats can be read and changed in the middle of their slots' moves, and are kept."""

    async def work() -> None:
        network = ip_network("198.51.100.0/24")
        async with fleet(cluster.url, 2) as stores:
            await stores[0].set_document(MODE, ModeChange(Mode.EMERGENCY, "ops"), was=ModeState(), expected_version=0)
            await stores[0].deny(DenyEntry(network, 4_000_000_000, "ops", "flood"))
            moves = [
                cluster.move(slot_of(f"shield:{name}")) for name in ("{control}:mode", "seats", "queue", "api-keys")
            ]
            for move in moves:
                move.begin()
            for store in stores:
                assert (await store.document(MODE)).state.version == 1
                assert (await store.queue(1, 0)).given >= 1
                assert (await store.seats(Report("w", Audience(), Audience(members=5)), Capacity(10, 0))).seats == 10
                assert (await store.api_keys(None)) is not None
            for move in moves:
                move.finish()
            for version, store in enumerate(stores, 1):
                was = (await store.document(MODE)).state
                assert was.version == version
                assert (
                    await store.set_document(MODE, ModeChange(Mode.NORMAL, "ops"), was=was, expected_version=version)
                )[0]
                deny_list = await store.deny_list(None)
                assert deny_list is not None
                assert [entry.network for entry in deny_list.entries] == [network]

    run(work())


def test_a_polite_failover_costs_nothing(cluster: RedisCluster) -> None:
    """A replica takes over under way, where no script was ever loaded: every outcome is the reference's.

    Redis 7 says CLUSTERDOWN for a moment, having done nothing.
    """

    async def work() -> None:
        client = someone("on the move")
        async with traffic_on(cluster, client, may_be_down=True) as traffic:
            [replica] = cluster.replicas(owner(cluster, client))
            await off(cluster.fail_over, replica)
            await traffic.goes_on()

    run(work())
