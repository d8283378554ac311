"""Limits that change while workers decide: what was spent stays spent, and nothing is admitted beyond the new ones."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gate.doubles import FlakyStore, LeasingStore, LoopClock, clock_of, facts, loop_time, nth_address, pass_time, run
from shieldmw import Settings
from shieldmw.core.decision import Decision
from shieldmw.core.mode import Mode, ModeChange
from shieldmw.core.overrides import Overrides, RuleOverride, Value
from shieldmw.errors import StoreUnavailable
from shieldmw.gate.worker import Worker
from shieldmw.wiring import build_worker

RULES = json.dumps(
    [
        {"name": "search", "path": "/search", "limits": "3/hour", "cost": 1},
        {"name": "dear", "path": "/dear", "limits": "6/hour", "cost": 5, "emergency": "closed", "dry_run": True},
        {"name": "all", "path": "/all", "limits": "4/hour", "per": "everyone", "dry_run": True},
    ]
)


class Fleet:
    """Two workers over one store that charges ahead as the scripts do."""

    def __init__(self, **values: Any) -> None:
        self.clock = LoopClock()
        self.inner = LeasingStore(self.clock)
        self.store = FlakyStore(self.inner)
        settings = Settings(**{"ip_limit": "100/hour", "rules": RULES, **values})
        self.workers = [build_worker(settings, self.store, clock_of(loop_time)) for _ in range(2)]

    async def change(
        self, values: dict[str, Value] | None = None, for_s: int | None = None, **rules: RuleOverride
    ) -> None:
        """An operator changes limits, and both workers have heard of it."""
        await self.workers[0].control.set_limits(
            Overrides(values or {}, rules), actor="ops", reason="", for_s=for_s, expected_version=None
        )
        await self.workers[1].control.limits()

    async def ask(self, worker: int, address: str = "203.0.113.7", path: str = "/") -> Decision:
        """One request."""
        return await self.workers[worker].gate.decide(facts(peer=address, path=path))

    async def admitted(self, requests: int, address: str = "203.0.113.7", path: str = "/") -> int:
        """How many of so many requests pass, by both workers in turn."""
        decisions = [await self.ask(number % 2, address, path) for number in range(requests)]
        return sum(not decision.refused for decision in decisions)


def told(story: Callable[[Fleet], Awaitable[None]], **values: Any) -> None:
    """Run a story of started workers."""

    async def work() -> None:
        fleet = Fleet(**values)
        for worker in fleet.workers:
            await worker.start()
        try:
            await story(fleet)
        finally:
            for worker in fleet.workers:
                await worker.stop()

    run(work())


def test_what_was_spent_stays_spent() -> None:
    """A client that has spent 60 of 100 has 4 of 10 left; one that has spent all has none; a new one has all 10."""

    async def story(fleet: Fleet) -> None:
        some, all_, new = map(nth_address, range(3))
        assert await fleet.admitted(60, some) == 60
        assert await fleet.admitted(110, all_) == 100
        await fleet.change({"SHIELD_IP_LIMIT": "10/hour"})
        await pass_time(1)  # leases are given back
        assert await fleet.admitted(20, all_) == 0
        assert await fleet.admitted(20, some) in (3, 4)  # a charge that was leased meanwhile refills in its own time
        assert await fleet.admitted(20, new) == 10
        await fleet.change({})
        assert await fleet.admitted(200, all_) <= 1

    told(story)


def test_a_lease_of_the_old_limit_is_not_spent_under_the_new_one() -> None:
    """Charges that are held in advance when the limit is tightened are not spent, and are given back."""

    async def story(fleet: Fleet) -> None:
        hot, other = nth_address(9), nth_address(10)
        for address in (hot, other):
            assert await fleet.admitted(40, address) == 40
        assert fleet.inner.leased, "nobody has a lease"
        await fleet.change({"SHIELD_IP_LIMIT": "2/hour"})
        assert await fleet.admitted(20, hot) == 1, "of the two it has spent four tenths"
        await pass_time(1)
        assert fleet.inner.given_back_us

    told(story)


def test_known_refusals_stay_known() -> None:
    """At the moment of a flood a change costs the store no call for each client that is refused anyway."""

    async def story(fleet: Fleet) -> None:
        flood = [nth_address(number) for number in range(20)]
        for address in flood:
            assert await fleet.admitted(8, address, "/search") == 3
        await fleet.change({"SHIELD_TOKEN_LIMIT": "9/second"})
        calls = fleet.store.calls
        for address in flood:
            assert await fleet.admitted(8, address, "/search") == 0
        assert fleet.store.calls == calls

    told(story)


def test_a_limit_of_all_guests_can_be_turned_on_and_changed() -> None:
    """Workers that had none share one from then on; a portion of the old one is not spent under the new one."""

    async def story(fleet: Fleet) -> None:
        async def pass_of(first: int) -> int:
            return sum([await fleet.admitted(1, nth_address(first + number)) for number in range(100)])

        assert await pass_of(0) == 100
        await fleet.change({"SHIELD_GUESTS_LIMIT": "40/hour"})
        assert await pass_of(100) == 40
        await fleet.change({"SHIELD_GUESTS_LIMIT": "80/hour"})
        assert await pass_of(200) <= 1, "what was spent of it counts in the same part of the new one"
        await fleet.change({})
        assert await pass_of(300) == 100

    told(story, rules="[]")


def test_parts_of_a_shared_limit_that_workers_hold_are_no_more_than_the_new_one() -> None:
    """Both workers hold units of a large limit when it becomes small."""

    async def story(fleet: Fleet) -> None:
        async def pass_of(count: int, first: int) -> int:
            return sum([(not (await fleet.ask(n % 2, nth_address(first + n))).refused) for n in range(count)])

        assert await pass_of(50, 0) == 50
        await fleet.change({"SHIELD_GUESTS_LIMIT": "2/second"})
        passed = await pass_of(100, 100)
        assert passed <= 3

    told(story, guests_limit="1000/second")


def test_limits_end_while_the_store_is_away() -> None:
    """By the workers' own clock, within a second; and no bucket is full again because of it."""

    async def story(fleet: Fleet) -> None:
        spent = nth_address(1)
        assert await fleet.admitted(100, spent) == 100
        await fleet.change({"SHIELD_IP_LIMIT": "5/hour"}, for_s=10)
        assert await fleet.admitted(6, spent) == 0
        fleet.store.failing = StoreUnavailable("away")
        fleet.inner.document = fleet.inner.set_document = _away  # type: ignore[method-assign]
        await pass_time(8)
        assert [len_of(worker) for worker in fleet.workers] == [5, 5]
        await pass_time(3)
        assert [len_of(worker) for worker in fleet.workers] == [100, 100]
        assert await fleet.admitted(10, spent) <= 1

    told(story)


async def _away(*_: object, **__: object) -> Any:
    raise StoreUnavailable("away")


def len_of(worker: Worker) -> int:
    """The guests' limit as a worker has it."""
    plan = worker._lookups.any_path.plan(Mode.NORMAL, None, b"\0\0\0\0")
    return plan.own[0].limit.amount


def test_capacity_and_share_follow_unless_the_mode_names_its_own() -> None:
    """The seats change with the limits; those that were named with the emergency win while it lasts."""

    async def story(fleet: Fleet) -> None:
        seats = fleet.workers[1].entrance.seats

        def now() -> tuple[int | None, float]:
            capacity = seats.capacity()
            return None if capacity is None else capacity.seats, seats.guest_share

        control = fleet.workers[1].control
        assert now() == (100, 1.0)
        await fleet.change({"SHIELD_CAPACITY": 50, "SHIELD_EMERGENCY_GUEST_SHARE": 0.5})
        assert now() == (50, 1.0)
        await control.set_mode(ModeChange(Mode.EMERGENCY, "ops"), None)
        assert now() == (50, 0.5)
        await control.set_mode(ModeChange(Mode.EMERGENCY, "ops", capacity=30, guest_share=0.25), None)
        assert now() == (30, 0.25)
        await fleet.change({"SHIELD_EMERGENCY_CAPACITY": 20})
        assert now() == (30, 0.25)
        await control.set_mode(ModeChange(Mode.NORMAL, "ops"), None)
        assert now() == (100, 1.0)

    told(story, capacity=100, live_paths="/live")


def test_a_worker_that_starts_later_obeys_from_its_first_request() -> None:
    """It reads the limits before it serves."""

    async def story(fleet: Fleet) -> None:
        await fleet.change({"SHIELD_IP_LIMIT": "2/hour"})
        late = build_worker(Settings(ip_limit="100/hour"), fleet.store, clock_of(loop_time))
        await late.start()
        decisions = [await late.gate.decide(facts(peer=nth_address(5))) for _ in range(5)]
        assert [decision.refused for decision in decisions] == [False] * 2 + [True] * 3
        status = await late.control.status()
        assert status.settings["SHIELD_IP_LIMIT"] == "2/hour"
        await late.stop()

    told(story)


# --- rules in dry run


def test_a_rule_in_dry_run_refuses_nobody_and_says_whom_it_would(caplog: pytest.LogCaptureFixture) -> None:
    """Its limits are charged and its refusals logged; its cost is not charged to the default limits."""

    async def story(fleet: Fleet) -> None:
        address = nth_address(1)
        assert await fleet.admitted(50, address, "/dear") == 50
        assert await fleet.admitted(51, address) == 50, "each cost 1 of the default limit"
        assert await fleet.admitted(10, nth_address(2), "/all") == 10

    with caplog.at_level(logging.WARNING, "shieldmw.refusals"):
        told(story)
    lines = [message for message in caplog.messages if "dry_run quota" in message]
    assert lines
    assert "at '/dear' by dear" in lines[0]


def test_a_rule_in_dry_run_closes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """In an emergency the path stays open, and that it would be closed is logged."""

    async def story(fleet: Fleet) -> None:
        control = fleet.workers[0].control
        await control.set_mode(ModeChange(Mode.EMERGENCY, "ops"), None)
        assert not (await fleet.ask(0, path="/dear")).refused
        await fleet.change(dear=RuleOverride(dry_run=False))
        assert (await fleet.ask(0, path="/dear")).refused

    with caplog.at_level(logging.WARNING, "shieldmw.refusals"):
        told(story)
    assert "dry_run emergency" in caplog.text


def test_dry_run_is_turned_on_and_off_during_the_event() -> None:
    """With what was charged meanwhile: a client that a rule would have refused is refused once it counts."""

    async def story(fleet: Fleet) -> None:
        one, other = nth_address(1), nth_address(2)
        assert await fleet.admitted(8, one, "/search") == 3
        await fleet.change(search=RuleOverride(dry_run=True))
        assert await fleet.admitted(8, one, "/search") == 8
        assert await fleet.admitted(8, other, "/search") == 8
        await fleet.change({})
        assert await fleet.admitted(8, one, "/search") == 0
        assert await fleet.admitted(8, other, "/search") == 0

    told(story)


@pytest.mark.parametrize("memory", [True, False], ids=["memory", "fleet"])
def test_what_the_other_limits_refuse_costs_a_rule_in_dry_run_nothing(memory: bool) -> None:
    """As if the rule were in force: a request that is refused is charged to no limit."""

    async def work() -> None:
        clock = LoopClock()
        inner = LeasingStore(clock)
        store: Any = inner if memory else FlakyStore(inner)
        rules = json.dumps([{"name": "search", "path": "/search", "limits": "30/hour", "dry_run": True}])
        worker = build_worker(Settings(ip_limit="3/hour", rules=rules), store, clock_of(loop_time))
        await worker.start()
        decisions = [await worker.gate.decide(facts(path="/search")) for _ in range(10)]
        assert sum(not decision.refused for decision in decisions) == 3
        await pass_time(1)  # what was leased is given back
        worker._lookups.use(Settings(ip_limit="off", rules=rules.replace("true", "false")).policy)
        decisions = [await worker.gate.decide(facts(path="/search")) for _ in range(40)]
        assert sum(not decision.refused for decision in decisions) == 27
        await worker.stop()

    run(work())
