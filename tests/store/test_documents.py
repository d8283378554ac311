"""The mode and the limits in each store: versions, times, lost and foreign data, operators at once, the audit log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import redis

from servers import RedisServer
from shieldmw.core.mode import Mode, ModeChange
from shieldmw.core.overrides import Earlier, Overrides, OverridesChange, RuleOverride
from shieldmw.errors import StoreError
from shieldmw.store.documents import LIMITS, MODE
from shieldmw.store.memory import MemoryStore
from shieldmw.store.port import Document, Store
from store.stores import SECRET, everything, opened, run

AUDIT_KEY = "shield:{control}:audit"
OVERRIDES = Overrides(
    {"SHIELD_IP_LIMIT": "60/minute", "SHIELD_CAPACITY": 500, "SHIELD_EMERGENCY_GUEST_SHARE": 0.25},
    {"search": RuleOverride("5/minute", 7, True), "all": RuleOverride(dry_run=False)},
)
BEFORE = Earlier(Overrides({"SHIELD_IP_LIMIT": "90/minute"}), 1_900_000_000.5)


@dataclass(frozen=True)
class Case:
    """A document, a change of it for a minute and one back, both by ``ops``, and what must come of the first.

    ``was``, ``now`` and ``words`` are in the audit log: what there was, the change, and the state restored.
    """

    kind: Document[Any, Any]
    change: Any
    back: Any
    kept: dict[str, object]
    was: str
    now: str
    words: str

    @property
    def key(self) -> str:
        """Its key."""
        return f"shield:{{control}}:{self.kind.name}"

    def by(self, number: int) -> Any:
        """The change of one of several operators."""
        return replace(self.change, actor=f"op-{number}")


WORDS = (
    "SHIELD_IP_LIMIT=60/minute, SHIELD_CAPACITY=500, SHIELD_EMERGENCY_GUEST_SHARE=0.25, "
    "rule search: limits=5/minute burst=7 dry_run=true, rule all: dry_run=false"
)
OF_MODE = Case(
    MODE,
    ModeChange(Mode.EMERGENCY, "ops", "flood", 60, 500, 0.25),
    ModeChange(Mode.NORMAL, "ops", "over"),
    {"mode": Mode.EMERGENCY, "capacity": 500, "guest_share": 0.25},
    "normal",
    "emergency, for 60 s, capacity 500, guest share 25 %",
    "emergency",
)
OF_LIMITS = Case(
    LIMITS,
    OverridesChange(OVERRIDES, "ops", "flood", 60, BEFORE),
    OverridesChange(Overrides(), "ops", "over"),
    {"overrides": OVERRIDES, "before": BEFORE},
    "as in the settings",
    f"{WORDS}, for 60 s",
    WORDS,
)
EACH = pytest.mark.parametrize("case", [OF_MODE, OF_LIMITS], ids=["mode", "limits"])
KINDS = pytest.mark.parametrize("store_kind", ["memory", "valkey"])


@asynccontextmanager
async def each_kind(store_kind: str, server: RedisServer) -> AsyncIterator[Store]:
    """The store of one worker."""
    if store_kind == "memory":
        yield MemoryStore(SECRET)
        return
    async with opened(server.url) as store:
        yield store


@asynccontextmanager
async def fleet(server: RedisServer, workers: int) -> AsyncIterator[list[Store]]:
    """The stores of several workers."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(opened(server.url)) for _ in range(workers)]


@pytest.fixture
def admin(server: RedisServer) -> redis.Redis:
    """A connection beside those of the stores."""
    return server.client()


@EACH
@KINDS
def test_a_change_is_kept_with_everything_said(
    case: Case, store_kind: str, server: RedisServer, admin: redis.Redis
) -> None:
    """It comes back as it was, with version, start and end by the store's clock; the audit log has all of it."""

    async def story() -> None:
        async with each_kind(store_kind, server) as store:
            assert (await store.document(case.kind)).state == case.kind.nothing
            changed, stored = await store.set_document(
                case.kind, case.change, was=case.kind.nothing, expected_version=None
            )
            state = stored.state
            assert changed
            assert state == (await store.document(case.kind)).state
            assert {name: getattr(state, name) for name in case.kept} == case.kept
            assert (state.version, state.actor, state.reason) == (1, "ops", "flood")
            assert state.since_s == pytest.approx(stored.now_s, abs=1)
            assert state.until_s == pytest.approx(state.since_s + 60, abs=1e-5)
            _, after = await store.set_document(case.kind, case.back, was=state, expected_version=None)
            assert after.state.until_s is None
            audit = [(one.who, one.what, one.was, one.now, one.why) for one in await store.audit(10)]
            assert audit[1] == ("ops", case.kind.name, case.was, case.now, "flood")
            assert audit[0] == ("ops", case.kind.name, case.words, str(case.back), "over")

    run(story())
    if store_kind == "valkey":
        assert all(int(admin.ttl(key)) > 0 for key in (case.key, AUDIT_KEY))


@EACH
@pytest.mark.parametrize("reason", ["", "ﾊﾊﾊ 😀 \x00 \"'\n", "x" * 2000])
def test_any_reason_is_kept(case: Case, server: RedisServer, reason: str) -> None:
    """No text of an operator breaks what is kept."""

    async def story() -> None:
        async with opened(server.url) as store:
            change = replace(case.change, reason=reason)
            await store.set_document(case.kind, change, was=case.kind.nothing, expected_version=None)
            assert (await store.document(case.kind)).state.reason == reason
            assert [entry.why for entry in await store.audit(10)] == [reason]

    run(story())


@EACH
@KINDS
@pytest.mark.parametrize(
    ("expected_version", "changed"),
    [(None, True), (1, True), (0, False), (2, False)],
    ids=["whatever it is", "the one in force", "an older one", "one that is yet to come"],
)
def test_if_match(
    case: Case, store_kind: str, server: RedisServer, admin: redis.Redis, expected_version: int | None, changed: bool
) -> None:
    """A change that expects another version changes nothing, writes no audit, and tells how it is."""

    async def story() -> None:
        async with each_kind(store_kind, server) as store:
            _, first = await store.set_document(case.kind, case.change, was=case.kind.nothing, expected_version=None)
            before = everything(admin)
            did, stored = await store.set_document(
                case.kind, case.back, was=first.state, expected_version=expected_version
            )
            assert did is changed
            assert stored.state.version == (2 if changed else 1)
            assert (stored.state == first.state) is not changed
            assert len(await store.audit(10)) == stored.state.version
            if not changed:
                assert everything(admin) == before

    run(story())


@KINDS
def test_the_mode_and_the_limits_do_not_touch_each_other(store_kind: str, server: RedisServer) -> None:
    """Each has a version of its own, and both are announced by their name."""

    async def story() -> None:
        async with each_kind(store_kind, server) as store, aclosing(store.changes()) as feed:  # type: ignore[type-var]
            assert await anext(feed) == ""
            for case in (OF_LIMITS, OF_MODE):
                await store.set_document(case.kind, case.change, was=case.kind.nothing, expected_version=None)
            assert [await anext(feed), await anext(feed)] == ["limits", "mode"]
            for case in (OF_LIMITS, OF_MODE):
                state = (await store.document(case.kind)).state
                assert state.version == 1
                assert {name: getattr(state, name) for name in case.kept} == case.kept

    run(story())


@EACH
def test_of_operators_who_expect_the_same_version_exactly_one_wins(case: Case, server: RedisServer) -> None:
    """One of ten concurrent operators with the same If-Match makes the change, and only that is in the audit log."""

    async def story() -> None:
        async with fleet(server, 10) as stores:
            for version in range(5):
                was = (await stores[0].document(case.kind)).state
                replies = await asyncio.gather(
                    *(
                        store.set_document(case.kind, case.by(number), was=was, expected_version=version)
                        for number, store in enumerate(stores)
                    )
                )
                winners = [f"op-{number}" for number, (changed, _) in enumerate(replies) if changed]
                assert len(winners) == 1
                state = (await stores[0].document(case.kind)).state
                assert (state.version, state.actor) == (version + 1, winners[0])
                assert [entry.who for entry in await stores[0].audit(1)] == winners
            assert len(await stores[0].audit(100)) == 5

    run(story())


@EACH
def test_of_operators_who_expect_nothing_none_is_lost_from_the_audit(case: Case, server: RedisServer) -> None:
    """Without If-Match all ten make their change, one after another, and the audit names each."""

    async def story() -> None:
        async with fleet(server, 10) as stores:
            changes = [
                store.set_document(case.kind, case.by(number), was=case.kind.nothing, expected_version=None)
                for number, store in enumerate(stores)
            ]
            replies = await asyncio.gather(*changes)
            assert sorted(stored.state.version for _, stored in replies) == list(range(1, 11))
            entries = await stores[0].audit(100)
            assert {entry.who for entry in entries} == {f"op-{number}" for number in range(10)}
            assert entries[0].who == (await stores[0].document(case.kind)).state.actor
            assert [entry.when_s for entry in entries] == sorted((entry.when_s for entry in entries), reverse=True)

    run(story())


@EACH
def test_what_is_lost_is_restored_once_and_what_is_older_never(
    case: Case, server: RedisServer, admin: redis.Redis
) -> None:
    """After FLUSHALL the version that a worker knows comes back as it was, and that is in the audit log."""

    async def story() -> None:
        async with opened(server.url) as store:
            known = replace(case.kind.nothing, version=6)
            _, stored = await store.set_document(case.kind, case.change, was=known, expected_version=6)
            admin.flushall()
            for state in (stored.state, stored.state, replace(stored.state, version=3, reason="older")):
                assert (await store.restore_document(case.kind, state)).state == stored.state
            (entry,) = await store.audit(10)
            why = "the store had lost version 7, which is in force"
            assert (entry.who, entry.what, entry.was, entry.now, entry.why) == (
                *("shieldmw", case.kind.name, "", case.words),
                why,
            )

    run(story())


@EACH
def test_a_change_after_a_loss_follows_the_version_that_is_known(
    case: Case, server: RedisServer, admin: redis.Redis
) -> None:
    """An operator who is first after FLUSHALL gets a higher version than any before, with If-Match and without."""

    async def story() -> None:
        async with opened(server.url) as store:
            known = replace(case.kind.nothing, version=7)
            refused, _ = await store.set_document(case.kind, case.back, was=known, expected_version=0)
            changed, stored = await store.set_document(case.kind, case.back, was=known, expected_version=7)
            assert (refused, changed, stored.state.version) == (False, True, 8)
            admin.flushall()
            _, stored = await store.set_document(case.kind, case.back, was=stored.state, expected_version=None)
            assert stored.state.version == 9

    run(story())


NO_BEFORE: dict[str, object] = {"values": {}, "rules": {}, "until": None}
OURS: dict[str, dict[str, object]] = {
    "mode": {"mode": "normal", "actor": "", "reason": "", "capacity": None, "guest_share": None},
    "limits": {"values": {}, "rules": {}, "actor": "", "reason": "", "before": NO_BEFORE},
}
NO_LIMITS: tuple[object, ...] = ([], None, True)
FOREIGN: list[tuple[Case, str, object]] = [
    (OF_MODE, "mode", "panic"),
    *[(OF_LIMITS, "values", {"SHIELD_IP_LIMIT": wrong}) for wrong in NO_LIMITS],
    (OF_LIMITS, "values", 1),
    *[
        (OF_LIMITS, "rules", {"x": parts})
        for parts in ([1, 2, 3], ["5/second", 2.5, True], [None, None, 1], [None, None])
    ],
    *[(OF_LIMITS, "before", {**NO_BEFORE, "until": until}) for until in (-1, "x")],
    (OF_LIMITS, "before", {**NO_BEFORE, "values": {"x": []}}),
    (OF_LIMITS, "before", 1),
]


@pytest.mark.parametrize(
    ("case", "data"),
    [
        *[(case, data) for case in (OF_MODE, OF_LIMITS) for data in ("", "not json", "[]", "{}")],
        *[(case, json.dumps({**OURS[case.kind.name], name: wrong})) for case, name, wrong in FOREIGN],
    ],
)
def test_what_others_wrote_there_is_an_error_of_the_store(
    case: Case, server: RedisServer, admin: redis.Redis, data: str
) -> None:
    """Nothing in the place of a document is obeyed that was not written by us; the next change replaces it."""

    async def story() -> None:
        async with opened(server.url) as store:
            admin.hset(case.key, mapping={"version": "9", "data": json.dumps(OURS[case.kind.name])})
            assert (await store.document(case.kind)).state == replace(case.kind.nothing, version=9)
            admin.hset(case.key, mapping={"version": "9", "data": data})
            with pytest.raises(StoreError, match=f"the {case.kind.name} in the store cannot be read"):
                await store.document(case.kind)
            _, stored = await store.set_document(case.kind, case.change, was=case.kind.nothing, expected_version=None)
            assert stored.state.version == 10
            assert {name: getattr(stored.state, name) for name in case.kept} == case.kept

    run(story())


@EACH
def test_reading_writes_nothing(case: Case, server: RedisServer, admin: redis.Redis) -> None:
    """Neither where there is nothing, nor where there is something: a process that only looks begins no epoch."""

    async def story() -> None:
        async with opened(server.url) as store:
            stored = await store.document(case.kind)
            assert (stored.state, stored.epoch) == (case.kind.nothing, None)
            assert everything(admin) == {}
            await store.set_document(case.kind, case.change, was=case.kind.nothing, expected_version=None)
            before = everything(admin)
            assert (await store.document(case.kind)).state.version == 1
            assert everything(admin) == before

    run(story())
