"""Refreshing the topology in the background: one refresh at a time, not too often, with one result for all waiters."""

from __future__ import annotations

import asyncio

import pytest

from shieldmw.errors import StoreError, StoreUnavailable
from shieldmw.store.redis.topology import TopologyRefresher
from store.stores import AMPLE_S, run


class Look:
    """Something to look for; it waits until it may end, and fails as it is told."""

    def __init__(self, failing: StoreError | None = None) -> None:
        self.count = 0
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.failing = failing

    async def __call__(self) -> None:
        self.count += 1
        await self.may_end.wait()
        if self.failing is not None:
            raise self.failing


async def settle() -> None:
    """Let all tasks go on as far as they can."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_many_who_wait_share_one_look() -> None:
    """And one of them that goes away ends it for none of the others."""

    async def work() -> None:
        refresh = Look()
        refresh.may_end.clear()
        topology = TopologyRefresher(refresh, every_s=60, least_s=60, within_s=AMPLE_S)
        waiting = [asyncio.create_task(topology.now()) for _ in range(5)]
        await settle()
        waiting[0].cancel()
        await settle()
        refresh.may_end.set()
        await asyncio.gather(*waiting[1:])
        assert refresh.count == 1

    run(work())


def test_use_and_doubt_look_only_after_a_pause() -> None:
    """In the background: the caller that suspects a change waits for nothing."""

    async def work() -> None:
        refresh = Look()
        topology = TopologyRefresher(refresh, every_s=60, least_s=0, within_s=AMPLE_S)
        topology.used()
        await settle()
        topology.used()
        await settle()
        assert refresh.count == 1
        topology.suspect()
        topology.suspect()
        await settle()
        assert refresh.count == 2

    run(work())


def test_a_failure_is_told_to_those_who_wait() -> None:
    """To each its own; in the background nobody is bothered."""

    async def work() -> None:
        topology = TopologyRefresher(Look(StoreUnavailable("nobody there")), every_s=0, least_s=0, within_s=AMPLE_S)
        topology.used()
        await settle()
        found = await asyncio.gather(topology.now(), topology.now(), return_exceptions=True)
        assert [str(error) for error in found] == ["nobody there"] * 2
        assert found[0] is not found[1]

    run(work())


def test_closing_ends_a_look_and_the_waiting() -> None:
    """With an error, not with a cancellation that those who wait would take for their own."""

    async def work() -> None:
        refresh = Look()
        refresh.may_end.clear()
        topology = TopologyRefresher(refresh, every_s=60, least_s=60, within_s=AMPLE_S)
        waiting = asyncio.create_task(topology.now())
        await settle()
        await topology.aclose()
        with pytest.raises(StoreUnavailable, match="closed"):
            await waiting

    run(work())


def test_nobody_waits_longer_than_a_budget() -> None:
    """The look goes on all the same, and what it finds is there for the next."""

    async def work() -> None:
        refresh = Look()
        refresh.may_end.clear()
        topology = TopologyRefresher(refresh, every_s=60, least_s=60, within_s=0.01)
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="have not answered in time"):
                await topology.now()
        assert refresh.count == 1
        refresh.may_end.set()
        await topology.now()
        assert refresh.count == 1

    run(work())
