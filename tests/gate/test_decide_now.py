"""Decisions without awaiting: they allocate nothing, use nothing outdated, and their caches stay small."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Awaitable
from ipaddress import ip_network
from typing import Any

import pytest

from gate.doubles import (
    CountingVerifier,
    FakeClock,
    FlakyStore,
    Heard,
    LeasingStore,
    WorkerParts,
    facts,
    nth_address,
    packed,
    run,
    worker,
)
from shieldmw import Identity
from shieldmw.core.api_keys import ApiKey, derive_digest_key, digest
from shieldmw.core.decision import Decision, Reason, Verdict
from shieldmw.core.deny import DenyEntry
from shieldmw.core.facts import Facts
from shieldmw.core.mode import Mode, ModeChange
from shieldmw.gate.auth import identity
from shieldmw.gate.limiter import leases, lookups
from shieldmw.gate.limiter.known_tats import KnownTats

PEER, OTHER = "203.0.113.7", "203.0.113.8"
GRAIN_S = 0.25

POLICY: dict[str, Any] = {
    "deny_ips": "198.51.100.0/24",
    "allow_ips": "192.0.2.1",
    "ip_limit": "100/day",
    "token_limit": "100/day",
}


def make(*, observers: list[Heard] | None = None, **values: Any) -> tuple[WorkerParts, FlakyStore]:
    """A worker that knows two members, far from its store, on a clock that stands."""
    clock = FakeClock()
    store = FlakyStore(LeasingStore(clock, ahead_us=55_555_555))
    verifier = CountingVerifier(valid={"alice", "bob"})
    return worker(store, clock, tokens=verifier, observers=observers or [], **{**POLICY, **values}), store


async def ask(one: WorkerParts, times: int = 1, **of: Any) -> Decision:
    """Several requests one after the other; returns the decision on the last."""
    for _ in range(times):
        decision = await one.gate.decide(facts(**of))
    return decision


def at_once(one: WorkerParts, **of: Any) -> Decision:
    """A decision that nothing is awaited for."""
    decision = one.gate.decide_now(facts(**of))
    if isinstance(decision, Decision):
        return decision
    _drop(decision)
    raise AssertionError("something must be awaited")


def must_wait(one: WorkerParts, **of: Any) -> bool:
    """Whether something must be asked of somebody."""
    decision = one.gate.decide_now(facts(**of))
    if isinstance(decision, Decision):
        return False
    _drop(decision)
    return True


def _drop(decision: Awaitable[Decision]) -> None:
    """Never awaited, and no warning about it."""
    assert asyncio.iscoroutine(decision)
    decision.close()


# --- nothing to await -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of", "reason"),
    [
        ({"path": "/healthz"}, Reason.EXEMPT),
        ({"path": "/healthz", "credential": "alice"}, Reason.EXEMPT),
        ({"peer": "198.51.100.9"}, Reason.DENY_LIST),
        ({"peer": "198.51.100.9", "path": "/healthz"}, Reason.DENY_LIST),
        ({"peer": "192.0.2.1"}, Reason.ALLOW_LIST),
    ],
)
def test_what_settings_decide_is_decided_at_once(of: dict[str, str], reason: Reason) -> None:
    """The first time already, outside of any loop, and without a call."""
    one, store = make()
    assert at_once(one, **of).reason is reason
    assert store.calls == 0


def test_without_limits_all_is_decided_at_once() -> None:
    """Guests from the first request on."""
    one, store = make(ip_limit="off")
    assert at_once(one).reason is Reason.UNLIMITED
    assert store.calls == 0


@pytest.mark.parametrize("credential", [None, "alice"], ids=["guest", "member"])
def test_a_hot_client_is_decided_at_once_and_so_is_one_refused_again(credential: str | None) -> None:
    """From its lease as long as that lasts; then, once refused, without a call until the wait is over."""
    one, store = make()

    async def story() -> None:
        assert must_wait(one, credential=credential)
        await ask(one, 4, credential=credential)
        calls = store.calls
        leased = at_once(one, credential=credential)
        assert (leased.verdict, leased.reason) == (Verdict.ALLOWED, Reason.WITHIN_LIMITS)
        assert leased.identity == (Identity("alice") if credential else None)
        assert store.calls == calls
        refused = await ask(one, 200, credential=credential)
        assert refused.reason is Reason.QUOTA
        calls = store.calls
        for step_s in (0.0, 0.1, 10.0, 800.0):
            one.clock.now_s += step_s
            again = at_once(one, credential=credential)
            assert (again.verdict, again.reason) == (Verdict.REFUSED, Reason.QUOTA)
        assert store.calls == calls

    run(story())


def test_a_credential_that_is_not_known_yet_must_be_proved_first() -> None:
    """And a guest whose host app may know it."""
    one, _ = make(ip_limit="off", token_limit="off")

    async def nobody() -> None:
        return None

    async def story() -> None:
        assert must_wait(one, credential="alice")
        await ask(one, credential="alice")
        assert at_once(one, credential="alice").identity == Identity("alice")
        assert must_wait(one, authenticate=nobody)
        await ask(one, authenticate=nobody)
        assert must_wait(one, authenticate=nobody)

    run(story())


# --- the same refusal for a whole grain -------------------------------------------------------------


async def used_up(one: WorkerParts, **of: Any) -> Decision:
    """A refusal of a client that has nothing left."""
    return await ask(one, 120, **of)


@pytest.mark.parametrize("credential", [None, "alice"], ids=["guest", "member"])
def test_the_same_refusal_is_given_for_a_quarter_of_a_second(credential: str | None) -> None:
    """Then a new one, that says how much shorter the wait has become."""
    one, _ = make()

    async def story() -> None:
        refusal = await used_up(one, credential=credential)
        assert refusal.refused
        one.clock.now_s += GRAIN_S - 0.001
        again = at_once(one, credential=credential)
        assert (again, again.rendered is refusal.rendered) == (refusal, True)
        one.clock.now_s += 0.001
        new = at_once(one, credential=credential)
        assert new is not refusal
        assert new.retry_after_us == refusal.retry_after_us - 250_000
        assert at_once(one, credential=credential).retry_after_us == new.retry_after_us

    run(story())


@pytest.mark.parametrize("wait_us", [100_000, 249_999, 1000])
def test_no_refusal_is_given_past_the_moment_when_it_would_pass(wait_us: int) -> None:
    """However short the wait: to the microsecond."""
    one, _ = make(ip_limit=f"{1_000_000 // wait_us}/second", ip_burst=1, leases="off")

    async def story() -> None:
        await ask(one, 2)
        refusal = await ask(one)
        assert 0 < refusal.retry_after_us <= wait_us + 1000
        one.clock.now_s = round(one.clock.now_s * 1e6 + refusal.retry_after_us - 1) / 1e6
        assert at_once(one).refused
        one.clock.now_s += 1e-6
        assert must_wait(one)
        assert not (await ask(one)).refused

    run(story())


@pytest.mark.parametrize("credential", [None, "alice"], ids=["guest", "member"])
def test_no_refusal_outlives_a_reset(credential: str | None) -> None:
    """Once all is forgotten the store is asked."""
    one, store = make()

    async def story() -> None:
        assert (await used_up(one, credential=credential)).refused
        inner = store.inner
        assert isinstance(inner, LeasingStore)
        inner.tats_us.clear()
        one.clock.now_s += 0.001
        one.gate._limiter.invalidate()
        assert must_wait(one, credential=credential)
        assert not (await ask(one, credential=credential)).refused

    run(story())


def test_members_at_several_addresses_are_each_told_their_own() -> None:
    """One member, refused on two addresses by turns: no decision names the address of another."""
    one, store = make()

    async def story() -> None:
        for peer in (PEER, OTHER):
            await used_up(one, credential="alice", peer=peer)
        calls = store.calls
        for _ in range(5):
            for peer in (PEER, OTHER):
                decision = at_once(one, credential="alice", peer=peer)
                assert (decision.refused, decision.address) == (True, packed(peer))
        assert store.calls == calls

    run(story())


def test_guests_are_never_told_anothers_address() -> None:
    """Behind one proxy, in one bucket or in several: each its own."""
    one, _ = make(trusted_proxies="10.0.0.1", ip_limit="1/hour", ipv4_prefix=24)
    addresses = [f"203.0.113.{number}" for number in range(9)]

    async def story() -> None:
        for _ in range(6):
            for address in addresses:
                asked = Facts("10.0.0.1", "/", "/", frozenset({"GET"}), forwarded=(address,))
                decision = await one.gate.decide(asked)
                assert decision.address == packed(address)

    run(story())


# --- what operators say holds at once ---------------------------------------------------------------


async def switch_to(one: WorkerParts, mode: Mode, for_s: int | None = None) -> None:
    """Change the mode."""
    assert await one.mode_watch.set(ModeChange(mode, "eve", "a test", for_s), None)


@pytest.mark.parametrize("state", ["leased", "refused", "refused for long"])
@pytest.mark.parametrize("credential", [None, "alice"], ids=["guest", "member"])
def test_a_change_of_mode_holds_at_once_for_whoever_is_remembered(credential: str | None, state: str) -> None:
    """Guests must leave a path of members; both are told the mode in force; the end time ends it."""
    rules = '[{"name": "chat", "path": "/chat", "emergency": "members"}]'
    one, _ = make(rules=rules)

    async def story() -> None:
        await switch_to(one, Mode.NORMAL)
        before = await ask(one, 5 if state == "leased" else 200, credential=credential, path="/chat")
        assert before.refused == (state != "leased")
        if state == "refused for long":
            one.clock.now_s += 1
            at_once(one, credential=credential, path="/chat")
        await switch_to(one, Mode.EMERGENCY, 60)
        decision = await ask(one, credential=credential, path="/chat")
        assert decision.mode is Mode.EMERGENCY
        closed = credential is None
        assert (decision.reason is Reason.EMERGENCY) == closed
        one.clock.now_s += 59.999
        assert (await ask(one, credential=credential, path="/chat")).mode is Mode.EMERGENCY
        one.clock.now_s += 0.002
        after = await ask(one, credential=credential, path="/chat")
        assert (after.mode, after.reason is Reason.EMERGENCY) == (Mode.NORMAL, False)

    run(story())


def test_a_polled_path_that_is_closed_to_guests_is_known_as_polled() -> None:
    """So a guest's player can be redirected from there."""
    one, _ = make(rules='[{"name": "hls", "path": "/hls/*", "emergency": "members", "polled": true}]')

    async def story() -> None:
        await switch_to(one, Mode.EMERGENCY, 60)
        decision = await ask(one, path="/hls/live.m3u8")
        assert (decision.reason, decision.lease_s) == (Reason.EMERGENCY, 30)

    run(story())


def test_the_limit_of_an_emergency_holds_at_once_for_a_leased_client() -> None:
    """What was charged ahead in normal times is not spent in an emergency, and a smaller bucket refuses."""
    one, _ = make(ip_limit="1000/day", emergency_ip_limit="5/minute")

    async def story() -> None:
        await switch_to(one, Mode.NORMAL)
        await ask(one, 6)
        assert not at_once(one).refused
        await switch_to(one, Mode.EMERGENCY, 60)
        decision = await ask(one)
        assert (decision.refused, decision.mode) == (True, Mode.EMERGENCY)
        await switch_to(one, Mode.NORMAL)
        assert not at_once(one).refused

    run(story())


@pytest.mark.parametrize("state", ["unknown", "leased", "refused"])
@pytest.mark.parametrize("credential", [None, "alice"], ids=["guest", "member"])
def test_a_denied_network_is_denied_at_once_until_its_time(credential: str | None, state: str) -> None:
    """Leased or refused a moment ago: the deny list comes first, and is told as the reason; later it is as before."""
    one, store = make()
    of: dict[str, Any] = {"credential": credential}

    async def story() -> None:
        times = {"unknown": 0, "leased": 6}.get(state, 200)
        if times:
            assert (await ask(one, times, **of)).refused == (times > 100)
        until_s = one.mode_watch.store_now_s() + 60
        await store.inner.deny(DenyEntry(ip_network("203.0.113.0/24"), until_s, "eve", "a test"))
        await one.deny_list.refresh()
        denied = at_once(one, **of)
        assert (denied.refused, denied.reason) == (True, Reason.DENY_LIST)
        assert 59_000_000 <= denied.retry_after_us <= 60_000_000
        one.clock.now_s += 59.9
        assert at_once(one, **of).reason is Reason.DENY_LIST
        one.clock.now_s += 0.2
        after = await ask(one, **of)
        assert after.reason is (Reason.QUOTA if times > 100 else Reason.WITHIN_LIMITS)

    run(story())


def test_a_network_taken_off_the_list_passes_at_once() -> None:
    """Nothing of a denial is remembered."""
    one, store = make()

    async def story() -> None:
        entry = DenyEntry(ip_network("203.0.113.0/24"), one.mode_watch.store_now_s() + 60, "eve", "a test")
        await store.inner.deny(entry)
        await one.deny_list.refresh()
        for _ in range(3):
            assert at_once(one).reason is Reason.DENY_LIST
        await store.inner.undeny("203.0.113.0/24", "eve")
        await one.deny_list.refresh()
        assert (await ask(one)).reason is Reason.WITHIN_LIMITS

    run(story())


def test_a_revoked_key_stops_at_once() -> None:
    """Its lease is not spent any more, whoever shows it is a guest, and a refusal of the member is not the guest's."""
    one, store = make(ip_limit="100/day", token_limit="1000/day")

    async def story() -> None:
        key = "a key that was issued"
        issued = digest(key, derive_digest_key(b"fleet"))
        await store.inner.add_api_key(ApiKey(issued, Identity("carol"), 0))
        await one.api_keys.refresh()
        for _ in range(6):
            decision = await ask(one, credential=key)
        assert decision.identity == Identity("carol")
        assert at_once(one, credential=key).identity == Identity("carol")
        await store.inner.revoke_api_keys([issued])
        await one.api_keys.refresh()
        decision = await ask(one, credential=key)
        assert (decision.identity, decision.statuses[0].limit.name) == (None, "ip")

    run(story())


# --- memory -----------------------------------------------------------------------------------------


def grown_mb(work: Any) -> float:
    """How many megabytes more are in use after some work."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        work()
        after, _ = tracemalloc.get_traced_memory()
        return (after - before) / 1e6
    finally:
        tracemalloc.stop()


def asked(number: int, what: str) -> Facts:
    """A request that is like no other in one way."""
    peer, path, forwarded, methods = PEER, "/", (), frozenset({"GET"})
    if what == "addresses":
        peer = nth_address(number)
    elif what == "paths":
        path = f"/{number}"
    elif what == "long paths":
        path = f"/{number:016000}"
    elif what == "headers":
        return Facts(peer, path, path, methods, forwarded=(f"{number}",))
    elif what == "long headers":
        return Facts(peer, path, path, methods, forwarded=(f"{number:016000}",))
    elif what == "many lines":
        return Facts(peer, path, path, methods, forwarded=(*[""] * 2000, f"{number}"))
    elif what == "long methods":
        methods = frozenset({"GET", f"{number:016000}"})
    return Facts(peer, path, path, methods, forwarded=forwarded)


@pytest.mark.parametrize(
    ("what", "refused"),
    [
        ("addresses", False),
        ("addresses", True),
        ("paths", False),
        ("paths", True),
        ("long paths", True),
        ("headers", False),
        ("headers", True),
        ("long headers", False),
        ("long headers", True),
        ("many lines", True),
        ("many lines", False),
        ("long methods", False),
        ("long methods", True),
    ],
)
def test_a_flood_leaves_tables_small(what: str, refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever differs from request to request, each coming three times: so many entries, and none is a large one."""
    monkeypatch.setattr(lookups, "PATHS_KEPT", 512)
    monkeypatch.setattr(leases, "CLIENTS_KEPT", 512)
    monkeypatch.setattr(KnownTats.__init__, "__defaults__", (512,))
    one, _ = make(ip_limit="1/day" if refused else "off")

    async def flood() -> None:
        for number in range(1200):
            for _ in range(3):
                await one.gate.decide(asked(number, what))

    grown = grown_mb(lambda: run(flood()))
    tables = one.gate._lookups
    assert len(tables.routes) <= 512
    assert len(tables._by_rules) == 2
    assert len(one.limiter._known_tats) <= 512
    assert len(one.leases._asked_us) <= 512
    assert len(one.leases.open) <= 1
    # 512 entries of a kB each, beside the store's and the outage's buckets of 1,200 clients.
    assert grown < 4.0


def test_a_flood_of_credentials_leaves_a_small_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long they are and however many addresses show them: what is kept is bounded, and holds none of them."""
    monkeypatch.setattr(identity, "CREDENTIALS_KEPT", 512)
    one, _ = make(failed_auth_limit="1000000/minute")

    async def flood() -> None:
        for number in range(1200):
            peer = nth_address(number % 100)
            await one.gate.decide(facts(f"{number:08000}", peer=peer))

    verifier = one.identifier._tokens
    assert isinstance(verifier, CountingVerifier)

    def work() -> None:
        run(flood())
        verifier.asked.clear()

    assert grown_mb(work) < 4.0
    assert len(one.identifier._known) <= 512


# --- observers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dry_run", [False, True], ids=["real", "dry run"])
def test_observers_hear_refusals_only(dry_run: bool) -> None:
    """Those of a dry run among them, each once."""
    heard = Heard()
    one, _ = make(observers=[heard], dry_run=dry_run, ip_limit="20/day")

    async def story() -> list[Decision]:
        requests: list[dict[str, Any]] = [{}] * 40 + [
            {"path": "/healthz"},
            {"peer": "192.0.2.1"},
            {"peer": "198.51.100.9"},
        ] * 3
        return [await one.gate.decide(facts(**of)) for of in requests]

    decisions = run(story())
    refusals = [decision for decision in decisions if decision.reason in (Reason.QUOTA, Reason.DENY_LIST)]
    assert [event.decision for event in heard.events] == refusals
    assert {decision.verdict for decision in refusals} == {Verdict.DRY_RUN if dry_run else Verdict.REFUSED}
    assert len(refusals) == 23
