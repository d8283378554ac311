"""The limits on one worker: what undoing restores, foreign data, and other settings."""

from __future__ import annotations

import asyncio
import logging

import pytest

from gate.fleet.watched import STRICT, Clock, FailingStore, LimitsWorker
from shieldmw.core.overrides import Earlier, Overrides, OverridesChange, RuleOverride
from shieldmw.errors import StoreError
from shieldmw.store.documents import LIMITS

STRICTER = Overrides({"SHIELD_IP_LIMIT": "2/minute"})


def test_what_a_change_replaces_is_kept_with_it(store: FailingStore, clock: Clock) -> None:
    """Also if another worker made the change before, and with its end time: that is what undoing restores."""
    here, there = LimitsWorker(store, clock), LimitsWorker(store, clock)

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
    here, there = LimitsWorker(store, clock), LimitsWorker(store, clock)

    async def story() -> None:
        await here.set(STRICT)
        await there.watch.refresh()
        await here.set(STRICTER)
        assert await there.set(STRICT, expected_version=2)
        assert there.watch.state.before.overrides == STRICTER

    asyncio.run(story())


def test_a_change_replaces_what_others_wrote(store: FailingStore, clock: Clock) -> None:
    """Data that nobody can read is no reason not to change limits; what is known stays until then.

    Not for a change that expects a version: nobody knows which one is there.
    """
    worker = LimitsWorker(store, clock)

    async def story() -> None:
        await worker.set(STRICT)
        store.foreign = True
        with pytest.raises(StoreError):
            await worker.watch.refresh()
        assert worker.amount == 3
        with pytest.raises(StoreError):
            await worker.set(STRICTER, expected_version=1)
        assert worker.amount == 3
        assert await worker.set(STRICTER)
        assert worker.amount == 2

    asyncio.run(story())


def test_a_worker_with_other_rules_says_so_and_obeys_the_rest(
    store: FailingStore, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """In its log and in what it has ignored; hostile text stays on its line."""
    worker = LimitsWorker(store, clock)
    unknown = Overrides(dict(STRICT.values), {"sea\x1b[2Jrch\nx": RuleOverride(dry_run=True)})

    async def story() -> None:
        change = OverridesChange(unknown, "ops")
        await store.set_document(LIMITS, change, was=worker.watch.state, expected_version=None)
        await worker.watch.refresh()

    with caplog.at_level(logging.WARNING):
        asyncio.run(story())
    assert worker.amount == 3
    (line,) = worker.watch.in_force.ignored
    assert "there is no such rule here: SHIELD_RULES has none" in line
    assert any("do not fit the settings of this worker" in message for message in caplog.messages)
    assert all(message.isprintable() for message in caplog.messages)
