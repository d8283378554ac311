"""The mode on one worker: kept if anything fails, and ended at its end time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pytest

from gate.doubles import clock_of
from shieldmw.core.bucket import EPOCH_S
from shieldmw.core.mode import Mode, ModeChange, ModeState
from shieldmw.errors import StoreUnavailable
from shieldmw.gate.fleet.mode_watch import CLOCK_READS, ModeWatch
from shieldmw.store.memory import MemoryStore
from shieldmw.store.port import StoredMode

SECRET = b"a secret of at least 32 characters"
EMERGENCY = ModeChange(Mode.EMERGENCY, "ops", "attack", for_s=600)
NORMAL = ModeChange(Mode.NORMAL, "ops", "over")


@dataclass
class Clock:
    """A clock that is set by hand: the store's and the worker's differ by an offset."""

    now_s: float = EPOCH_S + 1_000_000.0
    worker_behind_s: float = EPOCH_S + 999_000.0

    def store_us(self) -> int:
        """The store's clock, as the store counts."""
        return int((self.now_s - EPOCH_S) * 1_000_000)

    def worker_s(self) -> float:
        """The worker's own, which began at another time."""
        return self.now_s - self.worker_behind_s


class FailingStore(MemoryStore):
    """A store that can be away, and that can lose everything."""

    away = False
    on_reply: Callable[[], None] = staticmethod(lambda: None)

    async def mode(self) -> StoredMode:
        """The mode, if it is not away; the answer comes a turn later, as a real one does."""
        self._check()
        stored = await super().mode()
        await asyncio.sleep(0)
        self.on_reply()
        return stored

    async def set_mode(
        self, change: ModeChange, *, was: ModeState, expected_version: int | None
    ) -> tuple[bool, StoredMode]:
        """Change it, if it is not away."""
        self._check()
        return await super().set_mode(change, was=was, expected_version=expected_version)

    async def restore_mode(self, state: ModeState) -> StoredMode:
        """Restore it, if it is not away."""
        self._check()
        return await super().restore_mode(state)

    def lose(self) -> None:
        """Come back empty."""
        self._mode = ModeState()

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailable("away")


class Worker:
    """A worker's switch over a store, and how often it was told that the mode changed."""

    def __init__(self, store: MemoryStore, clock: Clock) -> None:
        self.told: list[Mode] = []
        self.mode_watch = ModeWatch(store, clock_of(clock.worker_s))
        self.mode_watch.on_change = lambda: self.told.append(self.mode_watch.mode)


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
    """Every worker obeys, and tells those who follow the mode exactly once."""
    here, there = Worker(store, clock), Worker(store, clock)

    async def story() -> None:
        assert await here.mode_watch.set(EMERGENCY, expected_version=None)
        assert (here.mode_watch.mode, there.mode_watch.mode) == (Mode.EMERGENCY, Mode.NORMAL)
        for _ in range(3):
            await there.mode_watch.refresh()
            await here.mode_watch.refresh()
            here.mode_watch.tick()
            there.mode_watch.tick()

    asyncio.run(story())
    assert there.mode_watch.state == here.mode_watch.state
    assert here.told == there.told == [Mode.EMERGENCY]


def test_an_operator_who_expects_another_version_learns_how_it_is(store: FailingStore, clock: Clock) -> None:
    """A change refused by its If-Match changes nothing, but the worker then knows the mode that is in force."""
    first, second = Worker(store, clock), Worker(store, clock)

    async def story() -> None:
        assert await first.mode_watch.set(EMERGENCY, expected_version=0)
        assert not await second.mode_watch.set(NORMAL, expected_version=0)

    asyncio.run(story())
    assert second.mode_watch.state == first.mode_watch.state
    assert second.mode_watch.state.version == 1


def test_losing_the_store_changes_nothing(store: FailingStore, clock: Clock) -> None:
    """While the store is away the mode stays; a change that cannot be made is an error and no change."""
    worker = Worker(store, clock)

    async def story() -> None:
        await worker.mode_watch.set(EMERGENCY, expected_version=None)
        store.away = True
        with pytest.raises(StoreUnavailable):
            await worker.mode_watch.refresh()
        with pytest.raises(StoreUnavailable):
            await worker.mode_watch.set(NORMAL, expected_version=None)

    asyncio.run(story())
    assert (worker.mode_watch.mode, worker.mode_watch.state.version) == (Mode.EMERGENCY, 1)


def test_a_store_that_comes_back_empty_is_told_again(store: FailingStore, clock: Clock) -> None:
    """The mode outlives the store's data: a worker that knows it restores it, and the others learn it from there."""
    knows, restarted = Worker(store, clock), Worker(store, clock)

    async def story() -> None:
        await knows.mode_watch.set(EMERGENCY, expected_version=None)
        store.lose()
        await restarted.mode_watch.refresh()
        assert restarted.mode_watch.mode is Mode.NORMAL
        await knows.mode_watch.refresh()
        await restarted.mode_watch.refresh()

    asyncio.run(story())
    assert restarted.mode_watch.state == knows.mode_watch.state
    assert restarted.mode_watch.mode is Mode.EMERGENCY


def test_a_change_that_is_refused_by_an_emptied_store_opens_no_gate(store: FailingStore, clock: Clock) -> None:
    """A change that expects the version of an emptied store is refused, and the worker stays in the mode it knows."""
    worker = Worker(store, clock)

    async def story() -> None:
        await worker.mode_watch.set(EMERGENCY, expected_version=None)
        store.lose()
        assert not await worker.mode_watch.set(NORMAL, expected_version=0)

    asyncio.run(story())
    assert (worker.mode_watch.mode, worker.mode_watch.state.version) == (Mode.EMERGENCY, 1)


def test_of_two_that_know_the_higher_version_wins(store: FailingStore, clock: Clock) -> None:
    """A worker that knows an older mode and comes first does not undo a newer one."""
    old, new = Worker(store, clock), Worker(store, clock)

    async def story() -> None:
        await old.mode_watch.set(EMERGENCY, expected_version=None)
        await new.mode_watch.refresh()
        await new.mode_watch.set(NORMAL, expected_version=None)
        store.lose()
        await old.mode_watch.refresh()
        await new.mode_watch.refresh()
        await old.mode_watch.refresh()

    asyncio.run(story())
    assert old.mode_watch.state == new.mode_watch.state == replace(new.mode_watch.state, version=2, mode=Mode.NORMAL)


def test_an_emergency_ends_by_itself_and_the_audit_says_so(store: FailingStore, clock: Clock) -> None:
    """At its end time the fleet goes back to normal mode, once, whatever number of workers see it."""
    workers = [Worker(store, clock) for _ in range(5)]

    async def story() -> None:
        await workers[0].mode_watch.set(EMERGENCY, expected_version=None)
        for worker in workers:
            await worker.mode_watch.refresh()
        clock.now_s += 599.9
        for worker in workers:
            await worker.mode_watch.refresh()
            assert worker.mode_watch.mode is Mode.EMERGENCY
        clock.now_s += 0.2
        for worker in workers:
            assert worker.mode_watch.mode is Mode.NORMAL
        await asyncio.gather(*(worker.mode_watch.refresh() for worker in workers))
        entries = await store.audit(10)
        assert [(entry.who, entry.now) for entry in entries] == [
            ("shieldmw", "normal"),
            ("ops", "emergency, for 600 s"),
        ]
        assert entries[0].why == "its end time has come"

    asyncio.run(story())
    assert {worker.mode_watch.state.version for worker in workers} == {2}


def test_an_emergency_ends_by_itself_also_while_the_store_is_away(store: FailingStore, clock: Clock) -> None:
    """At its end time the worker is in normal mode by its own clock, and tells those who follow the mode, once."""
    worker = Worker(store, clock)

    async def story() -> None:
        await worker.mode_watch.set(EMERGENCY, expected_version=None)
        store.away = True
        clock.now_s += 599.0
        worker.mode_watch.tick()
        assert worker.told == [Mode.EMERGENCY]
        clock.now_s += 2.0
        with pytest.raises(StoreUnavailable):
            await worker.mode_watch.refresh()
        assert worker.mode_watch.mode is Mode.NORMAL
        worker.mode_watch.tick()
        worker.mode_watch.tick()

    asyncio.run(story())
    assert worker.told == [Mode.EMERGENCY, Mode.NORMAL]


def test_a_worker_whose_clock_is_wrong_ends_with_the_others(store: FailingStore, clock: Clock) -> None:
    """What counts is the store's clock at the last read, not when the worker's own clock began."""
    right, wrong = Worker(store, clock), Worker(store, replace(clock))
    wrong.mode_watch = ModeWatch(store, clock_of(lambda: clock.now_s - 5_000_000.0))

    async def story() -> None:
        await right.mode_watch.set(EMERGENCY, expected_version=None)
        await wrong.mode_watch.refresh()

    asyncio.run(story())
    for later_s in (599.9, 0.2):
        clock.now_s += later_s
        assert wrong.mode_watch.mode is right.mode_watch.mode
    assert wrong.mode_watch.mode is Mode.NORMAL


def test_a_slow_reply_does_not_set_the_clock_back(store: FailingStore, clock: Clock) -> None:
    """The store's clock is known by the best of the last reads: on a busy machine many are late, each by another time,
    and workers must agree on which of two listeners came first.
    """
    worker = Worker(store, clock)

    def late(by_s: float) -> None:
        clock.now_s += by_s

    async def story() -> None:
        await worker.mode_watch.refresh()
        for number in range(CLOCK_READS - 1):
            store.on_reply = partial(late, 0.01 * (number + 1))
            await worker.mode_watch.refresh()
            assert worker.mode_watch.store_now_s() == pytest.approx(clock.now_s, abs=0.001)
        await worker.mode_watch.refresh()
        assert worker.mode_watch.store_now_s() == pytest.approx(clock.now_s - 0.01, abs=0.001), "the best of those left"

    asyncio.run(story())


@pytest.mark.parametrize("step_s", [-5.0, -0.1, -0.01, 0.01, 0.1, 5.0])
def test_a_clock_that_steps_is_followed_at_once(store: FailingStore, clock: Clock, step_s: float) -> None:
    """Back and forth, by however little."""
    worker = Worker(store, clock)

    async def story() -> None:
        for _ in range(5):
            await worker.mode_watch.refresh()
        clock.worker_behind_s += step_s  # the store's clock steps, the worker's does not
        clock.now_s += step_s
        await worker.mode_watch.refresh()
        assert worker.mode_watch.store_now_s() == pytest.approx(clock.now_s, abs=0.001)

    asyncio.run(story())


def test_an_emergency_without_an_end_lasts(store: FailingStore, clock: Clock) -> None:
    """Without an end time nothing ends it but an operator."""
    worker = Worker(store, clock)

    async def story() -> None:
        await worker.mode_watch.set(replace(EMERGENCY, for_s=None), expected_version=None)
        clock.now_s += 1e7
        await worker.mode_watch.refresh()
        assert worker.mode_watch.mode is Mode.EMERGENCY
        await worker.mode_watch.set(NORMAL, expected_version=1)

    asyncio.run(story())
    assert worker.mode_watch.mode is Mode.NORMAL


def test_what_others_wrote_into_the_store_moves_no_cursor(
    store: FailingStore, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Reason and actor are logged on one line, with control characters as escapes."""
    mode_watch = ModeWatch(store, clock_of(clock.worker_s))
    change = ModeChange(Mode.EMERGENCY, "\x1b]0;owned\x07", "a flood\r\nmode normal\u202e")
    asyncio.run(mode_watch.set(change, None))
    assert r"by \x1b]0;owned\x07: a flood\r\nmode normal\u202e" in caplog.text


# --- the log ----------------------------------------------------------------------------------------


def test_a_worker_that_starts_says_since_when_there_is_an_emergency(
    store: FailingStore, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """It found the mode, nobody has switched it just now; what is switched afterwards is logged as such."""
    asyncio.run(store.set_mode(EMERGENCY, was=ModeState(), expected_version=None))
    clock.now_s += 300
    worker = Worker(store, clock)
    asyncio.run(worker.mode_watch.refresh())
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        "found mode emergency, since 2025-01-12T13:46:40Z, until 2025-01-12T13:56:40Z (version 1) by ops: attack"
    )
    caplog.clear()
    asyncio.run(store.set_mode(NORMAL, was=ModeState(), expected_version=None))
    asyncio.run(worker.mode_watch.refresh())
    assert caplog.messages == ["mode emergency -> normal (version 2) by ops: over"]


def test_a_worker_that_starts_says_little_of_an_emergency_that_has_ended(
    store: FailingStore, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """One that an operator has ended is no warning."""
    caplog.set_level("INFO")
    for change in (EMERGENCY, NORMAL):
        asyncio.run(store.set_mode(change, was=ModeState(), expected_version=None))
    asyncio.run(Worker(store, clock).mode_watch.refresh())
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "found mode normal, since 2025-01-12T13:46:40Z (version 2) by ops: over")
    ]


def test_what_a_worker_switches_first_of_all_was_not_found(
    store: FailingStore, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither was what others switch after it has read that nobody ever did."""
    first, second = Worker(store, clock), Worker(store, clock)

    async def story() -> None:
        await second.mode_watch.refresh()
        await first.mode_watch.set(EMERGENCY, expected_version=None)
        await second.mode_watch.refresh()

    asyncio.run(story())
    assert caplog.messages == ["mode normal -> emergency (version 1) by ops: attack"] * 2
