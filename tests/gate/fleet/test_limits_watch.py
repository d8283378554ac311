"""The limits on one worker: kept if anything fails, ended at their end time, and undone."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

import pytest

from shieldmw import Settings
from shieldmw.core.bucket import EPOCH_S
from shieldmw.core.overrides import Earlier, Overrides, OverridesChange, OverridesState, RuleOverride
from shieldmw.core.rules import Scope
from shieldmw.errors import StoreError, StoreUnavailable
from shieldmw.gate.fleet.limits_watch import LimitsWatch
from shieldmw.store.memory import MemoryStore
from shieldmw.store.port import StoredLimits

SECRET = b"a secret of at least 32 characters"
STRICT = Overrides({"SHIELD_IP_LIMIT": "3/minute"})
STRICTER = Overrides({"SHIELD_IP_LIMIT": "2/minute"})


@dataclass
class Clock:
    """A clock that is set by hand."""

    now_s: float = EPOCH_S + 1_000_000.0

    def store_us(self) -> int:
        """As the store counts."""
        return int((self.now_s - EPOCH_S) * 1_000_000)


class FailingStore(MemoryStore):
    """A store that can be away, lose everything, and have what others wrote."""

    away = False
    foreign = False

    async def limits(self) -> StoredLimits:
        """Them, if they can be read."""
        self._check()
        if self.foreign:
            raise StoreError("cannot be read")
        return await super().limits()

    async def set_limits(
        self, change: OverridesChange, *, was: OverridesState, expected_version: int | None
    ) -> tuple[bool, StoredLimits]:
        """Change them, if it is not away."""
        self._check()
        if self.foreign and expected_version is not None:
            raise StoreError("cannot be read")
        self.foreign = False
        return await super().set_limits(change, was=was, expected_version=expected_version)

    def lose(self) -> None:
        """Come back empty."""
        self._limits = OverridesState()

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailable("away")


class Worker:
    """A worker's limits over a store, and what they were each time it was told that they changed."""

    def __init__(self, store: MemoryStore, clock: Clock, **values: str) -> None:
        self.told: list[int] = []
        self.watch = LimitsWatch(store, Settings(**values), lambda: clock.now_s)
        self.watch.on_change = lambda: self.told.append(self.amount)

    @property
    def amount(self) -> int:
        """The requests a minute of guests."""
        return self.watch.in_force.policy.limits(Scope.IP)[0].amount

    async def set(self, overrides: Overrides, for_s: int | None = None, expected_version: int | None = None) -> bool:
        """An operator's change."""
        return await self.watch.set(
            overrides, actor="ops", reason="flood", for_s=for_s, expected_version=expected_version
        )


@pytest.fixture
def clock() -> Clock:
    """The clock of the test."""
    return Clock()


@pytest.fixture
def store(clock: Clock) -> FailingStore:
    """The store of the test."""
    return FailingStore(SECRET, now_us=clock.store_us)


def test_a_change_is_in_force_where_it_was_made_and_after_a_refresh_elsewhere(
    store: FailingStore, clock: Clock
) -> None:
    """Every worker obeys, and is told exactly once."""
    here, there = Worker(store, clock), Worker(store, clock)

    async def story() -> None:
        assert await here.set(STRICT)
        assert (here.amount, there.amount) == (3, 300)
        for _ in range(3):
            await there.watch.refresh()
            await here.watch.refresh()

    asyncio.run(story())
    assert there.watch.state == here.watch.state
    assert here.told == there.told == [3]


def test_losing_the_store_changes_nothing(store: FailingStore, clock: Clock) -> None:
    """While the store is away they stay; back empty, they are restored; a change that cannot be made is an error."""
    worker, other = Worker(store, clock), Worker(store, clock)

    async def story() -> None:
        await worker.set(STRICT, for_s=60)
        store.away = True
        with pytest.raises(StoreUnavailable):
            await worker.watch.refresh()
        with pytest.raises(StoreUnavailable):
            await worker.set(STRICTER)
        assert (worker.amount, worker.watch.state.version) == (3, 1)
        store.away = False
        store.lose()
        await worker.watch.refresh()
        await other.watch.refresh()
        assert (await store.limits()).state == worker.watch.state == other.watch.state

    asyncio.run(story())
    assert worker.told == [3]


def test_they_end_at_their_end_time_even_while_the_store_is_away(store: FailingStore, clock: Clock) -> None:
    """By the worker's own clock; once the store is back one worker says so in the audit log."""
    worker, other = Worker(store, clock), Worker(store, clock)

    async def story() -> None:
        await worker.set(STRICT, for_s=60)
        store.away = True
        for after_s, amount in ((59.0, 3), (1.0, 300)):
            clock.now_s += after_s
            with pytest.raises(StoreUnavailable):
                await worker.watch.refresh()
            assert worker.amount == amount
        store.away = False
        for each in (other, worker, other):
            await each.watch.refresh()
        assert worker.watch.state == other.watch.state
        assert (worker.watch.state.version, worker.watch.state.overrides) == (2, Overrides())
        assert [entry.who for entry in await store.audit(10)] == ["shieldmw", "ops"]

    asyncio.run(story())
    assert worker.told == [3, 300]


def test_what_a_change_replaces_is_kept_with_it(store: FailingStore, clock: Clock) -> None:
    """Also if another worker made the change before, and with its end time: that is what undoing restores."""
    here, there = Worker(store, clock), Worker(store, clock)

    async def story() -> None:
        await here.set(STRICT, for_s=60)
        clock.now_s += 10
        assert await there.set(STRICTER)
        before = there.watch.state.before
        assert before == Earlier(STRICT, clock.now_s + 50)
        assert before.at(clock.now_s + 49) == STRICT
        assert before.at(clock.now_s + 50) == Overrides()

    asyncio.run(story())


def test_what_an_expected_change_replaces_is_that_version(store: FailingStore, clock: Clock) -> None:
    """Also at a worker that has not heard of it yet: undoing must not restore what was in force before that."""
    here, there = Worker(store, clock), Worker(store, clock)

    async def story() -> None:
        await here.set(STRICT)
        await there.watch.refresh()
        await here.set(STRICTER)
        assert await there.set(STRICT, expected_version=2)
        assert there.watch.state.before.overrides == STRICTER

    asyncio.run(story())


def test_a_change_that_expects_another_version_is_not_made(store: FailingStore, clock: Clock) -> None:
    """But the worker then knows those that are in force."""
    first, second = Worker(store, clock), Worker(store, clock)

    async def story() -> None:
        assert await first.set(STRICT, expected_version=0)
        assert not await second.set(STRICTER, expected_version=0)

    asyncio.run(story())
    assert second.amount == 3


def test_a_change_replaces_what_others_wrote(store: FailingStore, clock: Clock) -> None:
    """Data that nobody can read is no reason not to change limits; what is known stays until then."""
    worker = Worker(store, clock)

    async def story() -> None:
        await worker.set(STRICT)
        store.foreign = True
        with pytest.raises(StoreError):
            await worker.watch.refresh()
        assert worker.amount == 3
        assert await worker.set(STRICTER)
        assert worker.amount == 2

    asyncio.run(story())


def test_a_worker_with_other_rules_says_so_and_obeys_the_rest(
    store: FailingStore, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """In its log and in what it has ignored; hostile text stays on its line."""
    worker = Worker(store, clock)
    unknown = Overrides(dict(STRICT.values), {"sea\x1b[2Jrch\nx": RuleOverride(dry_run=True)})
    with caplog.at_level(logging.WARNING):
        asyncio.run(worker.set(unknown))
    assert worker.amount == 3
    (line,) = worker.watch.in_force.ignored
    assert "there is no such rule here: SHIELD_RULES has none" in line
    assert any("do not fit the settings of this worker" in message for message in caplog.messages)
    assert all(message.isprintable() for message in caplog.messages)
