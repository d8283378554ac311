"""Charges in a cluster: which share one call, and which are taken one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import product
from struct import unpack

import pytest

from core.addresses import clients_at, packed
from core.plans import charges_of
from servers import slot_of as slot_by_the_library
from shieldmw.core.bucket import Charge, Charges, Outcome, TakeRequest
from shieldmw.core.client import Client, Identity, token_client
from shieldmw.core.debts import Debt
from shieldmw.core.lease import Unspent
from shieldmw.core.limits import Limit
from shieldmw.core.mode import Mode
from shieldmw.core.paths import PathPattern
from shieldmw.core.rules import Policy, RouteRules, Rule, Scope
from shieldmw.errors import NotApplied, StoreError, StoreUnavailable
from shieldmw.settings.store_url import Address
from shieldmw.store import slots
from shieldmw.store.port import PartialFailure
from shieldmw.store.redis.calls import TryAgain
from shieldmw.store.redis.cluster import owners_of, slot_of
from store.stores import run, slow_limit, someone

A, B, C = slow_limit(5, "a"), slow_limit(5, "b"), slow_limit(5, "c")
DAY_US = 86_400_000_000


def charge(name: str, limit: Limit = A) -> Charge:
    """One unit of a client with a slot of its own."""
    return Charge(someone(name), limit)


def key_of(charge: Charge) -> str:
    """A key that shows whose bucket it is."""
    return f"{charge.client.text}:{charge.limit.name}"


class Nodes:
    """Answers take.lua and the refunds: every bucket is empty of charges but those that refuse; notes what is asked."""

    def __init__(self, *, refuse: Sequence[str] = (), fail: Callable[[Sequence[str]], BaseException | None]) -> None:
        self.asked: list[tuple[str, Sequence[str]]] = []
        self.prefetch: list[int] = []
        self._refuse = refuse
        self._fail = fail

    async def run(self, script: str, keys: Sequence[str], arguments: Sequence[str | int | bytes]) -> object:
        """One call."""
        self.asked.append((script, list(keys)))
        if script in ("take", "settle") and (failure := self._fail(keys)) is not None:
            raise failure
        if script != "take":
            return 1
        reply = [1000]
        (packed,) = arguments
        assert isinstance(packed, bytes)
        numbers = [int(number) for number in unpack(f"<{len(packed) // 8}d", packed)]
        while numbers:
            count, prefetch = numbers[:2]
            self.prefetch.append(prefetch)
            charges = [numbers[2 + 4 * i : 6 + 4 * i] for i in range(count)]
            refused = any(keys[bucket - 1] in self._refuse and cost for bucket, _, _, cost in charges)
            reply.append(-1 if refused else prefetch)
            reply += [1000 + (0 if refused else cost * unit_us) for _, unit_us, _, cost in charges]
            numbers = numbers[2 + 4 * count :]
        return reply


def no_failure(keys: Sequence[str]) -> None:
    """All is well."""


def taken(nodes: Nodes, *requests: TakeRequest) -> Sequence[Outcome]:
    """What becomes of the asks."""
    return run(slots.take(nodes.run, requests, key_of))


# --- the plan


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([["x"], ["x"], ["y"], ["x"]], [[0, 1, 3], [2]]),  # one call for each client
        ([["x", "y"], ["x"], ["x", "y"]], [[0], [1], [2]]),  # over several slots each is alone
        ([["x", "x"], ["y"]], [[0], [1]]),
        ([], []),
    ],
)
def test_asks_are_grouped_by_slot(asked: list[list[str]], expected: list[list[int]]) -> None:
    """Each ask once, those of a group in their order."""
    requests = [
        TakeRequest(tuple(charge(name, limit) for name, limit in zip(names, (A, B), strict=False))) for names in asked
    ]
    assert slots.groups(requests) == expected


def test_a_site_and_its_addresses_go_together() -> None:
    """They share a slot, though they are several clients."""
    address = clients_at("2001:db8::1")
    assert address.site is not None
    charges = (Charge(address.network, A), Charge(address.site, A))
    assert slots.parts(charges) == [charges]


def test_what_is_taken_in_turn_may_be_refunded_up_to_the_last_part() -> None:
    """Those before it are refunded if it refuses, so their TATs are not remembered."""
    joined = slots.in_turn([Outcome(True, 100, (150, 170)), Outcome(False, 5000, (5030,))])
    assert joined == Outcome(False, 100, (150, 170, 130), refundable=2)


@pytest.mark.parametrize(
    "key", ["a", "shield:seats", "x{tag}y", "x{}y", "x{y", "x}y{z}", "{a}{b}", "{{a}}", "ß{ü}", ""]
)
def test_a_key_has_the_slot_that_the_servers_say(key: str) -> None:
    """With and without hash tags, whole and broken ones."""
    assert slot_of(key) == slot_by_the_library(key)


def test_nodes_without_a_name_are_where_the_one_was_that_told() -> None:
    """Every slot of a range has its owner; slots that nobody serves have none."""
    reply = [[0, 99, [b"10.0.0.1", 7000, b"id"], [b"10.0.0.9", 7009]], [101, 16_383, [None, 7001]]]
    owners = owners_of(reply, Address("10.0.0.5", 1))
    assert [owners[slot] for slot in (0, 99, 100, 101, 16_383)] == [
        *[Address("10.0.0.1", 7000)] * 2,
        None,
        *[Address("10.0.0.5", 7001)] * 2,
    ]


@pytest.mark.parametrize("reply", [None, b"OK", [1], [[0, 1]], [[0, 1, []]], [[0, 1, [b"h", b"port"]]]])
def test_what_tells_no_slots_is_an_error(reply: object) -> None:
    """That says who answered."""
    with pytest.raises(StoreError, match=r"h:7"):
        owners_of(reply, Address("h", 7))


# --- the invariant that refunds rest on


def test_no_bucket_is_both_refunded_and_leased() -> None:
    """With any policy: a bucket that is charged first of several slots is never charged within one slot."""
    every = PathPattern("/*")
    addresses = [packed(text) for text in ("192.0.2.1", "2001:db8::1", "2001:db8::2:1")]
    for token, address, own in product([(), (A,)], [(), (B,)], [(), (C,)]):
        policy = Policy(
            {Scope.IP: (A,), Scope.TOKEN: token, Scope.ADDRESS: address}, rules=(Rule("r", every, limits=own),)
        )
        refunded, leased = set[str](), set[str]()
        for source, identity, mode, own_limits in product(
            [*addresses, None], (None, Identity("alice")), Mode, ((), own)
        ):
            charges = charges_of(policy, RouteRules(limits=own_limits), identity, source, mode)
            if not charges:
                continue
            *first, _ = slots.parts(charges)
            refunded |= {charge.bucket for part in first for charge in part}
            if not first:
                leased |= {charge.bucket for charge in charges}
        assert refunded & leased == set()


def test_charges_in_several_slots_are_taken_without_more_ahead() -> None:
    """However hot the client is; within one slot they are."""
    nodes = Nodes(fail=no_failure)
    both, alone = taken(nodes, TakeRequest((charge("x"), charge("y")), 9), TakeRequest((charge("z"),), 9))
    assert (both.leased, alone.leased) == (0, 9)
    assert sorted(nodes.prefetch) == [0, 0, 9]


# --- in turn


def test_a_refusal_gives_back_what_was_taken_before_it_and_looks_at_the_rest() -> None:
    """Narrowest first; the outcome tells each bucket as it stands afterwards, and which of them may yet go back."""
    nodes = Nodes(refuse=["y:b"], fail=no_failure)
    (outcome,) = taken(nodes, TakeRequest((charge("x", A), charge("y", B), charge("z", C))))
    assert outcome == Outcome(False, 1000, (1000, 1000, 1000), refundable=2)
    scripts = [(script, keys) for script, [*keys] in nodes.asked]
    assert scripts == [("take", ["x:a"]), ("take", ["y:b"]), ("refund", ["x:a"]), ("take", ["z:c"])]


def test_a_failure_gives_back_what_was_taken_before_it() -> None:
    """The request is told of the failure."""
    nodes = Nodes(fail=lambda keys: StoreUnavailable("away") if "y:a" in keys else None)
    with pytest.raises(StoreUnavailable, match="away"):
        taken(nodes, TakeRequest((charge("x"), charge("y"))))
    assert nodes.asked[-1] == ("refund", ["x:a"])


def test_a_slot_on_the_move_is_asked_bucket_by_bucket() -> None:
    """There somebody may have a lease behind a charge: it goes back only where nobody has charged the bucket since."""
    nodes = Nodes(refuse=["x:b"], fail=lambda keys: TryAgain("moving") if len(keys) > 1 else None)
    first, second = taken(nodes, TakeRequest((charge("x", A), charge("x", B))), TakeRequest((charge("x", C),), 3))
    assert first == Outcome(False, 1000, (1000, 1000), refundable=1)
    assert second == Outcome(True, 1000, (1000 + 4 * DAY_US - 3 * DAY_US,), 3)
    names = [script for script, _ in nodes.asked]
    assert names == ["take", "take", "take", "give_back", "take"]


# --- some fail


def test_asks_fail_one_by_one() -> None:
    """Requests to a node that is away fail; the others have their outcomes."""
    nodes = Nodes(fail=lambda keys: StoreUnavailable("hung") if "y:a" in keys else None)
    requests = [TakeRequest((charge(name),)) for name in "xyzy"]
    with pytest.raises(PartialFailure, match="2 of 4 requests failed, the first with: hung") as part:
        taken(nodes, *requests)
    kinds = [type(result) for result in part.value.results]
    assert kinds == [Outcome, StoreUnavailable, Outcome, StoreUnavailable]


def test_where_all_fail_it_is_their_own_error() -> None:
    """As from one server."""
    nodes = Nodes(fail=lambda keys: StoreUnavailable("hung"))
    with pytest.raises(StoreUnavailable, match=r"^hung$"):
        taken(nodes, *(TakeRequest((charge(name),)) for name in "xy"))


def test_leases_are_given_back_slot_by_slot() -> None:
    """One call for each client; what one node cannot take back harms no other."""
    nodes = Nodes(fail=no_failure)
    unspent = [Unspent(charge(name, limit), 10, 5) for name in "xy" for limit in (A, B)]
    run(slots.give_back(nodes.run, unspent, key_of))
    assert nodes.asked == [("give_back", ["x:a", "x:b"]), ("give_back", ["y:a", "y:b"])]


def settled(nodes: Nodes) -> list[str]:
    """The debts that are left when three clients owe something."""
    debts = [Debt(charge(name), 1, A.unit_us, A.unit_us, 1) for name in "xyz"]
    left = run(slots.settle(nodes.run, debts, 0, "me", key_of))
    return [one.charge.client.text for one in left]


def test_what_is_owed_is_charged_slot_by_slot() -> None:
    """One call for each client; what is not known to be charged is left."""
    nodes = Nodes(fail=no_failure)
    assert settled(nodes) == []
    assert nodes.asked == [("settle", [f"{name}:a", f"{name}:a:settled:me"]) for name in "xyz"]
    assert settled(Nodes(fail=lambda keys: NotApplied("refused") if "y:a" in keys else None)) == ["y"]
    assert settled(Nodes(fail=lambda keys: StoreUnavailable("hung") if "y:a" in keys else None)) == ["y"]
    with pytest.raises(StoreUnavailable, match=r"^hung$"):
        settled(Nodes(fail=lambda keys: StoreUnavailable("hung")))


def test_what_was_cancelled_is_not_known_to_be_charged() -> None:
    """It is left like what has failed, and owed still."""
    assert settled(Nodes(fail=lambda keys: asyncio.CancelledError() if "y:a" in keys else None)) == ["y"]


def one_slot(charges: Charges) -> bool:
    """Whether a single call can take them."""
    return len(slots.parts(charges)) == 1


def test_a_member_alone_has_one_slot() -> None:
    """Whatever its limits are."""
    client: Client = token_client(Identity("alice"))
    assert one_slot(tuple(Charge(client, limit) for limit in (A, B, C)))
