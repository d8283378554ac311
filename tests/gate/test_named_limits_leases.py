"""Descriptions are charged as requests are: without a call to the store if they are hot, and never beyond the limit."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence

import pytest

from gate.doubles import FlakyStore, LeasingStore, LoopClock, clock_of, facts, loop_time, pass_time, run
from shieldmw import Settings
from shieldmw.core.bucket import Outcome, TakeRequest
from shieldmw.core.decision import Decision
from shieldmw.core.overrides import Overrides, RuleOverride
from shieldmw.core.portion import Portion, PortionRequest
from shieldmw.gate.worker import Worker
from shieldmw.wiring import build_worker

BURST = 400
RULES = json.dumps(
    [
        {"name": "search", "path": "/search", "limits": f"{BURST}/day"},
        {"name": "dear", "path": "/dear", "limits": f"{BURST}/day", "cost": 4},
        {"name": "tried", "path": "/tried", "limits": "5/day", "dry_run": True},
        {"name": "all", "path": "/all", "limits": f"{BURST}/day", "per": "everyone"},
    ]
)
ADDRESS = "203.0.113.7"
WHO, NAMED = f"remote_address={ADDRESS}", "generic_key=search"


class CountingStore(FlakyStore):
    """A store that counts calls and takes half a millisecond for each."""

    asked = 0

    async def take(self, requests: Sequence[TakeRequest]) -> Sequence[Outcome]:
        """Decide requests."""
        self.asked += 1
        await pass_time(0.000_5)
        return await super().take(requests)

    async def portion(self, request: PortionRequest) -> Portion:
        """Grant a portion."""
        self.asked += 1
        await pass_time(0.000_5)
        return await super().portion(request)


class Fleet:
    """Two workers over one store that prefetches as the scripts do, in virtual time."""

    def __init__(self, rules: str = RULES) -> None:
        self.store = CountingStore(LeasingStore(LoopClock(), ahead_us=77_777_777))
        settings = Settings(ip_limit=f"{BURST}/day", rules=rules)
        self.workers: list[Worker] = [build_worker(settings, self.store, clock_of(loop_time)) for _ in range(2)]

    async def ask(self, entries: Sequence[str], worker: int = 0, hits: int = 1) -> Decision:
        """One description, as ``key=value``."""
        pairs = [(entry.partition("=")[0], entry.partition("=")[2]) for entry in entries]
        decision = await self.workers[worker].named_limits.decide("web", pairs, hits)
        assert decision is not None
        return decision

    async def admitted(self, entries: Sequence[str], questions: int, *, every_s: float = 0.001) -> int:
        """How many of so many questions are admitted, by both workers in turn."""
        admitted = 0
        for at in range(questions):
            admitted += not (await self.ask(entries, at % 2)).refused
            await pass_time(every_s)
        return admitted


def told(story: Callable[[Fleet], Awaitable[None]], rules: str = RULES) -> None:
    """Run a story of started workers."""

    async def work() -> None:
        fleet = Fleet(rules)
        for worker in fleet.workers:
            await worker.start()
        try:
            await story(fleet)
        finally:
            for worker in fleet.workers:
                await worker.stop()

    run(work())


# Of each kind: entries, and the cost of a hit.
KINDS: dict[str, tuple[Sequence[str], int]] = {
    "an address": ([WHO], 1),
    "an address on a path": ([WHO, "path=/search"], 1),
    "a name, for an address": ([NAMED, WHO], 1),
    "a name, for a site": (["generic_key=dear", "remote_address=2001:db8::1"], 4),
    "a name, shared": ([NAMED], 1),
    "a path, shared": (["path=/dear"], 4),
    "a rule of everyone": (["generic_key=all", WHO], 1),
    "a value": (["search=7"], 1),
    "values and an address": (["dear=7", "tenant=a", WHO], 4),
}


@pytest.mark.parametrize(("entries", "cost"), KINDS.values(), ids=KINDS.keys())
def test_a_hot_description_needs_few_calls_and_gets_what_its_limit_allows(entries: Sequence[str], cost: int) -> None:
    """Two workers are asked in turn, more often than the limit allows: a burst passes, to the hit.

    Of a cost of 4 each worker may be left with too few units of a shared limit, less than one hit together.
    """

    async def story(fleet: Fleet) -> None:
        fits = BURST // cost
        admitted = await fleet.admitted(entries, 2 * fits)
        calls = fleet.store.asked
        assert admitted <= fits
        assert calls < fits
        await pass_time(2.0)  # what workers still held is given back
        admitted += await fleet.admitted(entries, 20)
        assert fits - (cost > 1) <= admitted <= fits

    told(story)


def test_a_flood_of_what_is_known_to_be_refused_needs_no_call() -> None:
    """As for requests, and the answer names the limit and the wait."""

    async def story(fleet: Fleet) -> None:
        await fleet.admitted(["search=7"], BURST + 4)
        before = fleet.store.asked
        refused = [await fleet.ask(["search=7"], at % 2) for at in range(100)]
        assert fleet.store.asked == before
        assert all(each.refused and each.violated == ("search",) and each.retry_after_us > 0 for each in refused)

    told(story)


def test_requests_and_descriptions_spend_one_lease() -> None:
    """An address on a path is the client that its requests are, also in this process."""

    async def story(fleet: Fleet) -> None:
        gate, admitted = fleet.workers[0].gate, 0
        for _ in range(BURST):
            admitted += not (await gate.decide(facts(peer=ADDRESS, path="/"))).refused
            admitted += not (await fleet.ask([WHO, "path=/"])).refused
        assert admitted == BURST
        assert fleet.store.asked < BURST

    told(story)


def test_values_are_no_subjects() -> None:
    """A description whose text is that of somebody's is another client: also in what is known of buckets here."""

    async def story(fleet: Fleet) -> None:
        await fleet.admitted(["search=7"], BURST + 4)
        assert not (await fleet.ask(["search=8"])).refused
        assert not (await fleet.ask(["search=7", WHO])).refused
        assert not (await fleet.ask([NAMED, "search=8"])).refused

    told(story)


@pytest.mark.parametrize("entries", [["search=7"], [NAMED], [WHO], [NAMED, WHO]])
def test_a_look_says_what_a_hit_would_get(entries: Sequence[str]) -> None:
    """With what is prefetched here, and without: before every hit, to the last one. It charges nothing."""

    async def story(fleet: Fleet) -> None:
        admitted = 0
        for _ in range(BURST + 20):
            looked = await fleet.ask(entries, hits=0)
            hit = await fleet.ask(entries)
            assert looked.refused == hit.refused
            admitted += not hit.refused
        assert admitted == BURST
        assert fleet.store.asked < 1.25 * BURST, "none while more than half is left, and two calls for each hit below"

    told(story)


def test_several_hits_are_charged_beside_a_lease() -> None:
    """They ask the store: together with single ones never more than the burst."""

    async def story(fleet: Fleet) -> None:
        spent = 0
        for _ in range(BURST):
            for hits in (1, 3):
                spent += hits * (not (await fleet.ask(["search=7"], hits=hits)).refused)
        assert BURST - 3 <= spent <= BURST

    told(story)


def test_changed_limits_are_those_of_descriptions_at_once() -> None:
    """Nothing that was prefetched under the old ones is spent under the new ones."""

    async def story(fleet: Fleet) -> None:
        await fleet.admitted(["search=7"], 100)
        fewer = Overrides({}, {"search": RuleOverride(limits="50/day")})
        await fleet.workers[0].control.set_limits(fewer, actor="ops", reason="", for_s=None, expected_version=None)
        await fleet.workers[1].control.limits()
        # A quarter of the day is spent, and what each worker had left of a lease.
        assert 30 <= await fleet.admitted(["search=7"], 100) <= 37
        assert await fleet.admitted(["search=8"], 100) == 50

    told(story)


def test_a_rule_in_dry_run_is_charged_and_refuses_nothing() -> None:
    """Hot or not."""

    async def story(fleet: Fleet) -> None:
        assert await fleet.admitted(["tried=7"], 50) == 50

    told(story)
