"""A path that is slow to parse is parsed last, and not at all for clients that are refused on every path."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from gate.doubles import (
    FAR_AHEAD_S,
    CountingVerifier,
    FakeClock,
    Heard,
    LeasingStore,
    LoopClock,
    WorkerParts,
    facts,
    memory_store,
    run,
    worker,
)
from shieldmw.core.decision import Reason
from shieldmw.core.deny import DenyEntry, DenyList
from shieldmw.core.facts import Facts
from shieldmw.core.rules import Policy, RouteRules
from shieldmw.gate.limiter.lookups import LONGEST_KEPT

PEER, SITE = "203.0.113.7", "2001:db8::7"
TRICKY = "/x;y//%2e/"
LONG = "/" + "a" * (LONGEST_KEPT + 1)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that were read, each time."""
    paths: list[str] = []
    route_rules = Policy.route_rules

    def noting(policy: Policy, of: Facts) -> RouteRules:
        paths.append(of.path)
        return route_rules(policy, of)

    monkeypatch.setattr(Policy, "route_rules", noting)
    return paths


async def reasons(one: WorkerParts, *asked: Facts) -> list[Reason]:
    return [(await one.gate.decide(of)).reason for of in asked]


@pytest.mark.parametrize("path", [TRICKY, LONG])
@pytest.mark.parametrize("peer", [PEER, SITE], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("credential", [None, "good", "bad"], ids=["guest", "member", "a forged credential"])
@pytest.mark.parametrize(
    "limits",
    [{}, {"ip_limit": "2/minute;9/hour", "token_limit": "2/minute;9/hour"}, {"address_limit": "2/minute"}],
    ids=["one limit", "two limits", "the address too"],
)
def test_a_client_that_its_default_limits_refuse_is_refused_without(
    read: list[str], path: str, peer: str, credential: str | None, limits: dict[str, Any]
) -> None:
    """The first long path of a client that was refused before is not read, nor is any later one."""
    clock = LoopClock()
    values = {"ip_limit": "2/minute", "token_limit": "2/minute", "leases": False, **limits}
    one = worker(LeasingStore(clock), clock, tokens=CountingVerifier(["good"]), **values)

    async def story() -> None:
        plain = [facts(credential, peer=peer, path=f"/{number}") for number in range(3)]
        assert (await reasons(one, *plain))[-1] is Reason.QUOTA
        del read[:]
        for number in range(3):
            decision = await one.gate.decide(facts(credential, peer=peer, path=f"{path}{number}"))
            assert decision.refused
            assert decision.retry_after_us > 0
            assert (decision.identity is not None) is (credential == "good")
        assert read == []

    run(story())


@pytest.mark.parametrize("path", [TRICKY, LONG])
def test_a_denied_address_is_refused_without(read: list[str], path: str) -> None:
    """By the settings and by an operator."""
    clock = FakeClock()
    one = worker(memory_store(clock), clock, deny_ips="198.51.100.0/24")

    async def story() -> None:
        assert await reasons(one, facts(peer="198.51.100.9", path=path)) == [Reason.DENY_LIST]
        entry = DenyEntry(ip_network("203.0.113.0/24"), FAR_AHEAD_S, "admin", "")
        one.gate._deny_list.deny_list = DenyList(1, (entry,))
        assert await reasons(one, facts(path=path)) == [Reason.DENY_LIST]
        assert read == []

    run(story())


def test_it_is_read_once_for_all_others(read: list[str]) -> None:
    """Its limits and its cost are charged like those of any path."""
    clock = LoopClock()
    rules = '[{"name": "x", "path": "/x/*", "limits": "2/minute"}]'
    one = worker(LeasingStore(clock), clock, ip_limit="9/minute", rules=rules, leases=False)

    async def story() -> None:
        asked = [facts(path=f"/x;y//%2e/{number}") for number in range(3)]
        assert await reasons(one, *asked) == [Reason.WITHIN_LIMITS] * 2 + [Reason.QUOTA]
        assert read == [of.path for of in asked]

    run(story())


@pytest.mark.parametrize(
    "more",
    [
        {"exempt_paths": "/static/*"},
        {"rules": '[{"name": "free", "path": "/static/*", "cost": 0}]'},
        {"allow_ips": PEER},
        {"dry_run": True},
    ],
    ids=["exempt", "free", "allowed", "dry run"],
)
def test_what_a_refusal_does_not_hold_for_passes(more: dict[str, Any]) -> None:
    """A long path that is exempt or free, an address that is allowed, a dry run."""
    clock = LoopClock()
    one = worker(LeasingStore(clock), clock, **{"ip_limit": "2/minute", "leases": False, **more})

    async def story() -> None:
        for number in range(4):
            await one.gate.decide(facts(path=f"/{number}"))
        assert not (await one.gate.decide(facts(path=f"/static{LONG}"))).refused

    run(story())


def test_a_lease_is_spent_before_anything_is_refused() -> None:
    """A hot client has units that are its own already."""
    clock = LoopClock()
    one = worker(LeasingStore(clock), clock, ip_limit="60/minute")

    async def story() -> None:
        allowed = 0
        for _ in range(80):
            allowed += not (await one.gate.decide(facts())).refused
            allowed += not (await one.gate.decide(facts(path=LONG))).refused
        assert 60 <= allowed <= 62

    run(story())


def test_observers_hear_of_it_once() -> None:
    """As of any refusal."""
    clock, heard = LoopClock(), Heard()
    one = worker(LeasingStore(clock), clock, ip_limit="1/minute", leases=False, observers=[heard])

    async def story() -> None:
        for path in ("/", "/", LONG, LONG):
            await one.gate.decide(facts(path=path))

    run(story())
    assert sum(event.decision.refused for event in heard.events) == 3
