"""The mode on one worker: the store's clock, emergencies without an end, and the log."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import pytest

from gate.doubles import clock_of
from gate.fleet.watched import EMERGENCY, NORMAL, Clock, FailingStore, ModeWorker
from shieldmw.core.mode import Mode, ModeChange, ModeState
from shieldmw.gate.fleet.mode_watch import CLOCK_READS, ModeWatch
from shieldmw.store.documents import MODE


def test_a_worker_whose_clock_is_wrong_ends_with_the_others(store: FailingStore, clock: Clock) -> None:
    """What counts is the store's clock at the last read, not when the worker's own clock began."""
    right, wrong = ModeWorker(store, clock), ModeWorker(store, replace(clock))
    wrong.watch = ModeWatch(store, clock_of(lambda: clock.now_s - 5_000_000.0))

    async def story() -> None:
        await right.watch.set(EMERGENCY, expected_version=None)
        await wrong.watch.refresh()

    asyncio.run(story())
    for later_s in (599.9, 0.2):
        clock.now_s += later_s
        assert wrong.watch.mode is right.watch.mode
    assert wrong.watch.mode is Mode.NORMAL


def test_a_slow_reply_does_not_set_the_clock_back(store: FailingStore, clock: Clock) -> None:
    """The store's clock is known by the best of the last reads: on a busy machine many are late, each by another time,
    and workers must agree on which of two listeners came first.
    """
    worker = ModeWorker(store, clock)

    def late(by_s: float) -> None:
        clock.now_s += by_s

    async def story() -> None:
        await worker.watch.refresh()
        for number in range(CLOCK_READS - 1):
            store.on_reply = partial(late, 0.01 * (number + 1))
            await worker.watch.refresh()
            assert worker.watch.store_now_s() == pytest.approx(clock.now_s, abs=0.001)
        await worker.watch.refresh()
        assert worker.watch.store_now_s() == pytest.approx(clock.now_s - 0.01, abs=0.001), "the best of those left"

    asyncio.run(story())


@pytest.mark.parametrize("step_s", [-5.0, -0.1, -0.01, 0.01, 0.1, 5.0])
def test_a_clock_that_steps_is_followed_at_once(store: FailingStore, clock: Clock, step_s: float) -> None:
    """Back and forth, by however little."""
    worker = ModeWorker(store, clock)

    async def story() -> None:
        for _ in range(5):
            await worker.watch.refresh()
        clock.worker_behind_s += step_s  # the store's clock steps, the worker's does not
        clock.now_s += step_s
        await worker.watch.refresh()
        assert worker.watch.store_now_s() == pytest.approx(clock.now_s, abs=0.001)

    asyncio.run(story())


def test_an_emergency_without_an_end_lasts(store: FailingStore, clock: Clock) -> None:
    """Without an end time nothing ends it but an operator."""
    worker = ModeWorker(store, clock)

    async def story() -> None:
        await worker.watch.set(replace(EMERGENCY, for_s=None), expected_version=None)
        clock.now_s += 1e7
        await worker.watch.refresh()
        assert worker.watch.mode is Mode.EMERGENCY
        await worker.watch.set(NORMAL, expected_version=1)

    asyncio.run(story())
    assert worker.watch.mode is Mode.NORMAL


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
    asyncio.run(store.set_document(MODE, EMERGENCY, was=ModeState(), expected_version=None))
    clock.now_s += 300
    worker = ModeWorker(store, clock)
    asyncio.run(worker.watch.refresh())
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        "found mode emergency, since 2025-01-12T13:46:40Z, until 2025-01-12T13:56:40Z (version 1) by ops: attack"
    )
    caplog.clear()
    asyncio.run(store.set_document(MODE, NORMAL, was=ModeState(), expected_version=None))
    asyncio.run(worker.watch.refresh())
    assert caplog.messages == ["mode emergency -> normal (version 2) by ops: over"]


def test_a_worker_that_starts_says_little_of_an_emergency_that_has_ended(
    store: FailingStore, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """One that an operator has ended is no warning."""
    caplog.set_level("INFO")
    for change in (EMERGENCY, NORMAL):
        asyncio.run(store.set_document(MODE, change, was=ModeState(), expected_version=None))
    asyncio.run(ModeWorker(store, clock).watch.refresh())
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "found mode normal, since 2025-01-12T13:46:40Z (version 2) by ops: over")
    ]


def test_what_a_worker_switches_first_of_all_was_not_found(
    store: FailingStore, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither was what others switch after it has read that nobody ever did."""
    first, second = ModeWorker(store, clock), ModeWorker(store, clock)

    async def story() -> None:
        await second.watch.refresh()
        await first.watch.set(EMERGENCY, expected_version=None)
        await second.watch.refresh()

    asyncio.run(story())
    assert caplog.messages == ["mode normal -> emergency (version 1) by ops: attack"] * 2
