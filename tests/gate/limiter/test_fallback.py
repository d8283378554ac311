"""Decisions while the store is away."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from gate.doubles import (
    FakeClock,
    FlakyStore,
    PartlyAway,
    WorkerParts,
    at_once,
    facts,
    loop_time,
    memory_store,
    pass_time,
    run,
    worker,
    yield_often,
)
from shieldmw.core.bucket import Charge, TakeRequest
from shieldmw.core.client import Client
from shieldmw.core.debts import Debt
from shieldmw.core.decision import Decision, Reason, Verdict
from shieldmw.core.limits import Limit
from shieldmw.errors import NotApplied, StoreError, StoreUnavailable
from shieldmw.gate.limiter.fallback import SETTLE_AGAIN_S

AWAY = StoreUnavailable("Connection refused")
BUDGET_S = 0.05
CLIENT = Client("ip", "203.0.113.7/32", "ip:203.0.113.7/32")


def make(
    on_failure: str = "local", *, failing: Exception | None = None, **values: Any
) -> tuple[WorkerParts, FlakyStore]:
    """A worker whose store does as it is told."""
    clock = FakeClock()
    store = FlakyStore(memory_store(clock), failing=failing)
    return worker(store, clock, on_redis_failure=on_failure, **values), store


async def decide(one: WorkerParts, count: int, peer: str = "203.0.113.7") -> list[Decision]:
    """Decisions one after the other."""
    return [await one.gate.decide(facts(peer=peer)) for _ in range(count)]


def allowed(decisions: list[Decision]) -> int:
    """How many passed."""
    return sum(decision.verdict is Verdict.ALLOWED for decision in decisions)


@pytest.mark.parametrize(
    ("on_failure", "verdict", "reason"),
    [
        ("local", Verdict.ALLOWED, Reason.WITHIN_LIMITS),
        ("open", Verdict.ALLOWED, Reason.STORE_OPEN),
        ("closed", Verdict.REFUSED, Reason.STORE_CLOSED),
    ],
)
@pytest.mark.parametrize("error", [AWAY, StoreError("its answer makes no sense")], ids=["away", "nonsense"])
def test_without_the_store_requests_are_decided_as_the_setting_says(
    on_failure: str, verdict: Verdict, reason: Reason, error: StoreError
) -> None:
    """From the first failure on, open or not, every request gets the verdict of the setting and none an error."""
    one, _ = make(on_failure, failing=error)
    decisions = run(decide(one, 20))
    assert {(decision.verdict, decision.reason) for decision in decisions} == {(verdict, reason)}


def test_open_lets_pass_what_local_would_refuse() -> None:
    """`open` has no limit while the store is away, `local` keeps the limit."""
    for on_failure, passed in (("open", 100), ("local", 5)):
        one, _ = make(on_failure, failing=AWAY, ip_limit="5/minute")
        assert allowed(run(decide(one, 100))) == passed, on_failure


def test_closed_still_serves_what_is_not_limited() -> None:
    """Exempt paths and unlimited clients need no store."""
    one, store = make("closed", failing=AWAY, ip_limit="off")
    assert run(one.gate.decide(facts())).reason is Reason.UNLIMITED
    assert run(one.gate.decide(facts(path="/healthz"))).reason is Reason.EXEMPT
    assert store.calls == 0


def test_no_fresh_burst_when_the_outage_begins() -> None:
    """Local buckets know what was spent while the store answered."""
    one, store = make(ip_limit="10/minute")

    async def story() -> tuple[int, int]:
        before = allowed(await decide(one, 8))
        store.failing = AWAY
        return before, allowed(await decide(one, 8))

    assert run(story()) == (8, 2)


def test_a_client_refused_before_the_outage_is_refused_in_it() -> None:
    """Also the buckets of refusals are remembered: one that another worker emptied is not full here."""
    clock = FakeClock()
    fleet = memory_store(clock)
    other = worker(FlakyStore(fleet), clock, ip_limit="10/minute")
    store = FlakyStore(fleet)
    one = worker(store, clock, ip_limit="10/minute")

    async def story() -> list[Decision]:
        await decide(other, 10)
        refused = await decide(one, 1)
        store.failing = AWAY
        return refused + await decide(one, 3)

    assert [decision.reason for decision in run(story())] == [Reason.QUOTA] * 4


def test_local_buckets_refill() -> None:
    """The local bucket is the same bucket: it refills at the limit's rate."""
    one, _ = make(failing=AWAY, ip_limit="10/minute")
    assert allowed(run(decide(one, 20))) == 10
    one.clock.now_s += 12
    assert allowed(run(decide(one, 20))) == 2


def test_a_store_that_hangs_costs_its_budget_five_times_and_then_nothing() -> None:
    """At most five requests wait; then the store is left alone for a second."""
    one, store = make()
    store.hangs_for_s = BUDGET_S

    async def story() -> list[float]:
        waits = []
        for _ in range(50):
            begun = loop_time()
            await one.gate.decide(facts())
            waits.append(loop_time() - begun)
        return waits

    waits = run(story())
    assert waits == pytest.approx([BUDGET_S] * 5 + [0.0] * 45)
    assert store.calls == 5


def test_a_store_that_is_away_is_probed_once_a_second() -> None:
    """In ten seconds of traffic it is asked about ten times, and never twice at once."""
    one, store = make(failing=AWAY, leases=False, ip_limit="1000000/second")

    async def story() -> None:
        await decide(one, 5)
        store.calls = 0
        for _ in range(1000):
            await pass_time(0.01)
            await at_once(lambda _: one.gate.decide(facts()), 3)

    run(story())
    assert 9 <= store.calls <= 10
    assert store.most_under_way == 1


def test_probes_that_hang_are_one_at_a_time() -> None:
    """While a probe is under way nobody else waits for the store."""
    one, store = make(failing=AWAY)

    async def story() -> None:
        await decide(one, 5)
        store.calls, store.held = 0, asyncio.Event()
        await pass_time(1.0)
        probe = asyncio.create_task(one.gate.decide(facts()))
        await yield_often()
        await decide(one, 100)
        assert store.calls == 1
        store.failing = None
        store.held.set()
        assert (await probe).verdict is Verdict.ALLOWED
        store.held = None
        await decide(one, 3)
        assert store.calls == 4

    run(story())


def test_when_the_store_answers_again_it_decides_again() -> None:
    """One successful probe ends the outage for everybody."""
    one, store = make("closed", failing=AWAY)

    async def story() -> list[Reason]:
        await decide(one, 5)
        store.failing = None
        before = (await decide(one, 1))[0].reason
        await pass_time(1.0)
        return [before, *(decision.reason for decision in await decide(one, 3))]

    assert run(story()) == [Reason.STORE_CLOSED, *[Reason.WITHIN_LIMITS] * 3]


def test_an_outage_is_logged_when_it_begins_and_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    """Two lines, however many requests."""
    one, store = make(failing=AWAY)

    async def story() -> None:
        await decide(one, 100)
        store.failing = None
        await pass_time(1.0)
        await decide(one, 100)

    with caplog.at_level(logging.DEBUG):
        run(story())
    assert [record.message for record in caplog.records if record.name == "shieldmw.gate.limiter.breaker_store"] == [
        "the store is away (Connection refused): deciding 'local' until it answers",
        "the store answers again",
    ]


# --- what was admitted meanwhile ------------------------------------------------------------------


async def outage(one: WorkerParts, store: FlakyStore) -> None:
    """The store goes away, and the worker has noticed: by other clients, whose requests may have been charged."""
    store.failing = AWAY
    for number in range(5):
        await decide(one, 1, peer=f"198.51.100.{number}")
    assert one.limiter.is_away


async def end_of_outage(one: WorkerParts, store: FlakyStore) -> None:
    """The store answers, the probe is another client's, and what is owed has been charged."""
    store.failing = None
    await pass_time(1.0)
    await decide(one, 1, peer="198.51.100.9")
    await yield_often()


def test_what_was_admitted_without_the_store_counts_when_it_is_back() -> None:
    """Before, meanwhile and afterwards together no more than one bucket holds."""
    one, store = make(ip_limit="10/day")

    async def story() -> list[int]:
        passed = [allowed(await decide(one, 3))]
        await outage(one, store)
        passed.append(allowed(await decide(one, 4)))
        await end_of_outage(one, store)
        return [*passed, allowed(await decide(one, 10))]

    assert run(story()) == [3, 4, 3]


def test_every_worker_charges_what_it_admitted() -> None:
    """Two workers with half of the bucket each: what both let pass is gone for both."""
    clock = FakeClock()
    fleet = memory_store(clock)
    stores = [FlakyStore(fleet), FlakyStore(fleet)]
    workers = [worker(store, clock, ip_limit="10/day", leases=False) for store in stores]
    for each in workers:
        each.limiter._fallback._workers = lambda: 2

    async def story() -> tuple[list[int], int]:
        for each, store in zip(workers, stores, strict=True):
            await outage(each, store)
        passed = [allowed(await decide(each, 3)) for each in workers]
        for each, store in zip(workers, stores, strict=True):
            await end_of_outage(each, store)
        return passed, allowed(await decide(workers[0], 10))

    assert run(story()) == ([3, 3], 4)


def test_what_was_refused_is_not_owed() -> None:
    """A third of what is left is less than one: nobody passes, and two are still there afterwards."""
    one, store = make(ip_limit="10/day", leases=False)
    one.limiter._fallback._workers = lambda: 3

    async def story() -> list[int]:
        passed = [allowed(await decide(one, 8))]
        await outage(one, store)
        passed.append(allowed(await decide(one, 3)))
        await end_of_outage(one, store)
        one.clock.now_s += 1  # a refusal is given again for a moment
        return [*passed, allowed(await decide(one, 10))]

    assert run(story()) == [8, 0, 2]


def test_what_has_come_back_is_not_charged() -> None:
    """After a day there is nothing to ask the store for."""
    one, store = make(ip_limit="10/day")
    asked = []

    async def note(debts: Sequence[Debt], now_us: int, name: str) -> Sequence[Debt]:
        asked.append(debts)
        return ()

    one.limiter._fallback._settle = note

    async def story() -> None:
        await outage(one, store)
        await decide(one, 4)
        one.clock.now_s += 86_400
        await end_of_outage(one, store)

    run(story())
    assert asked == []


@pytest.mark.parametrize("failure", [NotApplied("refused"), AWAY], ids=["not charged", "perhaps charged"])
def test_what_failed_is_owed_too(failure: StoreError) -> None:
    """Whether the store has charged it or not: to know no better must not let anybody pass for nothing."""
    one, store = make(ip_limit="10/day", failing=failure)

    async def story() -> int:
        await decide(one, 3)
        assert not one.limiter.is_away
        await end_of_outage(one, store)
        return allowed(await decide(one, 20))

    assert run(story()) == 7


def test_an_answer_that_is_lost_costs_one_charge_more() -> None:
    """The store has charged, the worker does not know it: so much is refused too early, and nothing too late."""
    one, store = make(ip_limit="10/day", leases=False)

    async def story() -> int:
        store.hangs_for_s, take = BUDGET_S, store.inner.take
        await take([TakeRequest((Charge(CLIENT, Limit("ip", 10, 86_400, 10)),))])
        assert allowed(await decide(one, 1)) == 1
        store.hangs_for_s = None
        await end_of_outage(one, store)
        return allowed(await decide(one, 20))

    assert run(story()) == 8


async def crowd(one: WorkerParts, clients: int, each: int = 1) -> None:
    """``each`` requests of each of ``clients`` clients."""
    for number in range(clients):
        await decide(one, each, peer=f"10.0.{number // 250}.{number % 250}")


def test_a_thousand_clients_are_charged_call_by_call() -> None:
    """In calls that are short enough, and those whose calls failed are charged too."""
    one, store = make(ip_limit="10/day", leases=False)
    sizes = []

    async def settle(debts: Sequence[Debt], now_us: int, name: str) -> Sequence[Debt]:
        sizes.append(len(debts))
        return await store.inner.settle(debts, now_us, name)

    one.limiter._fallback._settle = settle

    async def story() -> list[int]:
        await outage(one, store)
        await crowd(one, 1000, each=2)
        await end_of_outage(one, store)
        return [allowed(await decide(one, 10, peer=f"10.0.{number}.7")) for number in range(4)]

    assert run(story()) == [8] * 4
    assert sizes == [256, 256, 256, 237]


@pytest.mark.parametrize("was_charged", [True, False])
def test_a_debt_whose_answer_is_lost_is_charged_once(was_charged: bool, caplog: pytest.LogCaptureFixture) -> None:
    """It is tried again with what was not sent, until there is an answer. No traceback tells of it."""
    one, store = make(ip_limit="10/day", leases=False)
    asked: list[int] = []

    async def fail_once(debts: Sequence[Debt], now_us: int, name: str) -> Sequence[Debt]:
        asked.append(len(debts))
        if was_charged or len(asked) > 1:
            await store.inner.settle(debts, now_us, name)
        if len(asked) == 1:
            raise AWAY
        return ()

    one.limiter._fallback._settle = fail_once

    async def story() -> list[int]:
        await outage(one, store)
        await crowd(one, 295, each=2)
        await end_of_outage(one, store)
        await pass_time(SETTLE_AGAIN_S)
        await decide(one, 1, peer="198.51.100.9")
        await yield_often()
        return [allowed(await decide(one, 20, peer=f"10.0.{number}.7")) for number in range(2)]

    assert run(story()) == [8, 8]
    gc.collect()  # a task that failed unheard says so when it goes
    assert asked == [256, 256, 44]
    assert [record for record in caplog.records if record.name == "asyncio"] == []


def test_what_a_node_could_not_be_charged_is_tried_again_after_a_while() -> None:
    """While it is away others answer, and each of their answers would be a reason to try."""
    one, store = make(ip_limit="10/day", leases=False)
    tried: list[int] = []

    async def away_twice(debts: Sequence[Debt], now_us: int, name: str) -> Sequence[Debt]:
        tried.append(len(debts))
        return debts if len(tried) < 3 else await store.inner.settle(debts, now_us, name)

    one.limiter._fallback._settle = away_twice

    async def story() -> list[int]:
        seen = []
        await outage(one, store)
        await decide(one, 4)
        await end_of_outage(one, store)
        for _ in range(3):
            for number in range(3):
                await decide(one, 1, peer=f"198.51.100.{20 + number}")
                await yield_often()
            seen.append(len(tried))
            await pass_time(SETTLE_AGAIN_S)
        return [*seen, allowed(await decide(one, 20))]

    assert run(story()) == [1, 2, 3, 6]
    assert tried == [6, 6, 6]


def test_a_store_that_lost_everything_is_charged_too() -> None:
    """What a worker remembers of buckets holds no more; what it admitted itself does."""
    one, store = make(ip_limit="10/day")

    async def story() -> int:
        await outage(one, store)
        await decide(one, 4)
        one.gate._limiter.invalidate()
        await end_of_outage(one, store)
        return allowed(await decide(one, 20))

    assert run(story()) == 6


def test_a_worker_that_stops_ends_its_charging() -> None:
    """Nothing of it is left behind on the loop."""
    one, store = make(ip_limit="10/day")

    def limiter() -> int:
        return sum(task.get_name() == "shieldmw debts" for task in asyncio.all_tasks())

    async def hang(debts: Sequence[Debt], now_us: int, name: str) -> Sequence[Debt]:
        await asyncio.get_running_loop().create_future()
        return ()

    one.limiter._fallback._settle = hang

    async def story() -> None:
        await outage(one, store)
        await crowd(one, 300)
        await end_of_outage(one, store)
        await decide(one, 4)
        assert limiter() == 1
        await one.stop()
        assert limiter() == 0

    run(story())


def test_a_charging_that_never_began_is_begun_anew() -> None:
    """Stopped in the turn of the loop that found the store back; what is owed is charged after the next start."""
    one, store = make(ip_limit="10/day", leases=False)

    async def story() -> int:
        await outage(one, store)
        await decide(one, 4)
        store.failing = None
        await pass_time(1.0)
        await decide(one, 1, peer="198.51.100.9")
        await one.stop()
        await end_of_outage(one, store)
        return allowed(await decide(one, 20))

    assert run(story()) == 6


@pytest.mark.parametrize("on_failure", ["local", "open", "closed"])
def test_nothing_a_store_does_leaves_decide_as_an_exception(on_failure: str) -> None:
    """Failing now and then, in any order and concurrently: every request gets a decision."""
    one, store = make(on_failure)

    async def story() -> list[Decision]:
        decisions = []
        for number in range(100):
            store.failing = (None, AWAY, StoreError("nonsense"), None, AWAY)[number % 5]
            store.hangs_for_s = BUDGET_S if number % 7 == 0 else None
            decisions += await at_once(lambda n: one.gate.decide(facts(f"random-{n}")), 5)
            await pass_time(0.1)
        return decisions

    assert len(run(story())) == 500


def test_the_breaker_counts_calls_and_not_the_requests_in_them() -> None:
    """64 clients at once are one failed call, and the fifth such call opens the breaker."""
    one, store = make(failing=AWAY, leases=False)

    async def story() -> list[tuple[int, bool]]:
        seen = []
        for _ in range(6):
            assert allowed(await at_once(lambda n: one.gate.decide(facts(peer=f"203.0.113.{n}")), 64)) == 64
            seen.append((store.calls, one.limiter.is_away))
        return seen

    assert run(story()) == [(1, False), (2, False), (3, False), (4, False), (5, True), (5, True)]


def test_a_call_that_failed_in_part_is_an_answer() -> None:
    """A node of a cluster is away: its clients are decided here, and the breaker does not open for the others."""
    clock = FakeClock()
    store = PartlyAway(memory_store(clock), away_for=("203.0.113.0/32",))
    one = worker(store, clock, ip_limit="20/day", leases=False)

    async def story() -> list[int]:
        passed = [0, 0, 0]
        for turn in range(30):
            # The last of them is new each time, so that there is always somebody to be asked for whose node answers.
            peers = [*(f"203.0.113.{number}" for number in range(3)), f"198.51.100.{turn}"]
            *decisions, new = await asyncio.gather(*(one.gate.decide(facts(peer=peer)) for peer in peers))
            assert not one.limiter.is_away
            assert not new.refused
            for number, decision in enumerate(decisions):
                passed[number] += not decision.refused
        return passed

    assert run(story()) == [20, 20, 20]
    assert len(store.inner) == 2 + 30


def test_a_probe_of_a_batch_goes_on_without_who_asked() -> None:
    """A shared call is never cancelled: the request that made the probe goes away, and the answer ends the outage."""
    one, store = make("closed", failing=AWAY)

    async def story() -> None:
        await decide(one, 5)
        store.failing, store.held = None, asyncio.Event()
        await pass_time(1.0)
        caller = asyncio.create_task(one.gate.decide(facts()))
        await yield_often()
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        store.calls = 0
        assert (await decide(one, 1))[0].reason is Reason.STORE_CLOSED
        store.held.set()
        await yield_often()
        assert not one.limiter.is_away
        assert store.calls == 0

    run(story())


def test_a_probe_that_was_never_made_does_not_block_the_next() -> None:
    """Closed in the turn of the loop in which a probe was asked for, and used again."""
    one, store = make("closed", failing=AWAY, leases=False)

    async def story() -> None:
        await decide(one, 5)
        store.failing = None
        await pass_time(1.0)
        probe = asyncio.create_task(one.gate.decide(facts()))
        await asyncio.sleep(0)  # it is in the batch, and the task that calls has not begun
        store.calls = 0
        await one.limiter.aclose()
        assert (await probe).reason is Reason.STORE_CLOSED
        assert store.calls == 0
        await pass_time(1.0)
        assert (await decide(one, 1))[0].reason is Reason.WITHIN_LIMITS

    run(story())


def test_a_probe_that_fails_in_an_unforeseen_way_is_a_failure() -> None:
    """Nothing that a call ends with leaves the breaker waiting for it for ever."""
    one, store = make("closed", failing=AWAY)

    async def story() -> None:
        await decide(one, 5)
        store.failing = ValueError("a mistake")
        await pass_time(1.0)
        await decide(one, 1)
        store.failing = None
        await pass_time(1.0)
        assert (await decide(one, 1))[0].reason is Reason.WITHIN_LIMITS

    run(story())


# --- what each worker may admit alone


async def fleet_of(count: int, clock: FakeClock, **values: Any) -> tuple[list[WorkerParts], list[FlakyStore]]:
    """Workers on one store that have heard of each other, each with its own way to it."""
    fleet = memory_store(clock)
    stores = [FlakyStore(fleet) for _ in range(count)]
    workers = [worker(store, clock, **values) for store in stores]
    await count_again(workers)
    return workers, stores


async def count_again(workers: list[WorkerParts]) -> None:
    """All are counted by the fleet, and then all know it."""
    for one in (*workers, *workers):
        await one.seats.refresh()


def test_two_workers_without_a_store_admit_what_one_bucket_holds() -> None:
    """The store fails for both: together they admit the burst, and from then on the rate."""
    clock = FakeClock()

    async def story() -> list[int]:
        workers, stores = await fleet_of(2, clock, ip_limit="10/minute")
        for store in stores:
            store.failing = AWAY
        passed = []
        for wait_s in (0, 6, 6, 60, 600):
            clock.now_s += wait_s
            passed.append(sum([allowed(await decide(one, 20)) for one in workers]))
        return passed

    # A unit each 6 s for the fleet, and so one each 12 s for each; each has its half of the burst again after 60 s.
    assert run(story()) == [10, 0, 2, 10, 10]


def test_what_the_store_said_is_shared_too() -> None:
    """An outage fills nobody's bucket: of what the store last said is left, each of two workers has its half."""
    clock = FakeClock()

    async def story() -> list[int]:
        workers, stores = await fleet_of(2, clock, ip_limit="10/day", leases=False)
        before = [allowed(await decide(workers[0], 5)), allowed(await decide(workers[1], 1))]
        for store in stores:
            store.failing = AWAY
        return before + [allowed(await decide(one, 20)) for one in reversed(workers)]

    # The second has heard that four are left of ten; the first, when it last asked, that five are.
    assert run(story()) == [5, 1, 2, 2]


def test_a_refusal_here_tells_of_the_share() -> None:
    """Levels, the limit's name and the wait are those of the bucket that refused; after the wait one passes."""
    clock = FakeClock()

    async def story() -> None:
        (one, *_), stores = await fleet_of(4, clock, ip_limit="10/minute")
        assert allowed(await decide(one, 3)) == 3  # seven are left
        stores[0].failing = AWAY
        passed, refused = await decide(one, 2)
        assert [(level.limit.name, level.limit.burst, level.remaining) for level in passed.statuses] == [("ip", 2, 0)]
        assert refused.reason is Reason.QUOTA
        assert refused.violated == ("ip",)
        (level,) = refused.statuses
        assert (level.limit.name, level.limit.burst, level.remaining) == ("ip", 2, 0)
        assert refused.violated == ("ip",)
        # A unit is 24 s of the bucket's 60: 18 were owed, 42 are now, and the next would make it 66.
        assert refused.retry_after_us == level.retry_after_us == 6_000_000
        clock.now_s += 5.999_999
        assert (await decide(one, 1))[0].refused
        clock.now_s += 0.000_001
        assert not (await decide(one, 1))[0].refused

    run(story())


def test_a_worker_that_never_heard_of_a_fleet_is_alone() -> None:
    """Before the first count, and where it is one, nothing is shared."""
    clock = FakeClock()

    async def story() -> list[Decision]:
        (one,), (store,) = await fleet_of(1, clock, ip_limit="10/day")
        store.failing = AWAY
        unheard = worker(FlakyStore(memory_store(clock), failing=AWAY), clock, ip_limit="10/day")
        assert (one.seats.workers, unheard.seats.workers) == (1, 1)
        decisions = await decide(one, 12)
        assert await decide(unheard, 12) == decisions
        return decisions

    decisions = run(story())
    assert allowed(decisions) == 10
    assert {level.limit.tau_us for decision in decisions for level in decision.statuses} == {86_400_000_000}


def test_the_last_number_of_workers_that_was_heard_holds() -> None:
    """Workers come while the store takes no charges, or it falls silent altogether: shares are by the last count."""
    clock = FakeClock()

    async def story() -> list[int]:
        (one,), (store,) = await fleet_of(1, clock, ip_limit="12/day")
        store.failing = AWAY
        passed = [allowed(await decide(one, 6))]
        others = [worker(FlakyStore(store.inner), clock) for _ in range(2)]
        await count_again([one, *others])
        passed.append(allowed(await decide(one, 6)))  # a third of the six that are left
        clock.now_s += 3600  # leases have ended, and nobody is counted any more
        await one.seats.stop()
        assert (one.seats.grant, one.seats.workers) == (None, 3)
        return passed

    assert run(story()) == [6, 2]


def test_a_request_that_costs_more_than_a_share_passes_now_and_then() -> None:
    """Its cost fits into the whole burst: each worker lets it pass once, and again after as long as it takes all."""
    clock = FakeClock()

    async def story() -> list[int]:
        rules = '[{"name": "search", "path": "/search", "cost": 5}]'
        workers, stores = await fleet_of(4, clock, ip_limit="10/minute", rules=rules)
        stores[0].failing = AWAY

        async def search() -> int:
            return allowed([await workers[0].gate.decide(facts(path="/search")) for _ in range(3)])

        passed = [await search()]
        for wait_s in (119, 1):
            clock.now_s += wait_s
            passed.append(await search())
        return passed

    # Five of ten a minute are half a minute's worth, for the fleet; for each of four two minutes' worth.
    assert run(story()) == [1, 0, 1]


def test_a_refusal_by_a_share_is_forgotten_when_the_store_is_back() -> None:
    """It does not outlast the outage, not even for a moment."""
    clock = FakeClock()

    async def story() -> bool:
        (one, *_), stores = await fleet_of(8, clock, ip_limit="10/day")
        stores[0].failing = AWAY
        decisions = await decide(one, 20)
        assert allowed(decisions) == 1
        assert len(one.limiter._known_tats) == 0
        stores[0].failing = None
        await pass_time(1.0)
        return (await decide(one, 1))[0].refused

    assert not run(story())


def test_what_was_refused_here_is_not_held_against_anybody_afterwards() -> None:
    """Once the store answers its own bucket decides: only what passed here meanwhile has been charged to it."""
    clock = FakeClock()

    async def story() -> list[int]:
        (one, *_), stores = await fleet_of(3, clock, ip_limit="9/day", leases=False)
        stores[0].failing = AWAY
        passed = [allowed(await decide(one, 20))]
        clock.now_s += 1.1
        await end_of_outage(one, stores[0])
        return [*passed, allowed(await decide(one, 20))]

    assert run(story()) == [3, 6]


def test_what_came_back_in_the_last_moments_is_charged_all_the_same() -> None:
    """The bucket may have been emptier than this worker knew, and so have had no room to refill."""
    clock = FakeClock()

    async def story() -> list[int]:
        (one, other), stores = await fleet_of(2, clock, ip_limit="60/minute", leases=False)
        await decide(other, 60)
        stores[0].failing = AWAY
        passed = [allowed(await decide(one, 30))]
        clock.now_s += 2
        await end_of_outage(one, stores[0])
        clock.now_s += 28
        return [*passed, allowed(await decide(one, 20))]

    # 30 were let pass here in a bucket that was empty. In 2 s one unit of this worker's half came back.
    assert run(story()) == [30, 0]


def test_a_refused_client_whose_node_is_away_costs_no_calls() -> None:
    """A flood of its requests is decided here, and neither waits for the node nor opens the breaker for all; once the
    node is back, the store decides again after a moment.
    """
    clock = FakeClock()
    store = PartlyAway(memory_store(clock), away_for=("203.0.113.0/32",))
    one = worker(store, clock, ip_limit="20/day", leases=False)

    async def story() -> None:
        for turn in range(25):
            peers = ("203.0.113.0", f"198.51.100.{turn}")
            await asyncio.gather(*(one.gate.decide(facts(peer=peer)) for peer in peers))
        before = store.calls
        assert allowed(await decide(one, 1000, peer="203.0.113.0")) == 0
        assert store.calls == before
        assert not one.limiter.is_away
        store.away_for = ()
        await one.gate.decide(facts(peer="203.0.113.0"))
        assert store.calls == before
        clock.now_s += 0.3
        await one.gate.decide(facts(peer="203.0.113.0"))
        assert store.calls == before + 1

    run(story())
