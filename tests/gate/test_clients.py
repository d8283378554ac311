"""Which requests share a bucket: by network, by route, and for members with and without a limit on addresses."""

from __future__ import annotations

from typing import Any

import pytest

from gate.doubles import (
    CountingVerifier,
    FlakyStore,
    LeasingStore,
    LoopClock,
    WorkerParts,
    facts,
    packed,
    pass_time,
    run,
    worker,
)
from shieldmw.core.decision import Decision, Reason
from shieldmw.errors import StoreUnavailable

PEER, OTHER, THIRD = "203.0.113.7", "203.0.113.8", "203.0.113.9"
RULES = '[{"name": "scarce", "path": "/scarce", "limits": "2/minute"}, {"name": "dear", "path": "/dear", "cost": 3}]'


def make(**values: Any) -> tuple[WorkerParts, FlakyStore]:
    """A worker that knows two members, far from its store."""
    clock = LoopClock()
    store = FlakyStore(LeasingStore(clock, ahead_us=55_555_555))
    values = {"failed_auth_limit": "off", **values}  # which would be looked at in a call of its own
    return worker(store, clock, tokens=CountingVerifier(valid={"alice", "bob"}), **values), store


async def passed(one: WorkerParts, times: int, **of: Any) -> int:
    """How many of so many requests pass."""
    return sum([not (await one.gate.decide(facts(**of))).refused for _ in range(times)])


async def refused_without_a_call(one: WorkerParts, store: FlakyStore, **of: Any) -> Decision:
    """The refusal of a client that is known to be refused; the store is not asked."""
    calls = store.calls
    decision = await one.gate.decide(facts(**of))
    assert (decision.refused, decision.reason, store.calls) == (True, Reason.QUOTA, calls)
    return decision


# --- networks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("leases", ["on", "off"])
def test_a_new_network_of_a_refused_site_costs_no_call(leases: str) -> None:
    """A client that takes another /64 of its /56 each time is refused by what the /56 has left."""
    one, store = make(ip_limit="2/minute", leases=leases)

    async def story() -> None:
        allowed = [await passed(one, 1, peer=f"2001:db8:0:{number:x}::7") for number in range(9)]
        assert allowed == [1] * 8 + [0]
        for number in range(9, 256):
            decision = await refused_without_a_call(one, store, peer=f"2001:db8:0:{number:x}::7")
            assert (decision.violated, decision.address) == (("ip-prefix",), packed(f"2001:db8:0:{number:x}::7"))
        assert await passed(one, 3, peer="2001:db8:0:100::7") == 2
        await pass_time(7.5)
        assert await passed(one, 2, peer="2001:db8:0:ff::7") == 1

    run(story())


def test_networks_of_a_site_have_each_their_own_limit() -> None:
    """One of them that is refused refuses no other."""
    one, store = make(ip_limit="2/minute")

    async def story() -> None:
        assert await passed(one, 3, peer="2001:db8::7") == 2
        assert (await refused_without_a_call(one, store, peer="2001:db8::ffff")).violated == ("ip",)
        assert await passed(one, 3, peer="2001:db8:0:1::7") == 2

    run(story())


# --- routes -------------------------------------------------------------------------------------------


def test_a_client_that_alternates_between_routes_has_one_bucket_for_both() -> None:
    """What is used up on one is used up on the other, and known there without a call."""
    one, store = make(ip_limit="10/minute", rules=RULES)

    async def story() -> None:
        for _ in range(2):
            assert await passed(one, 1, path="/hello") == 1
            assert await passed(one, 1, path="/dear") == 1
        assert await passed(one, 2, path="/hello") == 2
        assert await passed(one, 1, path="/hello") == 0
        for path in ("/dear", "/hello", "/scarce", "/dear"):
            decision = await refused_without_a_call(one, store, path=path)
            assert decision.violated == ("ip",)
            assert decision.retry_after_us == (18_000_000 if path == "/dear" else 6_000_000)

    run(story())


def test_a_route_of_its_own_limit_refuses_nobody_elsewhere() -> None:
    """Alternately: refused on one by what is known, and within the limits on the other."""
    one, store = make(ip_limit="100/minute", rules=RULES)

    async def story() -> None:
        for turn in range(20):
            assert await passed(one, 1, path="/hello") == 1
            if turn < 3:
                assert await passed(one, 1, path="/scarce") == (turn < 2)
            else:
                assert (await refused_without_a_call(one, store, path="/scarce")).violated == ("scarce",)

    run(story())


def test_leases_of_two_routes_take_nothing_from_their_client() -> None:
    """Each route has its own, and what is left of both is given back."""
    one, store = make(ip_limit="10000/day", rules=RULES)
    assert isinstance(store.inner, LeasingStore)
    inner = store.inner

    async def story() -> None:
        await one.start()
        for _ in range(200):
            assert await passed(one, 1, path="/hello") == 1
            assert await passed(one, 1, path="/dear") == 1
        assert len(one.leases.open) == 2
        assert store.calls < 40
        assert inner.leased > 300
        await pass_time(2)
        assert len(one.leases.open) == 0
        await one.stop()
        used_us = inner.tats_us[f"ip ip:{PEER}/32"] - inner.now_us()
        # Nothing that was spent is missing; a lease that another has been charged behind cannot be given back.
        assert 800 <= -(-used_us // 8_640_000) <= 900
        assert await passed(one, 1) == 1

    run(story())


# --- members ------------------------------------------------------------------------------------------


def test_a_member_at_two_addresses_has_one_limit_of_its_own_and_two_of_addresses() -> None:
    """Each refusal names its limit and the address where it was asked for."""
    one, store = make(token_limit="8/minute", address_limit="5/minute")

    async def story() -> None:
        assert await passed(one, 6, credential="alice", peer=PEER) == 5
        at_peer = await refused_without_a_call(one, store, credential="alice", peer=PEER)
        assert (at_peer.violated, at_peer.address) == (("address",), packed(PEER))
        assert await passed(one, 4, credential="alice", peer=OTHER) == 3
        at_other = await refused_without_a_call(one, store, credential="alice", peer=OTHER)
        assert (at_other.violated, at_other.address) == (("token",), packed(OTHER))
        assert (await refused_without_a_call(one, store, credential="alice", peer=THIRD)).violated == ("token",)
        assert (await refused_without_a_call(one, store, credential="bob", peer=PEER)).violated == ("address",)
        assert (await refused_without_a_call(one, store, peer=PEER)).violated == ("address",)
        assert await passed(one, 3, credential="bob", peer=OTHER) == 2

    run(story())


@pytest.mark.parametrize("shows", ["alice", "bob", None])
def test_whoever_is_refused_for_its_address_alone_costs_no_call(shows: str | None) -> None:
    """Members whom nothing else limits, and everybody beside them."""
    one, store = make(ip_limit="off", token_limit="off", address_limit="2/minute")

    async def story() -> None:
        assert await passed(one, 3, credential="alice") == 2
        await one.gate.decide(facts("bob"))  # its token is proved
        assert (await refused_without_a_call(one, store, credential=shows)).violated == ("address",)

    run(story())


@pytest.mark.parametrize("address_limit", ["off", "100/second"])
def test_a_members_lease_is_shared_between_addresses_that_are_not_limited(address_limit: str) -> None:
    """What is charged ahead at one address is spent at the other; but never where the address is charged too."""
    one, store = make(token_limit="100/second", address_limit=address_limit)

    async def story() -> None:
        await passed(one, 2, credential="alice", peer=PEER)
        calls = store.calls
        assert await passed(one, 1, credential="alice", peer=PEER) == 1
        assert store.calls == calls
        assert await passed(one, 3, credential="alice", peer=OTHER) == 3
        assert (store.calls == calls) == (address_limit == "off")
        calls = store.calls
        assert await passed(one, 1, credential="bob", peer=PEER) == 1
        assert store.calls == calls + 1

    run(story())


def test_a_hot_guest_is_not_taken_for_another() -> None:
    """Neither on another path, nor behind another proxy: each is charged for itself."""
    one, store = make(ip_limit="5/minute", rules=RULES, trusted_proxies="192.0.2.1")
    hot = facts(peer="192.0.2.1")._replace(forwarded=(PEER,))
    others = [
        hot._replace(forwarded=(OTHER,)),
        hot._replace(peer=THIRD, forwarded=()),
        hot._replace(path="/scarce", route_path="/scarce"),
    ]

    async def story() -> None:
        refused = [(await one.gate.decide(hot)).refused for _ in range(12)]
        assert refused == [False] * 5 + [True] * 7
        decisions = [await one.gate.decide(other) for other in others]
        assert [decision.refused for decision in decisions] == [False, False, True]
        assert [decision.address for decision in decisions] == [packed(OTHER), packed(THIRD), packed(PEER)]
        assert store.calls > 0

    run(story())


# --- when the store is back ---------------------------------------------------------------------------


def test_the_request_that_finds_the_store_back_is_not_leased() -> None:
    """However busy its client is: debts are due, so the bucket is emptier than the store says."""
    one, store = make(ip_limit="100/minute")
    inner = store.inner
    assert isinstance(inner, LeasingStore)

    async def story() -> None:
        store.failing = StoreUnavailable("away")
        for _ in range(20):
            await passed(one, 1)
            await pass_time(0.001)
        store.failing = None
        inner.asked_ahead = 0
        calls = store.calls
        while store.calls == calls:
            await passed(one, 1)
            await pass_time(0.01)
        assert inner.asked_ahead == 0

    run(story())
