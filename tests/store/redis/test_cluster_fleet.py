"""Everything except buckets in a Redis Cluster: the mode, seats, API keys, the deny list, announcements."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network

from servers import RedisCluster
from shieldmw.core.api_keys import ApiKey
from shieldmw.core.bucket import Charge
from shieldmw.core.client import Identity
from shieldmw.core.deny import DenyEntry
from shieldmw.core.mode import Mode, ModeChange, ModeState
from shieldmw.core.overrides import Overrides, OverridesChange, OverridesState
from shieldmw.core.seats import Audience, Capacity, Report
from shieldmw.errors import StoreUnavailable
from shieldmw.store.documents import LIMITS, MODE
from shieldmw.store.port import AuditEntry
from store.fleets import (
    ONCE,
    clients_of,
    fleet,
    listening,
    off,
    opened,
    patiently,
    remaining,
    take,
    until,
)
from store.stores import run, slow_limit, someone

# --- what is not a bucket -------------------------------------------------------------------------


def test_changes_are_heard_on_every_worker(cluster: RedisCluster) -> None:
    """Whichever nodes they listen at: mode, limits, deny list and a refilled client are told at once."""

    async def work() -> None:
        async with (
            fleet(cluster.url, 2) as stores,
            listening(stores[0]) as first,
            listening(stores[1]) as second,
        ):
            await stores[0].set_document(
                MODE, ModeChange(Mode.EMERGENCY, "ops"), was=ModeState(), expected_version=None
            )
            limits = OverridesChange(Overrides({"SHIELD_IP_LIMIT": "1/second"}), "ops")
            _, kept = await stores[1].set_document(LIMITS, limits, was=OverridesState(), expected_version=0)
            assert kept.state == (await stores[0].document(LIMITS)).state
            assert (kept.state.version, kept.state.overrides) == (1, limits.overrides)
            await stores[1].deny(DenyEntry(ip_network("198.51.100.0/24"), 4_000_000_000, "ops", "flood"))
            await stores[0].refill(someone(), ["ip"])
            wanted = ["client", "deny", "limits", "mode"]  # nodes tell in no order
            for heard in (first, second):
                await until(lambda heard=heard: len(heard) >= 5, "four changes")  # type: ignore[misc]
                assert sorted(word.partition(" ")[0] for word in heard[1:]) == wanted

    run(work())


@ONCE
def test_changes_are_heard_again_after_a_node_died(cluster: RedisCluster) -> None:
    """The node where a worker listened is killed: within seconds it listens elsewhere."""

    async def work() -> None:
        async with fleet(cluster.url, 2) as stores, listening(stores[0]) as heard:
            channel = "shield:{control}:changes"
            [node] = [each for each in cluster.nodes if cluster.command(each, "PUBSUB NUMSUB", channel)[0][1]]
            cluster.hurry()
            node.kill()
            await off(cluster.wait_until_converged)

            async def told() -> bool:
                try:
                    await stores[1].note(AuditEntry(0, "ops", "test", "", "", ""))
                except StoreUnavailable:
                    return False
                return "audit" in heard

            await patiently(told, "the word")

    run(work())
    cluster.wait_until_converged()


def test_the_mode_has_one_version_for_all(cluster: RedisCluster) -> None:
    """One of several concurrent operators wins and is in the audit log; a fleet restores what a cluster has lost."""

    async def work() -> None:
        change = ModeChange(Mode.EMERGENCY, "ops", "attack", 60, 500, 0.25)
        async with fleet(cluster.url, 3) as stores:
            done = await asyncio.gather(
                *(store.set_document(MODE, change, was=ModeState(), expected_version=0) for store in stores)
            )
            assert sorted(changed for changed, _ in done) == [False, False, True]
            kept = (await stores[0].document(MODE)).state
            assert (kept.version, kept.mode, kept.capacity) == (1, Mode.EMERGENCY, 500)
            await stores[1].note(AuditEntry(0, "ops", "test", "was", "now", "why"))
            assert [entry.what for entry in await stores[2].audit(5)] == ["test", "mode"]
            for master in cluster.masters():
                cluster.command(master, "FLUSHALL")
            assert (await stores[1].restore_document(MODE, kept)).state.version == 1
            assert (await stores[2].document(MODE)).state.capacity == 500

    run(work())


def test_seats_never_exceed_the_capacity(cluster: RedisCluster) -> None:
    """Three workers' grants sum to the capacity at most; seats and numbers are the fleet's."""

    async def work() -> None:
        capacity, wanted = Capacity(10, 4), Audience(members=6, guests=6)
        async with fleet(cluster.url, 3) as stores:
            for _ in range(3):
                grants = [
                    await store.seats(Report(f"worker {number}", Audience(), wanted), capacity)
                    for number, store in enumerate(stores)
                ]
            assert 0 < sum(grant.seats for grant in grants) <= 10
            assert {grant.workers for grant in grants} == {3}
            await stores[0].release_seats("worker 2")
            assert (await stores[1].seats(Report("worker 1", Audience(), wanted), capacity)).workers == 2
            numbers = [await store.queue(10, 0) for store in stores]
            assert len({number.given for number in numbers}) == 3

    run(work())


def test_keys_of_the_fleet_are_shared(cluster: RedisCluster) -> None:
    """API keys, the deny list and the secret that was made are the same for every worker."""

    async def work() -> None:
        issued = ApiKey("0" * 32, Identity("alice"), 1_700_000_000)
        network = ip_network("198.51.100.0/24")
        async with opened(cluster.url, secret=None) as one, opened(cluster.url, secret=None) as other:
            assert await one.secret() == await other.secret()
            await one.add_api_key(issued)
            await one.deny(DenyEntry(network, 4_000_000_000, "ops", "flood"))
            table, deny_list = await other.api_keys(None), await other.deny_list(None)
            assert table is not None
            assert deny_list is not None
            assert table.entries == {issued.digest: issued}
            assert [entry.network for entry in deny_list.entries] == [network]
            assert await other.revoke_api_keys([issued.digest]) == 1
            assert await other.undeny(str(network), "ops")
            assert await one.deny_list(deny_list.version) is not None
            limit = slow_limit(2)
            assert (await take(one, Charge(someone(), limit, 2))).allowed
            assert not (await take(other, Charge(someone(), limit))).allowed

    run(work())


def test_a_refilled_client_is_full(cluster: RedisCluster) -> None:
    """All its buckets, on whatever node they are, and nobody else's."""

    async def work() -> None:
        clients = clients_of(cluster, 1)
        limits = [slow_limit(3, name) for name in ("a", "b")]
        async with fleet(cluster.url, 2) as stores:
            for client in clients:
                await take(stores[0], *(Charge(client, limit, 3) for limit in limits))
            for number, client in enumerate(clients):
                await stores[1].refill(client, [limit.name for limit in limits])
                left = [await remaining(stores[0], client, limits[0]) for client in clients]
                assert left == [3] * (number + 1) + [0] * (len(clients) - number - 1)

    run(work())
