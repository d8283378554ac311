"""Operators' requests through the store: the same rules as in workers, and nothing is left behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from shieldmw import Settings
from shieldmw.core.deny import DenyEntry, DenyList
from shieldmw.core.distinct import Distinct
from shieldmw.core.load import WorkerLoad
from shieldmw.core.mode import LONGEST_S, Mode, ModeChange
from shieldmw.core.overrides import Overrides, OverridesChange, OverridesState, RuleOverride
from shieldmw.core.seats import Audience, Capacity, Fleet, Report
from shieldmw.errors import NotPermitted, SettingsError, StoreError, StoreUnavailable
from shieldmw.gate.operator.direct import DirectControl
from shieldmw.store.documents import LIMITS, MODE
from shieldmw.store.memory import MemoryStore
from shieldmw.store.port import C, Document, S, Stored
from shieldmw.wiring import build_worker

LIMIT_S = 30
EMERGENCY = ModeChange(Mode.EMERGENCY, "kim", "flood", for_s=60)


class Broken(MemoryStore):
    """A store that fails to be looked at, or to tell of the fleet."""

    look_fails: StoreError | None = None
    fleet_fails: StoreError | None = None
    list_fails: StoreError | None = None

    async def document(self, kind: Document[C, S]) -> Stored[S]:
        """The mode or the limits, or the failure."""
        if self.look_fails is not None:
            raise self.look_fails
        return await super().document(kind)

    async def deny_list(self, known_version: int | None) -> DenyList | None:
        """The deny list, or the failure."""
        if self.list_fails is not None:
            raise self.list_fails
        return await super().deny_list(known_version)

    async def fleet(self, now_s: float) -> Fleet:
        """The fleet, or the failure."""
        if self.fleet_fails is not None:
            raise self.fleet_fails
        return await super().fleet(now_s)


class Ahead(MemoryStore):
    """A store whose clock is an hour ahead of this process's."""

    async def document(self, kind: Document[C, S]) -> Stored[S]:
        """The mode or the limits, at a time that is an hour later."""
        stored = await super().document(kind)
        return replace(stored, now_s=stored.now_s + 3600)


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(LIMIT_S):
            await work()

    asyncio.run(limited())


def direct(store: MemoryStore, **values: Any) -> DirectControl:
    return DirectControl(store, Settings(**values))


def test_a_worker_follows_and_the_audit_has_what_was_before() -> None:
    """As if another worker had been asked."""

    async def work() -> None:
        store = MemoryStore(b"secret")
        worker = build_worker(Settings(), store).control
        assert worker is not None
        assert await direct(store).set_mode(EMERGENCY, None)
        status = await worker.status()
        assert (status.mode.mode, status.mode.version, status.mode.actor) == (Mode.EMERGENCY, 1, "kim")
        assert await direct(store).set_mode(ModeChange(Mode.NORMAL, "jo"), 1)
        assert [(entry.who, entry.was, entry.now) for entry in await store.audit(9)] == [
            ("jo", "emergency", "normal"),
            ("kim", "normal", "emergency, for 60 s"),
        ]

    run(work)


def test_a_change_for_another_version_changes_nothing() -> None:
    """False, and the status says what is in force."""

    async def work() -> None:
        store = MemoryStore(b"secret")
        await direct(store).set_mode(EMERGENCY, None)
        late = direct(store)
        assert not await late.set_mode(ModeChange(Mode.NORMAL, "jo"), 0)
        assert (await late.status()).mode.actor == "kim"
        assert len(await store.audit(9)) == 1

    run(work)


def test_a_denial_ends_by_the_stores_clock() -> None:
    """Like one through a worker, whatever the clock of the operator's machine says."""

    async def work() -> None:
        store = Ahead(b"secret")
        at_once, network = (await store.document(MODE)).now_s, ip_network("203.0.113.0/24")
        denials = await direct(store).denials()
        entry = await denials.deny(network, 60, actor="kim", reason="flood", own=None, force=False)
        assert isinstance(entry, DenyEntry)
        assert entry.until_s == pytest.approx(at_once + 60, abs=LIMIT_S)
        assert await (await direct(store).denials()).denied() == [entry]

    run(work)


def test_limits_that_do_not_fit_the_settings_are_refused() -> None:
    """As in a worker; what fits is in force for workers, and told with what it replaced."""

    async def work() -> None:
        store = MemoryStore(b"secret")
        control = direct(store)
        change: dict[str, Any] = {"actor": "kim", "reason": "flood", "for_s": 60, "expected_version": 0}
        with pytest.raises(SettingsError, match="no such rule here"):
            await control.set_limits(Overrides({}, {"nosuch": RuleOverride(dry_run=True)}), **change)
        assert await control.set_limits(Overrides({"SHIELD_IP_LIMIT": "5/minute"}), **change)
        report = await direct(store).limits()
        assert (report.state.version, report.in_force["SHIELD_IP_LIMIT"]) == (1, "5/minute")
        assert (report.before.overrides, report.store_is_up) == (Overrides(), True)
        assert [(entry.who, entry.what) for entry in await direct(store).audit(9)] == [("kim", "limits")]

    run(work)


def test_an_emergency_without_an_end_gets_one() -> None:
    """The end is the same as through a worker."""

    async def work() -> None:
        control = direct(MemoryStore(b"secret"))
        await control.set_mode(ModeChange(Mode.EMERGENCY, "kim"), None)
        status = await control.status()
        mode = status.mode
        assert mode.until_s is not None
        assert mode.until_s - status.now_s == pytest.approx(LONGEST_S, abs=LIMIT_S)

    run(work)


def test_it_counts_the_workers_and_is_none_of_them() -> None:
    """Their listeners and their number, however often it looks; capacities not given are those of the settings."""

    async def work() -> None:
        store = MemoryStore(b"secret")
        for name in "ab":
            report = Report(name, Audience(1, 10, 100), Audience(1, 10, 150))
            await store.seats(report, Capacity(1000, 1000))
            hashes = tuple(range(20)) if name == "a" else tuple(range(10, 60))
            here = WorkerLoad(name, "web-1", 1, time.time(), 0, 0, 4, Audience(), Audience(), Audience(), 0)
            turned_away = (Distinct(), Distinct(), Distinct(len(hashes), hashes))
            await store.report_load(replace(here, unseated=turned_away))
        control = direct(store, capacity=100, emergency_guest_share=0.5)
        for _ in range(3):
            seats = (await control.status()).seats
            assert (seats.workers, seats.fleet_wide) == (2, True)
            assert (seats.present, seats.demand) == (Audience(2, 20, 200), Audience(2, 20, 260))
            assert seats.capacity == Capacity(100, 100)
        await control.set_mode(EMERGENCY, None)
        assert (await control.status()).seats.capacity == Capacity(100, 50)
        third = Report("c", Audience(), Audience())
        assert (await store.seats(third, Capacity(1000, 1000))).workers == 3

    run(work)


def test_a_fleet_that_cannot_be_counted_keeps_nobody_from_the_switch() -> None:
    """The seats may lie on a node that is away, or be somebody else's value."""

    async def work() -> None:
        store = Broken(b"secret")
        store.fleet_fails = StoreUnavailable("away")
        control = direct(store)
        assert await control.set_mode(EMERGENCY, None)
        status = await control.status()
        assert (status.mode.mode, status.seats.workers, status.seats.fleet_wide) == (Mode.EMERGENCY, None, False)

    run(work)


def test_what_cannot_be_read_is_replaced() -> None:
    """A foreign value in place of the mode is told of as a store that is away, and the next change replaces it."""

    async def work() -> None:
        store = Broken(b"secret")
        store.look_fails = StoreError("the mode in the store cannot be read")
        control = direct(store)
        assert not (await control.status()).store_is_up
        assert await control.set_mode(EMERGENCY, None)

    run(work)


@pytest.mark.parametrize("error", [StoreUnavailable("away"), NotPermitted("NOPERM")])
def test_a_store_that_does_not_answer_is_told_and_nothing_changes(error: StoreError) -> None:
    """Neither the status nor a change is made up."""

    async def work() -> None:
        store = Broken(b"secret")
        store.look_fails = error
        with pytest.raises(type(error)):
            await direct(store).status()
        with pytest.raises(type(error)):
            await direct(store).set_mode(EMERGENCY, None)
        assert await store.audit(9) == []

    run(work)


def test_a_deny_list_that_may_not_be_read_is_not_taken_for_an_empty_one() -> None:
    """The store's rights may allow the mode and not the list."""

    async def work() -> None:
        store = Broken(b"secret")
        store.list_fails = NotPermitted("NOPERM")
        with pytest.raises(NotPermitted):
            await (await direct(store).denials()).denied()

    run(work)


def test_the_status_has_the_limits_that_operators_changed() -> None:
    """Read from the store, where they are written by workers; without them, those of the settings."""

    async def work() -> None:
        store = MemoryStore(b"secret")
        change = OverridesChange(Overrides({"SHIELD_CAPACITY": 7}), "ops")
        assert (await direct(store, capacity=10).status()).seats.capacity == Capacity(10, 10)
        await store.set_document(LIMITS, change, was=OverridesState(), expected_version=None)
        status = await direct(store, capacity=10).status()
        assert status.seats.capacity == Capacity(7, 7)
        assert (status.settings["SHIELD_CAPACITY"], status.limits.version) == ("7", 1)

    run(work)
