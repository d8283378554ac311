"""What a worker tells without being asked: changes and alarms, through the whole wiring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import cast

import pytest

from gate.doubles import LoopClock, clock_of, facts, memory_store, pass_time, run
from shieldmw import Mode, ModeState, Settings
from shieldmw.core.alarms import CALM_S, Alarm
from shieldmw.core.decision import Decision
from shieldmw.core.deny import DenyEntry
from shieldmw.core.load import WorkerLoad
from shieldmw.core.metrics import UPDATED, cell
from shieldmw.core.mode import ModeChange
from shieldmw.core.overrides import Overrides, OverridesState
from shieldmw.core.seats import NOBODY
from shieldmw.errors import StoreUnavailable
from shieldmw.gate.metrics.counts import Counts
from shieldmw.gate.metrics.meter import Meter
from shieldmw.gate.metrics.slots import WorkerValues
from shieldmw.gate.operator.news import LOOK_S, SILENT_S, News
from shieldmw.gate.worker import Worker
from shieldmw.store.memory import MemoryStore
from shieldmw.wiring import build_worker


@dataclass
class Told:
    """Keeps what it is told."""

    news: list[str] = field(default_factory=list)
    begun_s: float = 0.0

    def limits_changed(self, state: OverridesState) -> None:
        """Limits."""
        self.news.append(f"limits {state.overrides}")

    def denied(self, entries: Sequence[DenyEntry], now_s: float) -> None:
        """Denials."""
        self.news += [f"denied {entry.network}" for entry in entries]

    def alarm_begun(self, alarm: Alarm, why: str, mode: ModeState, begun_s: float) -> None:
        """An alarm."""
        self.news.append(f"begun {alarm}")
        self.begun_s = begun_s

    def alarm_ended(self, alarm: Alarm, now_s: float) -> None:
        """An end."""
        self.news.append(f"ended {alarm}")


@dataclass
class Beside:
    """The meter of a worker that has another one before it, which has been silent for so long."""

    meter: Meter
    silent_s: float | None = None  # None: it is not running

    @property
    def counts(self) -> Counts:
        """This worker's own."""
        return self.meter.counts

    def workers(self) -> Sequence[WorkerValues]:
        """The other one, with the same values, and this one."""
        (own,) = self.meter.workers()
        cells = list(own.cells)
        cells[cell(UPDATED)] -= self.silent_s or 0
        return [WorkerValues("-1", cells, is_running=self.silent_s is not None), own]


@dataclass
class Watched:
    """A worker that is watched."""

    worker: Worker
    store: MemoryStore
    clock: LoopClock
    told: Told
    beside: Beside

    @property
    def news(self) -> list[str]:
        """What was told."""
        return self.told.news


async def watched(store: MemoryStore | None = None) -> Watched:
    """A started worker whose news is kept."""
    clock, told = LoopClock(), Told()
    store = memory_store(clock) if store is None else store
    settings = Settings(redis_url="memory://", ip_limit="1/hour", ip_burst=1)
    worker = build_worker(settings, store, clock_of(clock.s))
    control = worker.control
    watches = (control._mode_watch, control._limits_watch, worker._deny_watch)
    beside = Beside(worker._meter)
    news = News(told, cast(Meter, beside), control.recent, *watches, control._load_reports)
    await worker.start()
    await news.refresher.start()
    return Watched(worker, store, clock, told, beside)


async def change(here: Watched, limit: str, network: str) -> None:
    """An operator changes a limit, and denies a network."""
    control = here.worker.control
    await control.set_limits(
        Overrides({"SHIELD_IP_LIMIT": limit}), actor="kim", reason="", for_s=None, expected_version=None
    )
    await control.denials.deny(ip_network(network), 600, actor="kim", reason="", own=None, force=False)


async def flood(here: Watched, seconds: int) -> None:
    """A client that is far over its limit."""
    for _ in range(seconds):
        for _ in range(60):
            decision = here.worker.gate.decide_now(facts())
            assert isinstance(decision, Decision)
            here.worker.decided(facts(), decision, [])
        await pass_time(1.0)


def test_changes_by_operators_are_told_but_not_what_was_there_before() -> None:
    """A worker that starts in the middle of the evening repeats nothing."""

    async def story() -> None:
        here = await watched()
        await change(here, "5/minute", "203.0.113.0/24")
        await pass_time(2 * LOOK_S)
        assert here.news == ["limits SHIELD_IP_LIMIT=5/minute", "denied 203.0.113.0/24"]
        await here.worker.control.denials.undeny(ip_network("203.0.113.0/24"), "kim")
        await pass_time(2 * LOOK_S)
        assert len(here.news) == 2
        await here.worker.stop()

    run(story())


def test_an_attack_is_told_while_it_lasts_and_once_it_is_over() -> None:
    """Counted over a minute."""

    async def story() -> None:
        here = await watched()
        await flood(here, 200)
        assert here.news == ["begun attack_suspected"]
        await pass_time(60 + CALM_S + 2 * LOOK_S)
        assert here.news == ["begun attack_suspected", "ended attack_suspected"]
        await here.worker.stop()

    run(story())


def test_workers_that_do_not_follow_and_an_emergency_that_ends_are_told() -> None:
    """A worker that is stuck in another mode still reports its load."""

    async def story() -> None:
        here = await watched()
        await here.worker.control.set_mode(ModeChange(Mode.EMERGENCY, "kim", "flood", 400), None)
        for _ in range(30):
            stuck = WorkerLoad("stuck", "web-2", 7, here.worker.control.now_s(), 0, 0, 4, NOBODY, NOBODY, NOBODY, 0, 0)
            await here.store.report_load(stuck)
            await pass_time(1.0)
        assert here.news == ["begun workers_disagree"]
        await pass_time(90.0)
        assert here.news == ["begun workers_disagree", "begun emergency_ends"]
        await here.worker.stop()

    run(story())


@pytest.mark.parametrize(
    ("silent_s", "told"),
    [(None, True), (0.0, False), (SILENT_S - 1, False), (SILENT_S, True)],
    ids=["dead", "alive", "slow", "hung"],
)
def test_the_first_worker_that_is_not_silent_tells(silent_s: float | None, told: bool) -> None:
    """A process whose loop hangs still exists."""

    async def story() -> None:
        here = await watched()
        here.beside.silent_s = silent_s
        await change(here, "5/minute", "203.0.113.0/24")
        await pass_time(2 * LOOK_S)
        assert bool(here.news) is told
        await here.worker.stop()

    run(story())


def test_a_worker_that_takes_over_tells_what_has_begun_and_whoever_told_it_tells_the_end() -> None:
    """The one before it may have died before it told. Of two that tell, the webhook lets one."""

    async def story() -> None:
        here = await watched()
        here.beside.silent_s = 0.0
        await flood(here, 200)
        assert here.news == []
        here.beside.silent_s = None
        await flood(here, 20)
        assert here.told.begun_s < here.worker.control.now_s() - 20, "the time is that of its beginning"
        here.beside.silent_s = 0.0
        await pass_time(60 + CALM_S + 2 * LOOK_S)
        assert here.news == ["begun attack_suspected", "ended attack_suspected"]
        await here.worker.stop()

    run(story())


def test_what_was_there_before_is_not_told_if_the_store_is_away_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has not read yet knows of no change."""

    async def away(*_: object) -> None:
        raise StoreUnavailable("no answer")

    async def story() -> None:
        before = await watched()
        await change(before, "5/minute", "203.0.113.0/24")
        with monkeypatch.context() as patched:
            patched.setattr(before.store, "document", away)
            patched.setattr(before.store, "deny_list", away)
            here = await watched(before.store)
            await pass_time(2 * LOOK_S)
        await pass_time(4 * LOOK_S)
        assert here.news == []
        await change(before, "6/minute", "198.51.100.0/24")
        await pass_time(2 * LOOK_S)
        assert here.news == ["limits SHIELD_IP_LIMIT=6/minute", "denied 198.51.100.0/24"]
        await here.worker.stop()
        await before.worker.stop()

    run(story())
