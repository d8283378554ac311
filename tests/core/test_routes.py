"""Routes: one plan for each mode, class and address family, and access in an emergency."""

from __future__ import annotations

from itertools import product

import pytest

from core.addresses import PREFIXES
from shieldmw.core.client import Address, Identity, ListenerClass
from shieldmw.core.limits import Limit
from shieldmw.core.mode import Mode
from shieldmw.core.plan import TAG_BYTES
from shieldmw.core.routes import Route
from shieldmw.core.rules import Access, Policy, RouteRules, Scope

POLICY = Policy(
    {
        Scope.IP: (Limit("ip", 300, 60, 300),),
        Scope.TOKEN: (Limit("token", 1200, 60, 1200),),
        Scope.ADDRESS: (Limit("address", 2000, 60, 2000),),
    },
    emergency={Scope.IP: (Limit("ip", 30, 60, 30),)},
)
GUEST = Identity("zoe", ListenerClass.GUEST)
MEMBER = Identity("alice", ListenerClass.MEMBER)
HOST = Identity("kim", ListenerClass.HOST)
V4, V6 = bytes(4), bytes(16)
KINDS = list(product(Mode, (None, GUEST, MEMBER, HOST), (V4, V6)))


def test_there_is_one_plan_for_each_kind() -> None:
    """Every mode, class and family has a plan of its own, on every route; and is given the same one each time."""
    routes = [Route(RouteRules(cost=cost), POLICY, PREFIXES) for cost in (1, 2)]
    first, again = ([route.plan(*kind) for route in routes for kind in KINDS] for _ in range(2))
    assert [id(plan) for plan in first] == [id(plan) for plan in again]
    assert len(set(map(id, first))) == 2 * len(KINDS)
    numbers = {plan.requester(None, None, b"").key[:TAG_BYTES] for plan in first}
    assert len(numbers) == 2 * len(KINDS), "each has a number of its own"


def test_members_of_a_class_share_a_plan() -> None:
    """The subject itself makes no other plan."""
    route = Route(RouteRules(), POLICY, PREFIXES)
    assert route.plan(Mode.NORMAL, MEMBER, V4) is route.plan(Mode.NORMAL, Identity("bob"), V4)


@pytest.mark.parametrize(("mode", "identity", "address"), KINDS)
def test_a_plan_has_what_the_policy_says_of_its_kind(mode: Mode, identity: Identity | None, address: Address) -> None:
    """The policy's terms for it, its mode, and whether responses there hold seats."""
    for live in (False, True):
        rules = RouteRules(live=live, lease_s=0 if live else 30)
        plan = Route(rules, POLICY, PREFIXES).plan(mode, identity, address)
        assert plan.terms == POLICY.terms(rules, has_subject=identity is not None, has_site=address is V6, mode=mode)
        assert (plan.mode, plan.live, plan.lease_s) == (mode, live, rules.lease_s)


def test_the_plans_of_guests_are_found_by_family_and_mode() -> None:
    """Those that were made; the others are not there."""
    route = Route(RouteRules(), POLICY, PREFIXES)
    assert route._of_guests == ({}, {})
    plan = route.plan(Mode.EMERGENCY, None, V6)
    assert route._of_guests == ({}, {Mode.EMERGENCY: plan})


@pytest.mark.parametrize("exempt", [True, False])
def test_a_route_is_exempt_where_its_rules_are(exempt: bool) -> None:
    """As the policy reads the path."""
    rules = RouteRules(exempt=exempt)
    route = Route(rules, POLICY, PREFIXES)
    assert (route.exempt, route.route_rules) == (exempt, rules)


@pytest.mark.parametrize(
    ("access", "welcome"),
    [
        pytest.param(Access.OPEN, {None, GUEST, MEMBER, HOST}, id="open-to-all"),
        pytest.param(Access.MEMBERS, {MEMBER, HOST}, id="to-members-and-hosts-not-to-a-subject-that-is-a-guest"),
        pytest.param(Access.CLOSED, set(), id="to-nobody"),
    ],
)
def test_who_may_enter_in_an_emergency(access: Access, welcome: set[Identity | None]) -> None:
    """In normal mode a path is closed to nobody, whatever its rule says of emergencies."""
    route = Route(RouteRules(access=access), POLICY, PREFIXES)
    for identity, address in product((None, GUEST, MEMBER, HOST), (V4, V6)):
        assert not route.plan(Mode.NORMAL, identity, address).closed
        assert route.plan(Mode.EMERGENCY, identity, address).closed is (identity not in welcome)
