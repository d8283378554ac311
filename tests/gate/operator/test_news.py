"""What a worker tells without being asked: changes and alarms, through the whole wiring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network

from gate.doubles import LoopClock, clock_of, facts, memory_store, pass_time, run
from shieldmw import Mode, ModeState, Settings
from shieldmw.core.alarms import CALM_S, Alarm
from shieldmw.core.decision import Decision
from shieldmw.core.deny import DenyEntry
from shieldmw.core.load import WorkerLoad
from shieldmw.core.mode import ModeChange
from shieldmw.core.overrides import Overrides, OverridesState
from shieldmw.core.seats import NOBODY
from shieldmw.gate.operator.news import LOOK_S, News
from shieldmw.gate.worker import Worker
from shieldmw.store.memory import MemoryStore
from shieldmw.wiring import build_worker


@dataclass
class Told:
    """Keeps what it is told."""

    news: list[str] = field(default_factory=list)

    def limits_changed(self, state: OverridesState) -> None:
        """Limits."""
        self.news.append(f"limits {state.overrides}")

    def denied(self, entries: Sequence[DenyEntry], now_s: float) -> None:
        """Denials."""
        self.news += [f"denied {entry.network}" for entry in entries]

    def alarm_begun(self, alarm: Alarm, why: str, mode: ModeState, now_s: float) -> None:
        """An alarm."""
        self.news.append(f"begun {alarm}")

    def alarm_ended(self, alarm: Alarm, now_s: float) -> None:
        """An end."""
        self.news.append(f"ended {alarm}")


@dataclass
class Watched:
    """A worker that is watched."""

    worker: Worker
    store: MemoryStore
    clock: LoopClock
    told: Told

    @property
    def news(self) -> list[str]:
        """What was told."""
        return self.told.news


async def watched() -> Watched:
    """A started worker whose news is kept."""
    clock, told = LoopClock(), Told()
    store = memory_store(clock)
    settings = Settings(redis_url="memory://", ip_limit="1/hour", ip_burst=1)
    worker = build_worker(settings, store, clock_of(clock.s))
    control = worker.control
    watches = (control._mode_watch, control._limits_watch, worker._deny_watch)
    news = News(told, worker._meter, control.recent, *watches, control._load_reports)
    await worker.start()
    await news.refresher.start()
    return Watched(worker, store, clock, told)


def test_changes_by_operators_are_told_but_not_what_was_there_before() -> None:
    """A worker that starts in the middle of the evening repeats nothing."""

    async def story() -> None:
        here = await watched()
        await here.worker.control.set_limits(
            Overrides({"SHIELD_IP_LIMIT": "5/minute"}), actor="kim", reason="", for_s=None, expected_version=None
        )
        network = ip_network("203.0.113.0/24")
        await here.worker.control.denials.deny(network, 600, actor="kim", reason="", own=None, force=False)
        await pass_time(2 * LOOK_S)
        assert here.news == ["limits SHIELD_IP_LIMIT=5/minute", "denied 203.0.113.0/24"]
        await here.worker.control.denials.undeny(network, "kim")
        await pass_time(2 * LOOK_S)
        assert len(here.news) == 2
        await here.worker.stop()

    run(story())


def test_an_attack_is_told_while_it_lasts_and_once_it_is_over() -> None:
    """Counted over a minute."""

    async def story() -> None:
        here = await watched()
        for _ in range(200):
            for _ in range(60):
                decision = here.worker.gate.decide_now(facts())
                assert isinstance(decision, Decision)
                here.worker.decided(facts(), decision, [])
            await pass_time(1.0)
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
