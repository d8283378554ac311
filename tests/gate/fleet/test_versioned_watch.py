"""What the mode and the limits on one worker have in common: kept if anything fails, and ended at their end time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from gate.fleet.watched import Clock, FailingStore, LimitsWorker, ModeWorker
from shieldmw.errors import StoreUnavailable

Watched = ModeWorker | LimitsWorker
Start = Callable[[], Watched]


@pytest.fixture(params=[ModeWorker, LimitsWorker], ids=["mode", "limits"])
def start(request: pytest.FixtureRequest, store: FailingStore, clock: Clock) -> Start:
    """Starts a worker."""
    return lambda: request.param(store, clock)


def test_a_change_is_in_force_where_it_was_made_and_after_a_refresh_elsewhere(start: Start) -> None:
    """Every worker obeys, and tells those who follow exactly once."""
    here, there = start(), start()

    async def story() -> None:
        assert await here.turn(True)
        assert (here.is_on, there.is_on) == (True, False)
        for _ in range(3):
            for worker in (there, here):
                await worker.watch.refresh()
                worker.tick()

    asyncio.run(story())
    assert there.watch.state == here.watch.state
    assert here.told == there.told == [True]


def test_an_operator_who_expects_another_version_learns_how_it_is(start: Start) -> None:
    """A change refused by its If-Match changes nothing, but the worker then knows what is in force."""
    first, second = start(), start()

    async def story() -> None:
        assert await first.turn(True, expected_version=0)
        assert not await second.turn(False, expected_version=0)

    asyncio.run(story())
    assert second.watch.state == first.watch.state
    assert (second.is_on, second.watch.state.version) == (True, 1)


def test_a_change_while_it_is_read_is_no_loss(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """What was read is older than what has been set meanwhile; an operator would be alarmed for nothing."""
    worker = start()

    async def story() -> None:
        await worker.turn(True)
        await asyncio.gather(worker.watch.refresh(), worker.turn(False))

    asyncio.run(story())
    assert (worker.is_on, worker.watch.state.version) == (False, 2)
    assert "had lost" not in caplog.text


def test_losing_the_store_changes_nothing(start: Start, store: FailingStore) -> None:
    """While the store is away all stays; a change that cannot be made is an error and no change."""
    worker = start()

    async def story() -> None:
        await worker.turn(True)
        store.away = True
        for attempt in (worker.watch.refresh(), worker.watch.look(), worker.turn(False)):
            with pytest.raises(StoreUnavailable):
                await attempt

    asyncio.run(story())
    assert (worker.is_on, worker.watch.state.version, worker.told) == (True, 1, [True])


def test_a_store_that_comes_back_empty_is_told_again(
    start: Start, store: FailingStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A change outlives the store's data: a worker that knows it restores it, and the others learn it from there."""
    knows, restarted = start(), start()

    async def story() -> None:
        await knows.turn(True)
        store.lose()
        await knows.watch.look()
        await restarted.watch.refresh()
        assert not restarted.is_on, "only to look restores nothing"
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            await knows.watch.refresh()
        await restarted.watch.refresh()

    asyncio.run(story())
    assert restarted.watch.state == knows.watch.state
    assert restarted.is_on
    assert knows.told == [True]
    assert caplog.messages[0] == knows.lost


def test_a_change_that_is_refused_by_an_emptied_store_opens_no_gate(start: Start, store: FailingStore) -> None:
    """A change that expects the version of an emptied store is refused, and the worker keeps what it knows."""
    worker = start()

    async def story() -> None:
        await worker.turn(True)
        store.lose()
        assert not await worker.turn(False, expected_version=0)

    asyncio.run(story())
    assert (worker.is_on, worker.watch.state.version) == (True, 1)


def test_of_two_that_know_the_higher_version_wins(start: Start, store: FailingStore) -> None:
    """A worker that knows an older change and comes first does not undo a newer one."""
    old, new = start(), start()

    async def story() -> None:
        await old.turn(True)
        await new.watch.refresh()
        await new.turn(False)
        store.lose()
        await old.watch.refresh()
        await new.watch.refresh()
        await old.watch.refresh()

    asyncio.run(story())
    assert old.watch.state == new.watch.state
    assert (old.is_on, old.watch.state.version) == (False, 2)


def test_a_change_ends_by_itself_and_the_audit_says_so(start: Start, store: FailingStore, clock: Clock) -> None:
    """At its end time it ends in the whole fleet, once, whatever number of workers see it."""
    workers = [start() for _ in range(5)]

    async def story() -> None:
        await workers[0].turn(True)
        for after_s in (0.0, 599.9):
            clock.now_s += after_s
            for worker in workers:
                await worker.watch.refresh()
                assert worker.is_on
        clock.now_s += 0.2
        await asyncio.gather(*(worker.watch.refresh() for worker in workers))
        for worker in workers:
            await worker.watch.refresh()
        ended, begun = await store.audit(10)
        assert (ended.who, f"{ended.was}, for 600 s", begun.who) == ("shieldmw", begun.now, "ops")
        assert (ended.now, ended.why) == workers[0].ended

    asyncio.run(story())
    assert {(worker.watch.state.version, worker.is_on) for worker in workers} == {(2, False)}


def test_a_change_ends_by_itself_also_while_the_store_is_away(start: Start, store: FailingStore, clock: Clock) -> None:
    """At its end time by the worker's own clock, and those who follow are told once."""
    worker = start()

    async def story() -> None:
        await worker.turn(True)
        store.away = True
        for after_s, is_on in ((599.0, True), (2.0, False), (1.0, False)):
            clock.now_s += after_s
            with pytest.raises(StoreUnavailable):
                await worker.watch.refresh()
            worker.tick()
            assert worker.is_on is is_on
        assert worker.told == [True, False]
        store.away = False
        await worker.watch.refresh()

    asyncio.run(story())
    assert (worker.is_on, worker.watch.state.version) == (False, 2)
