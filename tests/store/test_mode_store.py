"""The mode in a real server: versions, concurrent operators, lost data, the audit log, announcements."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import pytest
import redis

from servers import RedisServer, redis_server
from shieldmw.core.mode import Mode, ModeChange, ModeState
from shieldmw.core.seats import Audience, Capacity, Fleet, Report
from shieldmw.errors import StoreError
from shieldmw.gate.fleet.changes import ChangeListener
from shieldmw.gate.fleet.mode_watch import ModeWatch
from shieldmw.store.fleet import RedisStore
from shieldmw.store.port import AUDIT_LENGTH
from shieldmw.store.redis.connection import RedisConnection
from store.stores import everything

MODE_KEY = "shield:{control}:mode"
AUDIT_KEY = "shield:{control}:audit"
NOTHING = ModeState()

SECRET = b"a secret of at least 32 characters"

# A budget that only a server that hangs exceeds, however busy the machine is.
AMPLE_S = 20.0

# How soon a worker hears of a change, and how soon it finds out without hearing, with slack for a busy machine.
HEARD_S, POLLED_S = 0.3, 2.0


def emergency(actor: str = "ops", reason: str = "attack", for_s: int | None = None) -> ModeChange:
    """The switch."""
    return ModeChange(Mode.EMERGENCY, actor, reason, for_s, 500, 0.25)


NORMAL = ModeChange(Mode.NORMAL, "ops", "over")


@pytest.fixture(scope="module")
def valkey() -> Iterator[RedisServer]:
    """A server for this module."""
    with redis_server("valkey") as server:
        yield server


@pytest.fixture
def admin(valkey: RedisServer) -> redis.Redis:
    """A connection beside those of the stores; the server is empty."""
    client = valkey.client()
    client.flushall()
    return client


@asynccontextmanager
async def opened(server: RedisServer) -> AsyncIterator[RedisStore]:
    """The store of one worker."""
    store = RedisStore(RedisConnection(server.url, AMPLE_S), prefix="shield", secret=SECRET, candidate=SECRET)
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def fleet(server: RedisServer, workers: int) -> AsyncIterator[list[RedisStore]]:
    """The stores of several workers."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(opened(server)) for _ in range(workers)]


async def until(condition: Callable[[], bool], limit_s: float) -> None:
    """Wait for a condition, but no longer than so."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - what happens on the server tells no event
            await asyncio.sleep(0.005)


def switch_of(store: RedisStore) -> ModeWatch:
    """A worker's switch."""
    return ModeWatch(store)


def test_a_change_is_kept_with_everything_said(valkey: RedisServer, admin: redis.Redis) -> None:
    """What an operator asked for comes back as it was, with version, start and end by the server's clock."""

    async def story() -> None:
        async with opened(valkey) as store:
            assert (await store.mode()).state == NOTHING
            changed, stored = await store.set_mode(emergency(for_s=60), was=NOTHING, expected_version=None)
            state = stored.state
            assert changed
            assert state == (await store.mode()).state
            assert (state.version, state.mode, state.actor, state.reason) == (1, Mode.EMERGENCY, "ops", "attack")
            assert (state.capacity, state.guest_share) == (500, 0.25)
            assert state.since_s == pytest.approx(stored.now_s, abs=1)
            assert state.until_s == pytest.approx(state.since_s + 60, abs=1e-5)

    asyncio.run(story())
    assert all(int(admin.ttl(key)) > 0 for key in (MODE_KEY, AUDIT_KEY))


@pytest.mark.parametrize("reason", ["", "ﾊﾊﾊ 😀 \x00 \"'\n", "x" * 2000])
def test_any_reason_is_kept(valkey: RedisServer, admin: redis.Redis, reason: str) -> None:
    """No text of an operator breaks what is kept."""
    assert admin.dbsize() == 0

    async def story() -> None:
        async with opened(valkey) as store:
            await store.set_mode(emergency(reason=reason), was=NOTHING, expected_version=None)
            assert (await store.mode()).state.reason == reason
            assert [entry.why for entry in await store.audit(10)] == [reason]

    asyncio.run(story())


@pytest.mark.parametrize(
    ("expected_version", "changed"),
    [(None, True), (1, True), (0, False), (2, False)],
    ids=["whatever it is", "the one in force", "an older one", "one that is yet to come"],
)
def test_if_match(valkey: RedisServer, admin: redis.Redis, expected_version: int | None, changed: bool) -> None:
    """A change that expects another version changes nothing, and tells how it is."""

    async def story() -> None:
        async with opened(valkey) as store:
            _, first = await store.set_mode(emergency(), was=NOTHING, expected_version=None)
            before = admin.hgetall(MODE_KEY), admin.xlen(AUDIT_KEY)
            did, stored = await store.set_mode(NORMAL, was=first.state, expected_version=expected_version)
            assert did is changed
            assert stored.state.version == (2 if changed else 1)
            if not changed:
                assert (admin.hgetall(MODE_KEY), admin.xlen(AUDIT_KEY)) == before

    asyncio.run(story())


def test_of_operators_who_expect_the_same_version_exactly_one_wins(valkey: RedisServer, admin: redis.Redis) -> None:
    """One of ten concurrent operators with the same If-Match changes the mode, and only that is in the audit log."""
    assert admin.dbsize() == 0

    async def story() -> None:
        async with fleet(valkey, 10) as stores:
            for version in range(5):
                was = (await stores[0].mode()).state
                replies = await asyncio.gather(
                    *(
                        store.set_mode(emergency(f"op-{number}"), was=was, expected_version=version)
                        for number, store in enumerate(stores)
                    )
                )
                winners = [f"op-{number}" for number, (changed, _) in enumerate(replies) if changed]
                assert len(winners) == 1
                state = (await stores[0].mode()).state
                assert (state.version, state.actor) == (version + 1, winners[0])
                assert [entry.who for entry in await stores[0].audit(1)] == winners
            assert len(await stores[0].audit(100)) == 5

    asyncio.run(story())


def test_of_operators_who_expect_nothing_none_is_lost_from_the_audit(valkey: RedisServer, admin: redis.Redis) -> None:
    """Without If-Match all ten change the mode, one after another, and the audit names each."""
    assert admin.dbsize() == 0

    async def story() -> None:
        async with fleet(valkey, 10) as stores:
            changes = [
                store.set_mode(emergency(f"op-{number}"), was=NOTHING, expected_version=None)
                for number, store in enumerate(stores)
            ]
            replies = await asyncio.gather(*changes)
            assert sorted(stored.state.version for _, stored in replies) == list(range(1, 11))
            entries = await stores[0].audit(100)
            assert {entry.who for entry in entries} == {f"op-{number}" for number in range(10)}
            assert entries[0].who == (await stores[0].mode()).state.actor
            assert [entry.when_s for entry in entries] == sorted((entry.when_s for entry in entries), reverse=True)

    asyncio.run(story())


def test_the_highest_version_known_wins_after_the_store_lost_its_data(valkey: RedisServer, admin: redis.Redis) -> None:
    """After FLUSHALL workers that know different versions restore the highest, in any order, and audit it."""

    async def story() -> None:
        async with fleet(valkey, 6) as stores:
            switches = [switch_of(store) for store in stores]
            for number, mode_watch in enumerate(switches):
                # Each of them has seen one version more than the one before it.
                await mode_watch.set(emergency(f"op-{number}", for_s=600), expected_version=None)
            newest = switches[-1].state
            assert [mode_watch.state.version for mode_watch in switches] == [1, 2, 3, 4, 5, 6]
            admin.flushall()
            await asyncio.gather(*(mode_watch.refresh() for mode_watch in switches))
            for mode_watch in switches:
                await mode_watch.refresh()
            assert (await stores[0].mode()).state == newest
            assert [mode_watch.state for mode_watch in switches] == [newest] * 6
            entries = await stores[0].audit(100)
            assert (entries[0].who, entries[0].now) == ("shieldmw", "emergency")
            assert entries[0].why == "the store had lost version 6, which is in force"
            assert 1 <= len(entries) <= 6

    asyncio.run(story())
    assert int(admin.ttl(MODE_KEY)) > 0


def test_an_older_mode_is_never_restored(valkey: RedisServer, admin: redis.Redis) -> None:
    """Restoring what is older than the mode that is kept, or the same, changes nothing and is not audited."""

    async def story() -> None:
        async with opened(valkey) as store:
            _, first = await store.set_mode(emergency(), was=NOTHING, expected_version=None)
            _, second = await store.set_mode(NORMAL, was=first.state, expected_version=None)
            for state in (first.state, second.state):
                assert (await store.restore_mode(state)).state == second.state
            assert admin.xlen(AUDIT_KEY) == 2

    asyncio.run(story())


def test_a_change_after_a_loss_follows_the_version_that_is_known(valkey: RedisServer, admin: redis.Redis) -> None:
    """An operator who is first after FLUSHALL gets a higher version than any before, with If-Match and without."""

    async def story() -> None:
        async with opened(valkey) as store:
            known = ModeState(version=7, mode=Mode.EMERGENCY)
            refused, _ = await store.set_mode(NORMAL, was=known, expected_version=0)
            changed, stored = await store.set_mode(NORMAL, was=known, expected_version=7)
            assert (refused, changed, stored.state.version) == (False, True, 8)
            admin.flushall()
            _, stored = await store.set_mode(NORMAL, was=stored.state, expected_version=None)
            assert stored.state.version == 9

    asyncio.run(story())


def test_the_audit_holds_the_last_thousand_changes(valkey: RedisServer, admin: redis.Redis) -> None:
    """The audit is bounded to 1000 entries, of which the oldest go."""

    async def story() -> None:
        async with fleet(valkey, 1) as (store,):
            for number in range(AUDIT_LENGTH + 20):
                await store.set_mode(emergency(f"op-{number}"), was=NOTHING, expected_version=None)
            entries = await store.audit(10 * AUDIT_LENGTH)
            assert [entry.who for entry in entries] == [f"op-{AUDIT_LENGTH + 19 - n}" for n in range(AUDIT_LENGTH)]

    asyncio.run(story())
    assert admin.xlen(AUDIT_KEY) == AUDIT_LENGTH == 1000


@pytest.mark.parametrize(
    "fields",
    [
        {"data": "{}"},
        {"data": "not json"},
        {"data": json.dumps({"mode": "panic"})},
    ],
)
def test_a_mode_that_cannot_be_read_changes_nothing(
    valkey: RedisServer, admin: redis.Redis, fields: dict[str, str]
) -> None:
    """Somebody else's writing under our key is an error of the store: the worker stays in the mode it knows."""

    async def story() -> None:
        async with opened(valkey) as store:
            mode_watch = switch_of(store)
            await mode_watch.set(emergency(), expected_version=None)
            for name, value in {"version": "9", **fields}.items():
                admin.hset(MODE_KEY, name, value)
            with pytest.raises(StoreError):
                await mode_watch.refresh()
            assert (mode_watch.mode, mode_watch.state.version) == (Mode.EMERGENCY, 1)

    asyncio.run(story())


@asynccontextmanager
async def following(store: RedisStore) -> AsyncIterator[tuple[ModeWatch, list[str]]]:
    """A worker's switch that follows the mode and listens, and what it has heard so far."""
    mode_watch, heard = switch_of(store), list[str]()

    def hear(change: str) -> None:
        heard.append(change)
        mode_watch.refresh_soon()

    listener = ChangeListener(store, hear)
    await mode_watch.refresher.start()
    await listener.start()
    try:
        await until(lambda: heard == [""], AMPLE_S)
        yield mode_watch, heard
    finally:
        await listener.stop()
        await mode_watch.refresher.stop()


def test_a_change_is_heard_at_once(valkey: RedisServer, admin: redis.Redis) -> None:
    """A worker that listens obeys a change of another worker long before it would have polled."""
    assert admin.dbsize() == 0

    async def story() -> None:
        async with fleet(valkey, 2) as (mine, other), following(mine) as (mode_watch, _):
            for change in (emergency(), NORMAL, emergency()):
                await other.set_mode(change, was=NOTHING, expected_version=None)
                await until(partial(obeys, mode_watch, change.mode), HEARD_S)

    asyncio.run(story())


def obeys(mode_watch: ModeWatch, mode: Mode) -> bool:
    """Whether the worker is in that mode."""
    return mode_watch.mode is mode


def test_polling_alone_is_enough(valkey: RedisServer, admin: redis.Redis) -> None:
    """With the Pub/Sub connection killed a change is obeyed within two seconds, and the worker listens again."""

    async def story() -> None:
        async with fleet(valkey, 2) as (mine, other), following(mine) as (mode_watch, heard):
            assert admin.client_kill_filter(_type="pubsub") == 1
            await other.set_mode(emergency(), was=NOTHING, expected_version=None)
            await until(lambda: mode_watch.mode is Mode.EMERGENCY, POLLED_S)
            assert heard == [""]
            await until(lambda: heard == ["", ""], AMPLE_S)

    asyncio.run(story())


def test_a_listener_that_is_still_connecting_can_be_stopped(valkey: RedisServer) -> None:
    """However far it has come, a listener that is stopped ends at once: a worker must not hang when it shuts down."""

    async def story() -> list[int]:
        hung = []
        for turns in range(40):
            async with opened(valkey) as store:
                listener = ChangeListener(store, lambda change: None)
                await listener.start()
                for _ in range(turns):
                    await asyncio.sleep(0)
                stopping = asyncio.create_task(listener.stop())
                if not (await asyncio.wait([stopping], timeout=2))[0]:
                    hung.append(turns)
                    await listener.stop()
                    break
        return hung

    assert asyncio.run(story()) == []


def test_without_any_listener_polling_obeys_within_two_seconds(valkey: RedisServer, admin: redis.Redis) -> None:
    """A worker that never hears anything obeys within two seconds all the same."""
    assert admin.dbsize() == 0

    async def story() -> None:
        async with fleet(valkey, 2) as (mine, other):
            mode_watch = switch_of(mine)
            await mode_watch.refresher.start()
            try:
                await other.set_mode(emergency(), was=NOTHING, expected_version=None)
                await until(lambda: mode_watch.mode is Mode.EMERGENCY, POLLED_S)
            finally:
                await mode_watch.refresher.stop()

    asyncio.run(story())


def test_what_is_told_is_told_once_and_by_name(valkey: RedisServer, admin: redis.Redis) -> None:
    """A subscriber gets the confirmation first, then each change of the mode."""

    async def story() -> list[str]:
        told: list[str] = []
        async with fleet(valkey, 2) as (mine, other):
            async with asyncio.timeout(AMPLE_S):
                async for change in mine.changes():
                    told.append(change)
                    if len(told) == 3:
                        break
                    await other.set_mode(emergency(), was=NOTHING, expected_version=None)
        return told

    assert asyncio.run(story()) == ["", "mode", "mode"]
    assert int(admin.hget(MODE_KEY, "version")) == 2  # type: ignore[arg-type]


# --- without a worker -----------------------------------------------------------------------------


def test_a_look_writes_nothing(valkey: RedisServer, admin: redis.Redis) -> None:
    """Neither at an empty store nor at one that is in use; a worker's own look begins an epoch."""

    async def work() -> None:
        async with opened(valkey) as store:
            stored = await store.look()
            assert (stored.state, stored.epoch) == (NOTHING, None)
            assert await store.fleet(stored.now_s) == Fleet(0, Audience(), Audience())
            assert admin.dbsize() == 0
            await store.set_mode(emergency(), was=NOTHING, expected_version=None)
            await store.mode()
            before = everything(admin)
            assert (await store.look()).state.version == 1
            assert everything(admin) == before

    asyncio.run(work())


def test_the_fleet_is_counted_without_a_report(valkey: RedisServer, admin: redis.Redis) -> None:
    """What a worker's report would hear, by its own script; notes and foreign entries of the hash are left out."""

    async def work() -> None:
        async with opened(valkey) as store:
            for number in range(3):
                report = Report(f"{number}", Audience(number, 2, 3), Audience(number, 5, 9))
                granted = await store.seats(report, Capacity(10, 5))
            now_s = (await store.look()).now_s
            too_many = f"{int(now_s * 1000) + 9000} {'9' * 16}{' 0' * 7}"
            admin.hset("shield:seats", mapping={"x": "no", "y": "9" * 5000, "z": too_many, "#guard": "1"})
            before = admin.dump("shield:seats")
            fleet = await store.fleet(now_s)
            assert fleet == Fleet(granted.workers, granted.present, granted.demand)
            assert fleet.workers == 3
            assert admin.dump("shield:seats") == before

    asyncio.run(work())
