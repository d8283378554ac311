"""Overrides of limits in each store: versions, times, lost and foreign data, the audit log, announcements."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager

import pytest
import redis

from servers import RedisServer, redis_server
from shieldmw.core.mode import Mode, ModeChange, ModeState
from shieldmw.core.overrides import Earlier, Overrides, OverridesChange, OverridesState, RuleOverride
from shieldmw.errors import StoreError
from shieldmw.store.fleet import RedisStore
from shieldmw.store.memory import MemoryStore
from shieldmw.store.port import Store
from store.stores import SECRET, everything, redis_store, run

LIMITS_KEY = "shield:{control}:limits"
NOTHING = OverridesState()
OVERRIDES = Overrides(
    {"SHIELD_IP_LIMIT": "60/minute", "SHIELD_CAPACITY": 500, "SHIELD_EMERGENCY_GUEST_SHARE": 0.25},
    {"search": RuleOverride("5/minute", 7, True), "all": RuleOverride(dry_run=False)},
)
BEFORE = Earlier(Overrides({"SHIELD_IP_LIMIT": "90/minute"}), 1_900_000_000.5)
CHANGE = OverridesChange(OVERRIDES, "ops", "flood", 60, BEFORE)
BACK = OverridesChange(Overrides(), "ops", "over")

Opened = Callable[[], Awaitable[Store]]


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
async def each_kind(kind: str, server: RedisServer) -> AsyncIterator[Store]:
    """The store of one worker."""
    store: Store = MemoryStore(SECRET) if kind == "memory" else redis_store(server.url)
    try:
        yield store
    finally:
        await store.aclose()


KINDS = pytest.mark.parametrize("kind", ["memory", "valkey"])


@KINDS
def test_a_change_is_kept_with_everything_said(kind: str, valkey: RedisServer, admin: redis.Redis) -> None:
    """It comes back as it was, with version, start and end by the store's clock, and what it replaced."""

    async def story() -> None:
        async with each_kind(kind, valkey) as store:
            assert (await store.limits()).state == NOTHING
            changed, stored = await store.set_limits(CHANGE, was=NOTHING, expected_version=None)
            state = stored.state
            assert changed
            assert state == (await store.limits()).state
            assert (state.version, state.overrides, state.before) == (1, OVERRIDES, BEFORE)
            assert (state.actor, state.reason) == ("ops", "flood")
            assert state.since_s == pytest.approx(stored.now_s, abs=1)
            assert state.until_s == pytest.approx(state.since_s + 60, abs=1e-5)
            (entry,) = await store.audit(10)
            assert (entry.who, entry.what, entry.was, entry.why) == (
                "ops",
                "limits",
                "SHIELD_IP_LIMIT=90/minute",
                "flood",
            )
            assert entry.now == (
                "SHIELD_IP_LIMIT=60/minute, SHIELD_CAPACITY=500, SHIELD_EMERGENCY_GUEST_SHARE=0.25, "
                "rule search: limits=5/minute burst=7 dry_run=true, rule all: dry_run=false, for 60 s"
            )

    run(story())
    if kind == "valkey":
        assert int(admin.ttl(LIMITS_KEY)) > 0


@KINDS
@pytest.mark.parametrize(
    ("expected_version", "changed"), [(None, True), (1, True), (0, False), (2, False)], ids=["any", "it", "old", "new"]
)
def test_if_match(
    kind: str, valkey: RedisServer, admin: redis.Redis, expected_version: int | None, changed: bool
) -> None:
    """A change that expects another version changes nothing, writes no audit, and tells how it is."""

    async def story() -> None:
        async with each_kind(kind, valkey) as store:
            _, first = await store.set_limits(CHANGE, was=NOTHING, expected_version=None)
            did, stored = await store.set_limits(BACK, was=first.state, expected_version=expected_version)
            assert did is changed
            assert stored.state.version == (2 if changed else 1)
            assert bool(stored.state.overrides) is not changed
            assert len(await store.audit(10)) == stored.state.version

    run(story())


@KINDS
def test_the_mode_and_the_limits_do_not_touch_each_other(kind: str, valkey: RedisServer, admin: redis.Redis) -> None:
    """Each has a version of its own, and both are announced by their name."""

    async def story() -> None:
        async with each_kind(kind, valkey) as store, aclosing(store.changes()) as feed:  # type: ignore[type-var]
            assert await anext(feed) == ""
            await store.set_limits(CHANGE, was=NOTHING, expected_version=None)
            await store.set_mode(ModeChange(Mode.EMERGENCY, "ops"), was=ModeState(), expected_version=None)
            assert [await anext(feed), await anext(feed)] == ["limits", "mode"]
            assert (await store.limits()).state.overrides == OVERRIDES
            assert (await store.mode()).state.mode is Mode.EMERGENCY

    run(story())


def test_lost_overrides_are_restored_once_and_older_ones_never(valkey: RedisServer, admin: redis.Redis) -> None:
    """After FLUSHALL the version that a worker knows comes back as it was, and that is in the audit log."""

    async def story() -> None:
        async with each_kind("valkey", valkey) as store:
            _, stored = await store.set_limits(CHANGE, was=OverridesState(version=6), expected_version=6)
            admin.flushall()
            assert (await store.restore_limits(stored.state)).state == stored.state
            assert (await store.restore_limits(OverridesState(version=3))).state == stored.state
            (entry,) = await store.audit(10)
            assert (entry.who, entry.why) == ("shieldmw", "the store had lost version 7, which is in force")

    run(story())


NO_BEFORE: dict[str, object] = {"values": {}, "rules": {}, "until": None}
OURS: dict[str, object] = {"values": {}, "rules": {}, "actor": "", "reason": "", "before": NO_BEFORE}
FOREIGN: list[tuple[str, object]] = [
    ("values", {"SHIELD_IP_LIMIT": []}),
    ("values", {"SHIELD_IP_LIMIT": None}),
    ("values", {"SHIELD_IP_LIMIT": True}),
    *[("rules", {"x": parts}) for parts in ([1, 2, 3], ["5/second", 2.5, True], [None, None, 1], [None, None])],
    *[("before", {**NO_BEFORE, "until": until}) for until in (-1, "x")],
    ("before", {**NO_BEFORE, "values": {"x": []}}),
    ("before", 1),
    ("values", 1),
]


@pytest.mark.parametrize(
    "data", ["", "not json", "[]", *(json.dumps({**OURS, name: wrong}) for name, wrong in FOREIGN)]
)
def test_what_others_wrote_there_is_an_error_of_the_store(valkey: RedisServer, admin: redis.Redis, data: str) -> None:
    """Nothing in the place of the overrides is obeyed that was not written by us; the next change replaces it."""

    async def story() -> None:
        async with each_kind("valkey", valkey) as store:
            admin.hset(LIMITS_KEY, mapping={"version": "9", "data": json.dumps(OURS)})
            assert (await store.limits()).state == OverridesState(version=9)
            admin.hset(LIMITS_KEY, mapping={"version": "9", "data": data})
            with pytest.raises(StoreError):
                await store.limits()
            _, stored = await store.set_limits(CHANGE, was=NOTHING, expected_version=None)
            assert (stored.state.version, stored.state.overrides) == (10, OVERRIDES)

    run(story())


@pytest.mark.parametrize("reason", ["ﾊﾊﾊ 😀 \x00 \"'\n", "x" * 2000])
def test_any_reason_is_kept(valkey: RedisServer, admin: redis.Redis, reason: str) -> None:
    """No text of an operator breaks what is kept."""

    async def story() -> None:
        async with each_kind("valkey", valkey) as store:
            change = OverridesChange(OVERRIDES, "ops", reason)
            await store.set_limits(change, was=NOTHING, expected_version=None)
            assert (await store.limits()).state.reason == reason

    run(story())


def test_reading_writes_nothing(valkey: RedisServer, admin: redis.Redis) -> None:
    """Neither where there is nothing, nor where there is something."""

    async def story() -> None:
        async with each_kind("valkey", valkey) as store:
            await store.limits()
            assert everything(admin) == {}
            await store.set_limits(CHANGE, was=NOTHING, expected_version=None)
            before = everything(admin)
            await store.limits()
            assert everything(admin) == before

    run(story())


def test_of_operators_who_expect_the_same_version_exactly_one_wins(valkey: RedisServer, admin: redis.Redis) -> None:
    """One of ten concurrent operators with the same If-Match changes the limits, and only that is in the audit log."""

    async def story() -> None:
        async with each_kind("valkey", valkey) as store:
            assert isinstance(store, RedisStore)
            changes = [OverridesChange(OVERRIDES, f"op-{number}") for number in range(10)]
            replies = await asyncio.gather(
                *(store.set_limits(change, was=NOTHING, expected_version=0) for change in changes)
            )
            assert sum(changed for changed, _ in replies) == 1
            assert len(await store.audit(100)) == 1

    run(story())
