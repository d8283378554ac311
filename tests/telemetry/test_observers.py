"""What observers of a site are told: refusals, dry runs, evictions, changes of the mode; and that they harm nothing."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import httpx
import pytest

from admin.app import Operator, shielded
from admin.app import run as run_in_real_time
from gate.doubles import LoopClock, clock_of, memory_store, pass_time, run
from shieldmw import (
    Evicted,
    Identity,
    ListenerClass,
    Mode,
    ModeState,
    Refused,
    Settings,
    ShieldMiddleware,
    ShieldObserver,
)
from shieldmw.core.mode import ModeChange
from shieldmw.store.documents import MODE
from shieldmw.telemetry.observers import Reporter
from shieldmw.wiring import build_worker


@dataclass
class Notes(ShieldObserver):
    """An observer that keeps all it is told."""

    refusals: list[Refused] = field(default_factory=list)
    evictions: list[Evicted] = field(default_factory=list)
    modes: list[ModeState] = field(default_factory=list)

    def refused(self, event: Refused) -> None:
        """Keep it."""
        self.refusals.append(event)

    def evicted(self, event: Evicted) -> None:
        """Keep it."""
        self.evictions.append(event)

    def mode_changed(self, state: ModeState) -> None:
        """Keep it."""
        self.modes.append(state)


class Failing(ShieldObserver):
    """An observer with a fault."""

    def refused(self, event: Refused) -> None:
        """Fail."""
        raise RuntimeError("the queue is full")


async def statuses(app: ShieldMiddleware, path: str, count: int, **headers: str) -> list[int]:
    """The statuses of requests from one address."""
    transport = httpx.ASGITransport(app, client=("203.0.113.9", 40_000))
    async with httpx.AsyncClient(transport=transport, base_url="http://shield.test") as client:
        return [(await client.get(path, headers=headers)).status_code for _ in range(count)]


def test_a_refusal_is_reported_with_all_that_a_site_may_count() -> None:
    """Once for each refused request, and never for an allowed one."""

    async def story() -> None:
        notes = Notes()
        app = shielded(observers=[notes], ip_limit="2/minute")
        assert await statuses(app, "/search", 3) == [200, 200, 429]
        (event,) = notes.refusals
        assert (event.outcome, event.reason, event.path) == ("refused", "quota", "/search")
        assert (event.client_address, event.subject) == ("203.0.113.9", None)
        assert (event.listener_class, event.mode) == (ListenerClass.GUEST, Mode.NORMAL)
        assert event.policies == ("ip",)
        assert 0 < event.retry_after_s <= 30

    run_in_real_time(story)


def test_a_member_is_reported_by_its_subject() -> None:
    """As it was verified."""

    async def member(scope: object) -> Identity | None:
        return Identity("ada", ListenerClass.MEMBER)

    async def story() -> None:
        notes = Notes()
        app = shielded(observers=[notes], token_limit="1/minute", authenticate=member)
        assert await statuses(app, "/", 2) == [200, 429]
        assert [(event.subject, event.listener_class) for event in notes.refusals] == [("ada", ListenerClass.MEMBER)]

    run_in_real_time(story)


def test_in_a_dry_run_what_would_be_refused_is_reported() -> None:
    """The request passes."""

    async def story() -> None:
        notes = Notes()
        app = shielded(observers=[notes], ip_limit="1/minute", dry_run=True)
        assert await statuses(app, "/", 2) == [200, 200]
        assert [event.outcome for event in notes.refusals] == ["dry_run"]

    run_in_real_time(story)


def test_a_change_of_the_mode_is_reported_with_its_actor() -> None:
    """When the operator makes it, by the worker that learns of it."""

    async def story() -> None:
        notes = Notes()
        app = shielded(observers=[notes], ip_limit="100/minute")
        operator = Operator(app)
        body = {"mode": "emergency", "for_seconds": 60, "reason": "flood"}
        assert (await operator.put("/mode", body)).status_code == 200
        assert (await operator.put("/mode", {"mode": "normal"})).status_code == 200
        assert [(state.mode, state.reason) for state in notes.modes] == [(Mode.EMERGENCY, "flood"), (Mode.NORMAL, "")]
        assert all(state.actor for state in notes.modes)

    run_in_real_time(story)


def test_an_emergency_that_ends_by_itself_is_reported_once() -> None:
    """Not again when the fleet agrees; and a worker that starts in an emergency reports what it finds."""

    async def story() -> None:
        clock, notes = LoopClock(), Notes()
        store = memory_store(clock)
        emergency = ModeChange(Mode.EMERGENCY, "grace", for_s=30)
        await store.set_document(MODE, emergency, was=ModeState(), expected_version=None)
        settings = Settings(redis_url="memory://")
        worker = build_worker(settings, store, clock_of(clock.s), observers=[notes])
        await worker.start()
        await pass_time(2)
        assert [(state.mode, state.actor) for state in notes.modes] == [(Mode.EMERGENCY, "grace")]
        await pass_time(60)
        emergency_state, end = notes.modes
        assert (end.mode, end.actor, end.reason) == (Mode.NORMAL, "shieldmw", "its end time has come")
        assert end.until_s is None
        assert emergency_state.until_s is not None
        assert end.since_s == pytest.approx(emergency_state.until_s, abs=1)
        await worker.stop()

    run(story())


def test_a_worker_in_normal_mode_reports_nothing_at_its_start() -> None:
    """There is no change."""

    async def story() -> None:
        clock, notes = LoopClock(), Notes()
        settings = Settings(redis_url="memory://")
        worker = build_worker(settings, memory_store(clock), clock_of(clock.s), observers=[notes])
        await worker.start()
        await pass_time(5)
        await worker.stop()
        assert notes.modes == []

    run(story())


def test_evictions_are_reported() -> None:
    """With their class and count."""
    notes = Notes()
    Reporter([notes]).evicted(Evicted(ListenerClass.GUEST, 3))
    assert notes.evictions == [Evicted(ListenerClass.GUEST, 3)]


def test_an_observer_that_fails_is_logged_and_the_others_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """The client gets its refusal, and a flood of failures is one line."""

    async def story() -> None:
        notes = Notes()
        app = shielded(observers=[Failing(), notes], ip_limit="1/minute")
        assert await statuses(app, "/", 5) == [200, 429, 429, 429, 429]
        assert len(notes.refusals) == 4

    with caplog.at_level(logging.ERROR, logger="shieldmw.observers"):
        run_in_real_time(story)
    (record,) = caplog.records
    assert "the queue is full" in (record.exc_text or str(record.exc_info))
    assert record.getMessage() == "an observer of the shield has failed (failed: 1); the request goes on"


def test_an_observer_without_methods_of_its_own_is_fine() -> None:
    """Each method may be left out."""

    async def story() -> None:
        app = shielded(observers=[ShieldObserver()], ip_limit="1/minute")
        assert await statuses(app, "/", 2) == [200, 429]
        assert (await Operator(app).put("/mode", {"mode": "emergency"})).status_code == 200

    run_in_real_time(story)
