"""What every store promises: one suite for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from dataclasses import replace
from typing import cast

import pytest

from core.addresses import clients_at
from servers import RedisCluster, RedisKind, RedisSentinels, redis_cluster, redis_sentinels, redis_server
from shieldmw.core import top
from shieldmw.core.api_keys import ApiKey, derive_digest_key, digest
from shieldmw.core.bucket import Charge, statuses
from shieldmw.core.client import Client, Identity, ListenerClass, shared_client
from shieldmw.core.debts import Debt
from shieldmw.core.distinct import Distinct
from shieldmw.core.lease import Unspent
from shieldmw.core.limits import aggregate
from shieldmw.core.load import FRESH_S, WorkerLoad
from shieldmw.core.metrics import FLEET_DECISIONS
from shieldmw.core.portion import PortionRequest
from shieldmw.core.seats import Audience
from shieldmw.core.top import Kind, Ranking, Tally, TopReport
from shieldmw.store.memory import MemoryStore
from shieldmw.store.port import Store
from store.fleets import fleet_store
from store.rights import user_without
from store.stores import SECRET, one, proven, redis_store, run, slow_limit, someone, take

Open = Callable[[], AbstractAsyncContextManager[Store]]

DIGEST_KEY = derive_digest_key(SECRET)

FLEETS: dict[str, Callable[[], AbstractContextManager[RedisCluster | RedisSentinels]]] = {
    "cluster": lambda: redis_cluster("valkey"),
    "sentinel": lambda: redis_sentinels("redis"),
}


@pytest.fixture(scope="module", params=["memory", "valkey", "redis", "redis with few rights", *FLEETS])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[[], Store]]:
    """What makes a new, empty store of each kind."""
    if request.param == "memory":
        yield lambda: MemoryStore(SECRET, now_us=lambda: 50_000_000_000_000)
        return
    if request.param in FLEETS:
        with FLEETS[request.param]() as whole:

            def make_on_empty_fleet() -> Store:
                whole.flush()
                return fleet_store(whole.url)

            yield make_on_empty_fleet
        return
    with redis_server(cast(RedisKind, request.param.partition(" ")[0])) as server:
        url = server.url if " " not in request.param else user_without(server, None)

        def make_on_empty_server() -> Store:
            server.client().flushall()
            return redis_store(url)

        yield make_on_empty_server


@pytest.fixture
def open_store(make: Callable[[], Store]) -> Open:
    """What opens a new, empty store and closes it at the end."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Store]:
        store = make()
        try:
            yield store
        finally:
            await store.aclose()

    return opened


async def allowed(store: Store, charges: Iterable[Charge]) -> bool:
    """Whether the charges are taken."""
    return (await take(store, charges)).allowed


async def remaining(store: Store, client: Client, burst: int, name: str = "ip") -> int:
    """How many units a bucket still has; takes none."""
    charges = one(slow_limit(burst, name), 0, client)
    return statuses(charges, await take(store, charges))[0].remaining


# --- portions -------------------------------------------------------------------------------------


def test_portions_come_from_the_bucket_that_charges_are_taken_from(open_store: Open) -> None:
    """Several units at once, as many as there are; what is unspent goes back if nobody has charged it since."""

    async def work() -> None:
        async with open_store() as store:
            guests, votes = shared_client("guests", "guests"), shared_client("everyone", "votes")
            limit = slow_limit(10, "guests")
            charge = Charge(guests, limit)
            first = await store.portion(PortionRequest(charge, 4))
            assert (first.units, first.tat_us) == (4, first.now_us + 4 * limit.unit_us)
            assert await remaining(store, guests, 10, "guests") == 6
            assert (await store.portion(PortionRequest(charge, 9, least=7))).units == 0
            second = await store.portion(PortionRequest(charge, 9))
            assert second.units == 6
            assert not await allowed(store, [charge])
            await store.give_back([Unspent(charge, first.tat_us, 4 * limit.unit_us)])
            assert await remaining(store, guests, 10, "guests") == 0
            await store.give_back([Unspent(charge, second.tat_us, 5 * limit.unit_us)])
            assert await remaining(store, guests, 10, "guests") == 5
            assert await remaining(store, votes, 10, "votes") == 10

    run(work())


# --- taking ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("burst", [1, 2, 7, 1000])
def test_a_full_bucket_holds_its_burst_and_not_one_more(open_store: Open, burst: int) -> None:
    """Capacity equals burst exactly, whether it is taken one by one or at once."""

    async def work() -> None:
        async with open_store() as store:
            taken = [await allowed(store, one(slow_limit(burst))) for _ in range(burst + 1)]
            assert taken == [True] * burst + [False]
            bob = someone("bob")
            assert await allowed(store, one(slow_limit(burst), burst, bob))
            assert not await allowed(store, one(slow_limit(burst), 1, bob))

    run(work())


def test_what_is_owed_is_charged_whether_it_fits_or_not(open_store: Open) -> None:
    """Debts of several clients are charged at once; no bucket is overdrawn too far, and no other is touched."""

    async def work() -> None:
        alice, bob, carol = map(someone, ("alice", "bob", "carol"))
        (of_alice,), (of_bob,) = one(slow_limit(10), client=alice), one(slow_limit(10), client=bob)
        async with open_store() as store:
            for client in (alice, bob, carol):
                assert await allowed(store, one(slow_limit(10), 3, client))
            debts = [
                Debt(charge, 1, n * charge.step_us, n * charge.step_us, n)
                for charge, n in ((of_alice, 4), (of_bob, 1000))
            ]
            for _ in range(2):  # the second time as if the answer had been lost
                assert not await store.settle(debts, 0, "me")
            assert [await remaining(store, client, 10) for client in (alice, bob, carol)] == [3, 0, 7]

    run(work())


def test_an_outcome_tells_where_the_bucket_stands(open_store: Open) -> None:
    """A TAT is now plus one unit's time for each unit taken, and a refusal tells the one that stays in force."""

    async def work() -> None:
        limit = slow_limit(3)
        async with open_store() as store:
            first = await take(store, one(limit, 2))
            assert first.allowed
            assert first.tats_us == (first.now_us + 2 * limit.unit_us,)
            second = await take(store, one(limit, 1))
            assert second.tats_us == (first.tats_us[0] + limit.unit_us,)
            refused = await take(store, one(limit, 1))
            assert not refused.allowed
            assert refused.tats_us == second.tats_us

    run(work())


@pytest.mark.parametrize(
    ("taken", "left"),
    [
        (0, 3),  # a bucket nobody has charged is full
        (2, 1),
        (3, 0),  # an empty bucket can be looked at too
    ],
)
def test_cost_0_only_looks(open_store: Open, taken: int, left: int) -> None:
    """A look passes whatever is left, tells it, and takes nothing however often it is repeated."""

    async def work() -> None:
        limit = slow_limit(3)
        async with open_store() as store:
            for _ in range(taken):
                assert await allowed(store, one(limit))
            looks = [statuses(one(limit, 0), await take(store, one(limit, 0)))[0] for _ in range(5)]
            assert [(look.remaining, look.retry_after_us) for look in looks] == [(left, 0)] * 5
            assert [await allowed(store, one(limit)) for _ in range(left + 1)] == [True] * left + [False]

    run(work())


@pytest.mark.parametrize("cost", [4, 5, 10**6, 10**15])
def test_more_than_the_burst_never_passes(open_store: Open, cost: int) -> None:
    """A cost above the burst is refused by a full bucket, and takes nothing."""

    async def work() -> None:
        async with open_store() as store:
            charges = one(slow_limit(3), cost)
            assert not (await take(store, charges)).allowed
            assert await remaining(store, someone(), 3) == 3

    run(work())


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_several_charges_are_taken_all_or_nothing(open_store: Open, empty: int) -> None:
    """Wherever the empty bucket stands in the row, none of the others is charged."""

    async def work() -> None:
        limits = [slow_limit(5, f"limit-{number}") for number in range(3)]
        limits[empty] = replace(limits[empty], burst=1)
        charges = [Charge(someone(), limit) for limit in limits]
        async with open_store() as store:
            assert await allowed(store, charges)
            refused = await take(store, charges)
            assert not refused.allowed
            stand = statuses(charges, refused)
            assert [level.retry_after_us > 0 for level in stand] == [number == empty for number in range(3)]
            assert [level.remaining for level in stand] == [0 if number == empty else 4 for number in range(3)]
            left = [await remaining(store, someone(), limit.burst, limit.name) for limit in limits]
            assert left == [level.remaining for level in stand]

    run(work())


def test_each_charge_has_its_own_cost(open_store: Open) -> None:
    """Charges taken together need not cost the same; one of them may only look."""

    async def work() -> None:
        names = {"a": 1, "b": 4, "c": 0}
        charges = [Charge(someone(), slow_limit(5, name), cost) for name, cost in names.items()]
        async with open_store() as store:
            assert await allowed(store, charges)
            assert [await remaining(store, someone(), 5, name) for name in names] == [4, 1, 5]
            assert not await allowed(store, charges)
            assert [await remaining(store, someone(), 5, name) for name in names] == [4, 1, 5]

    run(work())


def test_an_address_and_its_site_are_charged_together(open_store: Open) -> None:
    """The /64s of one /56 share the aggregate: five of them get no more than four times the limit."""

    async def work() -> None:
        limit = slow_limit(2)
        async with open_store() as store:
            taken = []
            for number in range(5):
                clients = clients_at(f"2001:db8:0:{number:x}::1")
                assert clients.site is not None
                charges = [Charge(clients.network, limit), Charge(clients.site, aggregate(limit))]
                taken += [await allowed(store, charges) for _ in range(2)]
            assert taken == [True] * 8 + [False] * 2

    run(work())


def test_clients_and_limits_have_buckets_of_their_own(open_store: Open) -> None:
    """Neither another client, nor another kind of client of the same text, nor another limit is charged."""

    async def work() -> None:
        others = [(someone("bob"), "ip"), (Client("ip", "alice", "ip:alice"), "ip"), (someone(), "ip-2")]
        async with open_store() as store:
            assert await allowed(store, one(slow_limit(1)))
            for client, name in others:
                assert await remaining(store, client, 1, name) == 1
            assert await remaining(store, someone(), 1) == 0

    run(work())


def test_a_hundred_buckets_are_taken_at_once(open_store: Open) -> None:
    """The number of charges in a row has no small limit."""

    async def work() -> None:
        charges = [Charge(someone(), slow_limit(2, f"limit-{number}")) for number in range(100)]
        async with open_store() as store:
            outcome = await take(store, charges)
            assert outcome.allowed
            assert len(outcome.tats_us) == 100

    run(work())


def test_fifty_tasks_on_one_bucket_get_its_burst(open_store: Open) -> None:
    """Under any interleaving exactly what the reference allows is allowed."""

    async def work() -> None:
        async with open_store() as store:

            async def ask() -> int:
                return sum([await allowed(store, one(slow_limit(137))) for _ in range(4)])

            assert sum(await asyncio.gather(*(ask() for _ in range(50)))) == 137

    run(work())


def test_fifty_tasks_on_two_buckets_waste_nothing(open_store: Open) -> None:
    """All or nothing holds under concurrency: the wide bucket is charged for those alone who passed the narrow one."""

    async def work() -> None:
        async with open_store() as store:

            async def ask(number: int) -> int:
                own = Charge(someone(f"client {number % 10}"), slow_limit(3))
                charges = [own, Charge(own.client, slow_limit(2, "narrow")), Charge(own.client, slow_limit(50, "wide"))]
                return sum([await allowed(store, charges) for _ in range(2)])

            assert sum(await asyncio.gather(*(ask(number) for number in range(50)))) == 20
            for number in range(10):
                assert await remaining(store, someone(f"client {number}"), 50, "wide") == 48
                assert await remaining(store, someone(f"client {number}"), 3) == 1

    run(work())


# --- API keys -------------------------------------------------------------------------------------


def api_key(key: str, subject: str = "alice", listener_class: ListenerClass = ListenerClass.MEMBER) -> ApiKey:
    """An issued key."""
    return ApiKey(digest(key, DIGEST_KEY), Identity(subject, listener_class), 1_700_000_000)


def test_an_issued_key_proves_its_subject(open_store: Open) -> None:
    """Subject, class and date come back as they were given, whatever characters the subject has."""

    async def work() -> None:
        host = api_key("key 1", "åse \U0001f399 \"':{}\r\n\0", ListenerClass.HOST)
        member = api_key("key 2", "x" * 1024)
        async with open_store() as store:
            await store.add_api_key(host)
            await store.add_api_key(member)
            table = await store.api_keys(None)
            assert table is not None
            assert table.entries == {host.digest: host, member.digest: member}
            assert proven(table, "key 1") == host.identity
            assert proven(table, "key 2") == member.identity
            assert proven(table, "key 3") is None

    run(work())


def test_no_key_is_issued_at_first(open_store: Open) -> None:
    """An empty store has an empty table, with the key that digests are made with."""

    async def work() -> None:
        async with open_store() as store:
            table = await store.api_keys(None)
            assert table is not None
            assert (dict(table.entries), table.digest_key) == ({}, DIGEST_KEY)

    run(work())


def test_a_known_version_is_not_read_again(open_store: Open) -> None:
    """None as long as nothing was issued or revoked, the new table after either."""

    async def work() -> None:
        async with open_store() as store:
            versions = []
            changes: list[Callable[[], Awaitable[object]]] = [
                lambda: store.add_api_key(api_key("key 1")),
                lambda: store.add_api_key(api_key("key 2")),
                lambda: store.revoke_api_keys([api_key("key 1").digest]),
                lambda: store.add_api_key(api_key("key 2", "bob")),
            ]
            known: int | None = None
            for change in changes:
                await change()
                table = await store.api_keys(known)
                assert table is not None
                known = table.version
                versions.append(known)
                assert await store.api_keys(known) is None
                assert await store.api_keys(None) is not None
            assert len(set(versions)) == len(versions)

    run(work())


@pytest.mark.parametrize(
    ("revoked", "count", "left"),
    [
        (["key 1"], 1, ["key 2", "key 3"]),
        (["key 3", "key 1"], 2, ["key 2"]),
        (["key 9"], 0, ["key 1", "key 2", "key 3"]),  # never issued
        (["key 9", "key 2"], 1, ["key 1", "key 3"]),  # one that is unknown hinders no other
        ([], 0, ["key 1", "key 2", "key 3"]),
    ],
)
def test_a_revoked_key_proves_nothing(open_store: Open, revoked: list[str], count: int, left: list[str]) -> None:
    """Exactly the keys named are gone, and the number of those that were there is told."""

    async def work() -> None:
        async with open_store() as store:
            for key in ("key 1", "key 2", "key 3"):
                await store.add_api_key(api_key(key))
            assert await store.revoke_api_keys([api_key(key).digest for key in revoked]) == count
            table = await store.api_keys(None)
            assert table is not None
            assert [key for key in ("key 1", "key 2", "key 3", "key 9") if proven(table, key)] == left

    run(work())


# --- load -----------------------------------------------------------------------------------------

NOW_S = 1_800_000_000.0


def report(worker: str, at_s: float = NOW_S, in_flight: int = 3) -> WorkerLoad:
    """A worker's report, each of whose numbers is another."""
    counts = (Audience(1, 2, 33), Audience(4, 5, 66), Audience(7, 8, 99))
    unseated = (Distinct(), Distinct(1, (7,)), Distinct(2, (5, 2**32 - 1)))
    return WorkerLoad(worker, "web-1", 4242, at_s, 11_000, in_flight, 128, *counts, 2001, 17, unseated)


def test_the_last_report_of_each_worker_is_told(open_store: Open) -> None:
    """With every number of it; a worker that stops is told of no longer."""

    async def work() -> None:
        async with open_store() as store:
            assert await store.loads(NOW_S) == []
            for load in (report("one"), report("two"), report("one", NOW_S + 2.25, in_flight=9)):
                await store.report_load(load)
            loads = sorted(await store.loads(NOW_S + 3), key=lambda load: load.worker)
            assert loads == [report("one", NOW_S + 2.25, in_flight=9), report("two")]
            await store.drop_load("one")
            await store.drop_load("nobody")
            assert await store.loads(NOW_S + 3) == [report("two")]

    run(work())


def test_a_worker_that_is_silent_is_forgotten(open_store: Open) -> None:
    """Killed workers leave nothing behind, however often they are replaced; one that reports again is told of again."""

    async def work() -> None:
        async with open_store() as store:
            await store.report_load(report("killed"))
            await store.report_load(report("alive", NOW_S + FRESH_S))
            assert [load.worker for load in await store.loads(NOW_S + FRESH_S + 1)] == ["alive"]
            assert [load.worker for load in await store.loads(NOW_S)] == ["alive"], "it was only hidden"
            await store.report_load(report("killed"))
            assert len(await store.loads(NOW_S)) == 2

    run(work())


def test_the_reports_of_a_large_fleet_are_all_told(open_store: Open) -> None:
    """In one call."""

    async def work() -> None:
        async with open_store() as store:
            for number in range(500):
                await store.report_load(report(f"{number:016x}"))
            assert len(await store.loads(NOW_S)) == 500

    run(work())


# --- decisions ------------------------------------------------------------------------------------


def test_the_fleets_decisions_never_fall_and_count_each_once(open_store: Open) -> None:
    """Whatever workers report: the same again since an answer was lost, or nothing more since they have died."""
    size = len(FLEET_DECISIONS.series)

    async def work() -> None:
        async with open_store() as store:
            assert await store.decided("one", [0] * size, [0] * size) == [0] * size
            assert await store.decided("one", range(size), [0] * size) == list(range(size))
            assert await store.decided("one", range(size), [0] * size) == list(range(size))
            assert await store.decided("two", [1] * size, [0] * size) == [1 + number for number in range(size)]
            assert await store.decided("two", [0] * size, [0] * size) == [1 + number for number in range(size)]
            assert await store.decided("one", [2**40] * size, [0] * size) == [1 + 2**40] * size

    run(work())


# --- the busiest clients --------------------------------------------------------------------------


def top_report(worker: str, at_s: float = NOW_S, path: str = "/feed") -> TopReport:
    """A worker's report, each of whose numbers is another."""
    rankings = {kind: Ranking({f"{kind} {number}": 100 - number for number in range(3)}, 5, 97) for kind in Kind}
    requests = Tally(4000, {**rankings, Kind.PATH: Ranking({path: 77, "/\u00e9\x1b": 3}, 1, 2)})
    return TopReport(worker, at_s, 61.5, requests, Tally(300, dict.fromkeys(Kind, Ranking({}))))


def test_the_last_report_of_the_busiest_is_told(open_store: Open) -> None:
    """With every number of it; one of a worker that stops or is silent is told of no longer."""

    async def work() -> None:
        async with open_store() as store:
            assert await store.tops(NOW_S) == []
            for told in (top_report("one"), top_report("two"), top_report("one", NOW_S + 1, "/login")):
                await store.report_top(told)
            found = sorted(await store.tops(NOW_S + 3), key=lambda told: told.worker)
            assert found == [top_report("one", NOW_S + 1, "/login"), top_report("two")]
            await store.drop_top("one")
            await store.drop_top("nobody")
            assert await store.tops(NOW_S + 3) == [top_report("two")]
            assert await store.tops(NOW_S + top.FRESH_S + 1) == []
            assert await store.tops(NOW_S) == [], "it was only hidden"

    run(work())


# --- notices --------------------------------------------------------------------------------------


def test_of_all_workers_one_is_the_first_to_tell(open_store: Open) -> None:
    """Of each notice, also at the same moment. It remains the first, since it may not have heard the reply."""

    async def work() -> None:
        async with open_store() as store:
            workers = [f"worker {number}" for number in range(5)]
            firsts = await asyncio.gather(*(store.is_first("3-emergency", worker) for worker in workers))
            assert sorted(firsts) == [False] * 4 + [True]
            assert [await store.is_first("3-emergency", worker) for worker in workers] == firsts
            assert await store.is_first("3-normal", "another")

    run(work())


# --- closing --------------------------------------------------------------------------------------


def test_a_closed_store_can_be_used_again(open_store: Open) -> None:
    """Closing gives back connections and loses nothing; closing twice, or unused, is harmless."""

    async def work() -> None:
        async with open_store() as store:
            await store.aclose()
            assert await allowed(store, one(slow_limit(2)))
            await store.add_api_key(api_key("key 1"))
            await store.aclose()
            await store.aclose()
            assert [await allowed(store, one(slow_limit(2))) for _ in range(2)] == [True, False]
            table = await store.api_keys(None)
            assert table is not None
            assert proven(table, "key 1") == Identity("alice")

    run(work())
