"""Limits that many clients share, at the gate: the charged requests, the order, and refunds."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from core.addresses import PREFIXES
from gate.doubles import (
    CountingVerifier,
    FlakyStore,
    LeasingStore,
    LoopClock,
    WorkerParts,
    at_once,
    clock_of,
    facts,
    pass_time,
    run,
    worker,
)
from shieldmw import Settings
from shieldmw.core.client import address_text
from shieldmw.core.decision import Decision, Reason, Verdict
from shieldmw.core.mode import Mode, ModeChange
from shieldmw.errors import StoreUnavailable
from shieldmw.gate.limiter.limiter import LocalLimiter
from shieldmw.gate.operator.control import clients_of, limit_names
from shieldmw.store.memory import MemoryBuckets

GUESTS: dict[str, Any] = {"guests_limit": "5/hour", "ip_limit": "3/hour"}
SHARED = "guests shared:guests"


class Stage:
    """A worker with a store that leases; ``local``: as a fleet of one, whose buckets are in this process."""

    def __init__(self, *, local: bool = False, **values: Any) -> None:
        clock = LoopClock()
        self.inner = LeasingStore(clock, ahead_us=77_777_777)
        self.store = FlakyStore(self.inner)
        verifier = CountingVerifier(valid={"alice"})
        self.worker: WorkerParts = worker(self.store, clock, tokens=verifier, **values)
        if local:
            buckets = MemoryBuckets(now_us=clock.us)
            self.worker.gate._limiter = LocalLimiter(buckets, clock_of(clock.s))

    async def ask(self, number: int = 0, credential: str | None = None, **values: Any) -> Decision:
        """A request from one of many addresses."""
        asked = facts(credential, peer=f"203.0.113.{number}")
        return await self.worker.gate.decide(asked._replace(**values))

    def charged(self, bucket: str) -> int:
        """How many units of an hourly bucket of the store are charged, rounded."""
        left_us = self.inner.tats_us.get(bucket, 0) - self.inner.now_us()
        per_hour = {"guests": 5, "ip": 3}[bucket.split(maxsplit=1)[0]]
        return round(max(0, left_us) / (3_600_000_000 / per_hour))


def told(decision: Decision) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """The verdict, the limits that were charged, and those that refused."""
    return decision.verdict, tuple(charge.limit.name for charge in decision.charges), decision.violated


ALLOWED = ("allowed", ("ip", "guests"), ())


@pytest.mark.parametrize("local", [False, True])
def test_all_guests_share_it(local: bool) -> None:
    """Five guests pass, from wherever they come; the sixth is refused, and told which limit it was."""

    async def story() -> None:
        stage = Stage(local=local, **GUESTS)
        decisions = [await stage.ask(number) for number in range(7)]
        assert [told(decision) for decision in decisions[:5]] == [ALLOWED] * 5
        assert [decision.violated for decision in decisions[5:]] == [("guests",)] * 2
        assert all(decision.reason is Reason.QUOTA for decision in decisions[5:])
        assert 700 < decisions[5].retry_after_us / 1_000_000 <= 720

    run(story())


@pytest.mark.parametrize("local", [False, True])
def test_who_is_refused_by_one_limit_is_not_charged_the_other(local: bool) -> None:
    """A guest beyond its own limit costs the others nothing, and a guest that all others keep out pays nothing."""

    async def story() -> None:
        stage = Stage(local=local, **GUESTS)
        greedy = [await stage.ask(1) for _ in range(20)]
        assert [decision.verdict for decision in greedy] == ["allowed"] * 3 + ["refused"] * 17
        assert {decision.violated for decision in greedy[3:]} == {("ip",)}
        others = [await stage.ask(number) for number in (2, 3, 4, 4, 4, 4)]
        assert [decision.verdict for decision in others] == ["allowed"] * 2 + ["refused"] * 4
        if not local:
            assert (stage.charged(SHARED), stage.charged("ip ip:203.0.113.4/32")) == (5, 0)

    run(story())


@pytest.mark.parametrize("local", [False, True])
def test_a_shared_limit_alone(local: bool) -> None:
    """Without any limit of its own a guest is still charged what all share."""

    async def story() -> None:
        stage = Stage(local=local, **GUESTS | {"ip_limit": "off"})
        decisions = [await stage.ask(number) for number in range(6)]
        assert [told(decision)[:2] for decision in decisions] == [("allowed", ("guests",))] * 5 + [
            ("refused", ("guests",))
        ]

    run(story())


PREFLIGHT = {"preflight": True, "methods": frozenset({"OPTIONS"})}


@pytest.mark.parametrize(
    ("values", "credential", "request_of", "charged", "why"),
    [
        ({"guests_limit": "5/hour"}, None, {}, ("ip", "guests"), "a guest"),
        ({"guests_limit": "5/hour"}, "wrong", {}, ("ip", "guests"), "one whose credential proves nobody"),
        ({"guests_limit": "5/hour"}, "alice", {}, ("token",), "a member is no guest"),
        ({"guests_limit": "5/hour"}, None, PREFLIGHT, ("preflight",), "a preflight may be a member's"),
        ({"guests_limit": "5/hour"}, None, {"path": "/healthz", "route_path": "/healthz"}, (), "exempt"),
        ({"guests_limit": "5/hour", "allow_ips": "203.0.113.0/24"}, None, {}, (), "on the allow list"),
        ({"guests_limit": "5/hour", "deny_ips": "203.0.113.0/24"}, None, {}, (), "denied"),
        ({"emergency_guests_limit": "5/hour"}, None, {}, ("ip",), "there is no emergency"),
        ({"per": "everyone"}, None, {}, ("ip", "votes"), "a rule for everyone: a guest"),
        ({"per": "everyone"}, "alice", {}, ("token", "votes"), "a rule for everyone: a member"),
        ({"per": "everyone"}, None, PREFLIGHT, ("preflight",), "a rule for everyone: a preflight"),
        ({"per": "guests"}, None, {}, ("ip", "votes"), "a rule for guests: a guest"),
        ({"per": "guests"}, "alice", {}, ("token",), "a rule for guests: a member"),
        ({"per": "client"}, "alice", {}, ("votes", "token"), "a rule for each client"),
        ({"per": "everyone", "path": "/other"}, None, {}, ("ip",), "another path"),
        ({"per": "everyone", "cost": 0}, None, {}, ("ip",), "at no cost"),
        ({"per": "guests", "guests_limit": "9/hour"}, None, {}, ("ip", "votes", "guests"), "both, the narrower first"),
    ],
)
def test_who_is_charged(
    values: dict[str, Any], credential: str | None, request_of: dict[str, Any], charged: tuple[str, ...], why: str
) -> None:
    """The names of the limits that one request is charged."""

    async def story() -> None:
        rule = {key: values[key] for key in ("per", "path", "cost") if key in values}
        settings = {key: value for key, value in values.items() if key not in rule}
        if rule:
            settings["rules"] = json.dumps([{"name": "votes", "path": "/hello", "limits": "9/hour", **rule}])
        stage = Stage(**settings)
        decision = await stage.ask(1, credential, **request_of)
        assert tuple(charge.limit.name for charge in decision.charges) == charged, why

    run(story())


@pytest.mark.parametrize(("emergency", "passed"), [("2/hour", 2), ("29/hour", 29), ("2/day", 2), ("off", 30)])
def test_in_an_emergency_another_limit_holds_with_a_bucket_of_its_own(emergency: str, passed: int) -> None:
    """What guests did before keeps nobody out, nor does what they did in the emergency afterwards."""

    async def story() -> None:
        stage = Stage(ip_limit="off", emergency_ip_limit="off", guests_limit="5/hour", emergency_guests_limit=emergency)
        for number in range(5):
            assert (await stage.ask(number)).verdict is Verdict.ALLOWED
        await stage.worker.mode_watch.set(ModeChange(Mode.EMERGENCY, "test", for_s=600), None)
        verdicts = [(await stage.ask(number)).verdict for number in range(30)]
        assert verdicts.count(Verdict.ALLOWED) == passed
        await stage.worker.mode_watch.set(ModeChange(Mode.NORMAL, "test"), None)
        assert [(await stage.ask(number)).violated for number in range(2)] == [("guests",)] * 2

    run(story())


def test_a_guest_that_goes_away_gives_its_unit_back() -> None:
    """Also while its own bucket is asked for."""

    async def story() -> None:
        stage = Stage(**GUESTS)
        await stage.ask(9)
        stage.store.held = asyncio.Event()
        tasks = [asyncio.create_task(stage.ask(number)) for number in range(4)]
        await pass_time(0.01)
        stage.store.held.set()
        await asyncio.sleep(0)
        stage.store.held = asyncio.Event()
        await pass_time(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        stage.store.held.set()
        stage.store.held = None
        decisions = await at_once(lambda number: stage.ask(20 + number), 5)
        assert sum(decision.verdict is Verdict.ALLOWED for decision in decisions) == 4

    run(story())


@pytest.mark.parametrize(
    ("on_failure", "told_of"),
    [
        ("local", [("allowed", "within_limits")] * 5 + [("refused", "quota")]),
        ("open", [("allowed", "store_open")] * 6),
        ("closed", [("refused", "store_closed")] * 6),
    ],
)
@pytest.mark.parametrize("has_ip_limit", [True, False])
@pytest.mark.parametrize("workers", [1, 3])
def test_while_the_store_is_away(
    on_failure: str, told_of: list[tuple[str, str]], has_ip_limit: bool, workers: int
) -> None:
    """As SHIELD_ON_REDIS_FAILURE says, like any other limit, by this worker's share; a guest beyond its own limit
    costs the others nothing."""

    async def story() -> None:
        limits: dict[str, Any] = {
            "guests_limit": f"{5 * workers}/hour",
            "ip_limit": f"{3 * workers}/hour" if has_ip_limit else "off",
        }
        stage = Stage(**limits, on_redis_failure=on_failure)
        stage.worker.seats._share.workers = workers
        stage.store.failing = StoreUnavailable("away")
        if has_ip_limit and on_failure == "local":
            for _ in range(9):
                await stage.ask(0)
            told_here = told_of[3:]
        else:
            told_here = told_of
        decisions = [await stage.ask(number) for number in range(1, len(told_here) + 1)]
        assert [(decision.verdict, decision.reason) for decision in decisions] == told_here

    run(story())


def test_a_dry_run_refuses_nothing_and_counts_all() -> None:
    """The sixth guest would have been refused."""

    async def story() -> None:
        stage = Stage(**GUESTS, dry_run=True)
        decisions = [await stage.ask(number) for number in range(6)]
        assert [decision.verdict for decision in decisions] == ["allowed"] * 5 + ["dry_run"]
        assert decisions[5].violated == ("guests",)

    run(story())


def test_the_reset_of_a_client_leaves_shared_buckets_alone() -> None:
    """Its own buckets are full again, and the guests' is as empty as it was."""

    async def story() -> None:
        stage = Stage(**GUESTS)
        for number in range(5):
            await stage.ask(number)
        for client in clients_of("ip:203.0.113.1", PREFIXES):
            await stage.inner.refill(client, limit_names(Settings(**GUESTS).policy))
        stage.worker.gate._limiter.invalidate()
        assert (stage.charged("ip ip:203.0.113.1/32"), stage.charged(SHARED)) == (0, 5)
        assert (await stage.ask(1)).violated == ("guests",)

    run(story())


def test_a_hot_guest_costs_few_calls() -> None:
    """A thousand requests from a lease, with a portion beside it."""

    async def story() -> None:
        stage = Stage(ip_limit="100000/second", guests_limit="100000/second")
        for _ in range(1000):
            await pass_time(0.000_1)
            assert (await stage.ask(1)).verdict is Verdict.ALLOWED
        assert stage.store.calls < 30

    run(story())


def test_guests_that_are_refused_at_about_the_same_time_share_an_answer() -> None:
    """What says no to a flood is worked out once; a member's refusal is its own, and each names who asked."""

    async def story() -> None:
        rules = json.dumps([{"name": "votes", "path": "/hello", "limits": "1/hour", "per": "everyone"}])
        stage = Stage(rules=rules)
        await stage.ask(0)
        await stage.ask(0)  # the first that is refused has a shorter wait
        first, second, member = await stage.ask(1), await stage.ask(2), await stage.ask(3, "alice")
        assert [address_text(decision.address) for decision in (first, second)] == ["203.0.113.1", "203.0.113.2"]
        assert first.rendered is second.rendered
        assert first.rendered is not member.rendered

    run(story())
