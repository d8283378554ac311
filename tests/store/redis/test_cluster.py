"""The store in a Redis Cluster: as exact as in one server, over all nodes, and for charges in different slots."""

from __future__ import annotations

import asyncio
import random

import pytest

from servers import RedisCluster, slot_of
from shieldmw.core.bucket import Charge, Outcome, TakeRequest, statuses
from shieldmw.core.client import Client
from shieldmw.core.limits import Limit, aggregate
from store.fleets import (
    APART_US,
    SLOW,
    Reference,
    clients_of,
    fleet,
    ipv6,
    opened,
    remaining,
    take,
)
from store.stores import run, slow_limit, someone

# --- as exact as one server -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_random_traces_are_decided_as_the_reference_does(cluster: RedisCluster, seed: int) -> None:
    """Several requests in a call, over all nodes, some for the same client: to the last digit what core/bucket says."""
    dice = random.Random(seed)
    limits = [Limit("a", 2000, 1, 20), Limit("b", 50, 1, 7), slow_limit(60, "c")]
    clients = clients_of(cluster, 4)
    sites = [(ipv6(site, number), Limit("d", 100, 1, 4)) for site in range(3) for number in range(3)]

    def asked() -> TakeRequest:
        if dice.random() < 0.2:
            address, limit = dice.choice(sites)
            assert address.site is not None
            return TakeRequest((Charge(address.network, limit), Charge(address.site, aggregate(limit))))
        client = dice.choice(clients)
        chosen = dice.sample(limits, dice.randint(1, 3))
        return TakeRequest(tuple(Charge(client, limit, dice.choice([0, 1, 1, 2, limit.burst])) for limit in chosen))

    async def work() -> None:
        reference, verdicts = Reference(), set()
        async with opened(cluster.url) as store:
            for _ in range(150):
                requests = [asked() for _ in range(dice.choice([1, 2, 8, 40]))]
                outcomes = await store.take(requests)
                assert len(outcomes) == len(requests)
                for ask, outcome in zip(requests, outcomes, strict=True):
                    reference.check(ask.charges, outcome)
                    verdicts.add(outcome.allowed)
        assert verdicts == {True, False}

    run(work())


def test_many_workers_share_each_bucket_exactly(cluster: RedisCluster) -> None:
    """Four workers with fifty tasks each on the buckets of fifteen clients: to each its burst, not one more or less."""

    async def work() -> None:
        limit, clients = slow_limit(37), clients_of(cluster, 5)
        async with fleet(cluster.url, 4) as stores:

            async def ask(number: int) -> None:
                for turn in range(8):
                    client = clients[(number + turn) % len(clients)]
                    outcome = await take(stores[number % 4], Charge(client, limit))
                    got[client] += outcome.allowed

            got = dict.fromkeys(clients, 0)
            await asyncio.gather(*(ask(number) for number in range(200)))
            assert got == dict.fromkeys(clients, 37)
        assert all(cluster.dbsizes())

    run(work())


def test_a_client_has_one_slot(cluster: RedisCluster) -> None:
    """All buckets of a client, and those of a site and its addresses, lie in one slot; clients are on all nodes."""

    async def work() -> None:
        limits = [slow_limit(5, name) for name in ("a", "b", "c")]
        async with opened(cluster.url) as store:
            for number in range(30):
                await take(store, *(Charge(someone(str(number)), limit) for limit in limits))
            for number in range(5):
                address = ipv6(0, number)
                assert address.site is not None
                assert (await take(store, Charge(address.network, SLOW), Charge(address.site, aggregate(SLOW)))).allowed

    run(work())
    keys = cluster.keys()
    assert len(keys) == 30 * 3 + 5 + 1
    assert len({name.partition("}")[0] for name in keys}) == 31
    assert len({slot_of(name) for name in keys}) > 20
    assert all(cluster.dbsizes())


def test_a_batch_takes_few_calls(cluster: RedisCluster) -> None:
    """Three hundred decisions that come together cost each node no more calls than it has clients among them."""

    async def work() -> None:
        clients = clients_of(cluster, 20)
        async with opened(cluster.url) as store:
            await store.take([TakeRequest((Charge(client, SLOW, 0),)) for client in clients])
            for node in cluster.nodes:
                cluster.command(node, "CONFIG RESETSTAT")
            requests = [TakeRequest((Charge(client, SLOW),)) for client in clients for _ in range(5)]
            assert all(outcome.allowed for outcome in await store.take(requests))
            calls = cluster.calls("evalsha", "eval")
            assert max(calls) <= 20
            assert sum(calls) <= 60

    run(work())


def test_scripts_that_one_node_forgot_are_loaded_again(cluster: RedisCluster) -> None:
    """SCRIPT FLUSH on any of the masters is noticed by nobody."""

    async def work() -> None:
        clients = clients_of(cluster, 2)
        async with opened(cluster.url) as store:
            for number, master in enumerate(cluster.masters()):
                cluster.command(master, "SCRIPT FLUSH")
                outcomes = await store.take([TakeRequest((Charge(client, SLOW),)) for client in clients])
                assert [outcome.allowed for outcome in outcomes] == [True] * 6
                assert [await remaining(store, client, SLOW) for client in clients] == [4 - number] * 6

    run(work())


def test_cancelled_requests_shift_no_reply(cluster: RedisCluster) -> None:
    """Requests that go away while they wait never leave their reply to another."""

    async def work() -> None:
        dice, clients = random.Random(1), clients_of(cluster, 10)
        limits = {client: slow_limit(number + 1) for number, client in enumerate(clients)}
        async with opened(cluster.url) as store:
            for _ in range(20):
                tasks = [asyncio.create_task(take(store, Charge(client, limits[client], 0))) for client in clients]
                await asyncio.sleep(dice.random() / 500)
                for task in dice.sample(tasks, 15):
                    task.cancel()
                for client, outcome in zip(clients, await asyncio.gather(*tasks, return_exceptions=True), strict=True):
                    if isinstance(outcome, Outcome):
                        look = (Charge(client, limits[client], 0),)
                        assert statuses(look, outcome)[0].remaining == limits[client].burst
            for client in clients:
                assert await remaining(store, client, limits[client]) == limits[client].burst

    run(work())


# --- charges in different slots -------------------------------------------------------------------


def token_and_address(token: str, address: str, token_burst: int, address_burst: int) -> tuple[Charge, Charge]:
    """What a member is charged where everyone on an address is."""
    network = Client("ip", address, f"ip:{address}")
    return (
        Charge(someone(token), slow_limit(token_burst, "token")),
        Charge(network, slow_limit(address_burst, "address")),
    )


def dumps(cluster: RedisCluster) -> dict[str, bytes]:
    """The value of each key, as it is kept."""
    return {name: value for name, (value, _) in cluster.everything().items()}


@pytest.mark.parametrize("used", [0, 2], ids=["untouched", "used"])
@pytest.mark.parametrize("empty", [0, 1], ids=["token is empty", "address is empty"])
def test_charges_in_two_slots_are_all_or_nothing(cluster: RedisCluster, empty: int, used: int) -> None:
    """Whichever of them refuses, on whatever nodes they lie: the other's bucket is what it was, and so is every key."""

    async def work() -> None:
        async with opened(cluster.url) as store:
            for number in range(12):
                bursts = [9, 9]
                bursts[empty] = 2
                charges = token_and_address(f"member {number}", f"192.0.2.{number}/32", *bursts)
                for charge in charges[:: 1 if used else -1] if used else [charges[empty]]:
                    assert (await take(store, charge._replace(cost=2))).allowed
                before = dumps(cluster)
                for _ in range(3):
                    refused = await take(store, *charges)
                    stand = statuses(charges, refused)
                    assert [level.retry_after_us > 0 for level in stand] == [empty == 0, empty == 1]
                    assert [level.remaining for level in stand] == [
                        0 if number == empty else 9 - used for number in range(2)
                    ]
                assert dumps(cluster) == before

    run(work())


def test_charges_in_two_slots_are_taken_together(cluster: RedisCluster) -> None:
    """Each of them is charged, and the outcome tells each bucket in the order of the charges."""

    async def work() -> None:
        async with opened(cluster.url) as store:
            for number in range(12):
                charges = token_and_address(f"member {number}", f"192.0.2.{number}/32", 9, 7)
                reference = Reference()
                for turned in (charges, charges[::-1], charges):
                    reference.check(turned, await take(store, *turned), APART_US)
                left = [await remaining(store, charge.client, charge.limit) for charge in charges]
                assert left == [6, 4]

    run(work())


def test_many_at_once_in_two_slots_waste_nothing(cluster: RedisCluster) -> None:
    """Members on one address: as many pass as the address holds, and each token has paid for those that passed.

    Refunds under others leave the milliseconds that they took: of a unit that takes a day, nothing.
    """

    async def work() -> None:
        async with fleet(cluster.url, 3) as stores:
            members = [token_and_address(f"member {number}", "192.0.2.1/32", 5, 20) for number in range(10)]

            async def ask(number: int) -> None:
                outcome = await take(stores[number % 3], *members[number % 10])
                got[number % 10] += outcome.allowed

            got = [0] * 10
            await asyncio.gather(*(ask(number) for number in range(100)))
            assert sum(got) == 20
            looks = [await take(stores[0], token._replace(cost=0)) for token, _ in members]
            paid = [(look.tats_us[0] - look.now_us) / members[0][0].limit.unit_us for look in looks]
            assert paid == pytest.approx(got, abs=0.001)
            address = members[0][1]
            assert await remaining(stores[0], address.client, address.limit) == 0

    run(work())
