"""The gate: the order of its checks, and that each refusal is reported once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gate.doubles import (
    CountingVerifier,
    FakeClock,
    FlakyStore,
    Heard,
    at_once,
    facts,
    memory_store,
    packed,
    pass_time,
    run,
    worker,
)
from shieldmw import Identity, ListenerClass
from shieldmw.core.decision import Decision, Reason, Verdict
from shieldmw.core.facts import Facts
from shieldmw.errors import StoreUnavailable

DENIED, ALLOWED, NOBODY = "198.51.100.9", "192.0.2.1", "203.0.113.7"

POLICY: dict[str, Any] = {
    "deny_ips": "198.51.100.0/24",
    "allow_ips": "192.0.2.1 198.51.100.0/24",
    "ip_limit": "2/minute",
}


@pytest.mark.parametrize(
    ("peer", "path", "credential", "verdict", "reason", "checks", "calls", "why"),
    [
        (DENIED, "/hello", None, "refused", "deny_list", 0, 0, "denied"),
        (DENIED, "/hello", "good", "refused", "deny_list", 0, 0, "a good token does not help, and is not even read"),
        (DENIED, "/healthz", None, "refused", "deny_list", 0, 0, "deny comes before exempt, and before allow"),
        (NOBODY, "/healthz", "good", "allowed", "exempt", 0, 0, "exempt comes before identity"),
        (NOBODY, "/healthz/", None, "allowed", "within_limits", 0, 1, "only the plain path is exempt"),
        (NOBODY, "/x/healthz", None, "allowed", "within_limits", 0, 1, "not a path that only ends like it"),
        (ALLOWED, "/hello", None, "allowed", "allow_list", 0, 0, "allowed addresses are charged nothing"),
        (
            ALLOWED,
            "/hello",
            "good",
            "allowed",
            "allow_list",
            1,
            1,
            "but the app learns who it is: one look at failures",
        ),
        (NOBODY, "/hello", None, "allowed", "within_limits", 0, 1, "a guest"),
        (NOBODY, "/hello", "good", "allowed", "within_limits", 1, 2, "a member: a look at failures and a charge"),
        (None, "/hello", None, "allowed", "within_limits", 0, 1, "a peer without an address is a client like any"),
    ],
)
def test_deny_comes_before_exempt_before_identity_before_allow(
    peer: str | None,
    path: str,
    credential: str | None,
    verdict: str,
    reason: str,
    checks: int,
    calls: int,
    why: str,
) -> None:
    """What is cheap and certain comes first: no signature and no call for requests that it decides."""
    clock, tokens = FakeClock(), CountingVerifier(valid={"good"})
    store = FlakyStore(memory_store(clock))
    decision = run(worker(store, clock, tokens=tokens, **POLICY).gate.decide(facts(credential, peer=peer, path=path)))
    assert (decision.verdict, decision.reason) == (Verdict(verdict), Reason(reason)), why
    assert (tokens.calls, store.calls) == (checks, calls), why
    assert decision.address == (None if peer is None else packed(peer))
    assert decision.identity == (Identity("good") if checks else None)


def test_guests_and_members_have_buckets_of_their_own() -> None:
    """A guest is charged to the address, a member to the subject: neither empties the other's bucket."""
    clock, tokens = FakeClock(), CountingVerifier(valid={"good"})
    one = worker(memory_store(clock), clock, tokens=tokens, ip_limit="2/minute", token_limit="3/minute")

    async def story() -> list[tuple[int, int]]:
        counts = []
        for credential in (None, "good"):
            decisions = [await one.gate.decide(facts(credential)) for _ in range(6)]
            counts.append((sum(not d.refused for d in decisions), sum(d.refused for d in decisions)))
        return counts

    assert run(story()) == [(2, 4), (3, 3)]


def test_an_allowed_address_is_never_limited() -> None:
    """However much it sends."""
    clock = FakeClock()
    store = memory_store(clock)
    one = worker(store, clock, **POLICY)

    async def story() -> set[Reason]:
        return {(await one.gate.decide(facts(peer=ALLOWED))).reason for _ in range(100)}

    assert run(story()) == {Reason.ALLOW_LIST}
    assert len(store) == 0


def test_the_lists_are_asked_about_the_client_and_not_about_its_proxy() -> None:
    """Behind a trusted proxy deny and allow hold for whom the proxy names; without trust only for the peer."""
    clock = FakeClock()
    behind = worker(memory_store(clock), clock, trusted_proxies="10.0.0.0/8", **POLICY)
    direct = worker(memory_store(clock), clock, **POLICY)

    def via(hop: str) -> Facts:
        return facts(peer="10.0.0.1")._replace(forwarded=(hop,))

    assert run(behind.gate.decide(via(DENIED))).reason is Reason.DENY_LIST
    assert run(behind.gate.decide(via(ALLOWED))).reason is Reason.ALLOW_LIST
    assert run(direct.gate.decide(via(DENIED))).reason is Reason.WITHIN_LIMITS
    assert run(direct.gate.decide(via(ALLOWED))).reason is Reason.WITHIN_LIMITS


def test_a_decision_says_what_its_answer_needs() -> None:
    """The limits, how they stand, and how long to wait."""
    clock = FakeClock()
    one = worker(memory_store(clock), clock, ip_limit="2/minute")

    async def story() -> list[Decision]:
        return [await one.gate.decide(facts()) for _ in range(3)]

    first, second, third = run(story())
    assert [level.remaining for level in (*first.statuses, *second.statuses, *third.statuses)] == [1, 0, 0]
    assert (third.verdict, third.reason, third.violated) == (Verdict.REFUSED, Reason.QUOTA, ("ip",))
    assert third.retry_after_us == 30_000_000
    assert third.listener_class is ListenerClass.GUEST


def test_without_any_limit_nothing_is_asked_of_the_store() -> None:
    """Unlimited requests cost no call."""
    clock = FakeClock()
    store = FlakyStore(memory_store(clock), failing=StoreUnavailable("away"))
    one = worker(store, clock, ip_limit="off", on_redis_failure="closed")
    assert run(one.gate.decide(facts())).reason is Reason.UNLIMITED
    assert store.calls == 0


# --- observers and dry run --------------------------------------------------------------------------


def test_every_observer_hears_every_refusal_once() -> None:
    """However many at once: one event for each, with its facts."""
    clock = FakeClock()
    heard = [Heard(), Heard()]
    store = FlakyStore(memory_store(clock))
    store.lags = True
    one = worker(store, clock, observers=heard, **POLICY)
    requests = [facts(peer=peer, path=path) for peer in (DENIED, ALLOWED, NOBODY) for path in ("/healthz", "/a", "/b")]

    async def story() -> list[Decision]:
        return await at_once(lambda n: one.gate.decide(requests[n % 9]), 90)

    decisions = run(story())
    refusals = [decision for decision in decisions if decision.refused]
    assert 0 < len(refusals) < 90
    for observer in heard:
        assert sorted(id(event.decision) for event in observer.events) == sorted(map(id, refusals))
        assert {event.facts for event in observer.events} < set(requests)
    assert {decision.reason for decision in decisions} == {
        Reason.DENY_LIST,
        Reason.ALLOW_LIST,
        Reason.EXEMPT,
        Reason.WITHIN_LIMITS,
        Reason.QUOTA,
    }


@pytest.mark.parametrize(
    ("peer", "reason"), [(NOBODY, Reason.QUOTA), (DENIED, Reason.DENY_LIST)], ids=["over the limit", "denied"]
)
def test_a_dry_run_refuses_nothing_and_says_what_it_would_have(peer: str, reason: Reason) -> None:
    """The verdict is `dry_run`, with the reason and the levels of the refusal that it stands for."""
    clock = FakeClock()
    heard = Heard()
    one = worker(memory_store(clock), clock, observers=[heard], dry_run=True, **POLICY)
    real = worker(memory_store(clock), clock, **POLICY)

    async def story() -> tuple[Decision, Decision]:
        for _ in range(2):
            await one.gate.decide(facts(peer=peer))
            await real.gate.decide(facts(peer=peer))
        return await one.gate.decide(facts(peer=peer)), await real.gate.decide(facts(peer=peer))

    dry, refused = run(story())
    assert (dry.verdict, dry.refused, dry.reason) == (Verdict.DRY_RUN, False, reason)
    assert dry._replace(verdict=Verdict.REFUSED) == refused
    assert heard.events[-1].decision is dry


def test_a_dry_run_does_not_touch_what_is_allowed() -> None:
    """Requests within their limits are allowed as ever."""
    clock = FakeClock()
    one = worker(memory_store(clock), clock, dry_run=True)
    assert run(one.gate.decide(facts())).verdict is Verdict.ALLOWED


def test_a_dry_run_lets_pass_while_the_store_is_closed() -> None:
    """Nothing is refused means nothing."""
    clock = FakeClock()
    store = FlakyStore(memory_store(clock), failing=StoreUnavailable("away"))
    one = worker(store, clock, dry_run=True, on_redis_failure="closed")
    decision = run(one.gate.decide(facts()))
    assert (decision.verdict, decision.reason) == (Verdict.DRY_RUN, Reason.STORE_CLOSED)


# --- starting and stopping --------------------------------------------------------------------------


def test_a_gate_starts_without_its_store_and_can_be_stopped_and_started_again() -> None:
    """Start never fails because something is away, and a stopped gate leaves no task behind."""
    clock = FakeClock()
    store = FlakyStore(memory_store(clock), failing=StoreUnavailable("away"))
    one = worker(store, clock)

    async def story() -> None:
        for _ in range(2):
            await one.start()
            await pass_time(3)
            assert (await one.gate.decide(facts())).verdict is Verdict.ALLOWED
            await one.stop()
            assert asyncio.all_tasks() == {asyncio.current_task()}
        await one.stop()

    run(story())
