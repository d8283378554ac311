"""The mode in a real server: versions, concurrent operators, lost data, the audit log, announcements."""

from __future__ import annotations

import asyncio
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
from shieldmw.store.documents import MODE
from shieldmw.store.fleet import RedisStore
from shieldmw.store.port import AUDIT_LENGTH
from shieldmw.store.redis.connection import RedisConnection

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
            assert (await stores[0].document(MODE)).state == newest
            assert [mode_watch.state for mode_watch in switches] == [newest] * 6
            entries = await stores[0].audit(100)
            assert (entries[0].who, entries[0].now) == ("shieldmw", "emergency")
            assert entries[0].why == "the store had lost version 6, which is in force"
            assert 1 <= len(entries) <= 6

    asyncio.run(story())
    assert int(admin.ttl(MODE_KEY)) > 0


def test_the_audit_holds_the_last_thousand_changes(valkey: RedisServer, admin: redis.Redis) -> None:
    """The audit is bounded to 1000 entries, of which the oldest go."""

    async def story() -> None:
        async with fleet(valkey, 1) as (store,):
            for number in range(AUDIT_LENGTH + 20):
                await store.set_document(MODE, emergency(f"op-{number}"), was=NOTHING, expected_version=None)
            entries = await store.audit(10 * AUDIT_LENGTH)
            assert [entry.who for entry in entries] == [f"op-{AUDIT_LENGTH + 19 - n}" for n in range(AUDIT_LENGTH)]

    asyncio.run(story())
    assert admin.xlen(AUDIT_KEY) == AUDIT_LENGTH == 1000


def test_a_mode_that_cannot_be_read_changes_nothing(valkey: RedisServer, admin: redis.Redis) -> None:
    """Somebody else's writing under our key is an error of the store: the worker stays in the mode it knows."""

    async def story() -> None:
        async with opened(valkey) as store:
            mode_watch = switch_of(store)
            await mode_watch.set(emergency(), expected_version=None)
            admin.hset(MODE_KEY, mapping={"version": "9", "data": "not json"})
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
                await other.set_document(MODE, change, was=NOTHING, expected_version=None)
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
            await other.set_document(MODE, emergency(), was=NOTHING, expected_version=None)
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
                await other.set_document(MODE, emergency(), was=NOTHING, expected_version=None)
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
                    await other.set_document(MODE, emergency(), was=NOTHING, expected_version=None)
        return told

    assert asyncio.run(story()) == ["", "mode", "mode"]
    assert int(admin.hget(MODE_KEY, "version")) == 2  # type: ignore[arg-type]


# --- without a worker -----------------------------------------------------------------------------


def test_the_fleet_is_counted_without_a_report(valkey: RedisServer, admin: redis.Redis) -> None:
    """What a worker's report would hear, by its own script; notes and foreign entries of the hash are left out."""

    async def work() -> None:
        async with opened(valkey) as store:
            assert await store.fleet(0.0) == Fleet(0, Audience(), Audience())
            assert admin.dbsize() == 0
            for number in range(3):
                report = Report(f"{number}", Audience(number, 2, 3), Audience(number, 5, 9))
                granted = await store.seats(report, Capacity(10, 5))
            now_s = (await store.document(MODE)).now_s
            too_many = f"{int(now_s * 1000) + 9000} {'9' * 16}{' 0' * 7}"
            admin.hset("shield:seats", mapping={"x": "no", "y": "9" * 5000, "z": too_many, "#guard": "1"})
            before = admin.dump("shield:seats")
            fleet = await store.fleet(now_s)
            assert fleet == Fleet(granted.workers, granted.present, granted.demand)
            assert fleet.workers == 3
            assert admin.dump("shield:seats") == before

    asyncio.run(work())
