"""Plans: what each kind of request is charged, and that no two clients are ever taken for one."""

from __future__ import annotations

from hashlib import blake2b
from itertools import count, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.addresses import ipv4, ipv6, packed
from core.plans import charges_of
from shieldmw.core.bucket import Charge, Charges, Party, Term
from shieldmw.core.client import Address, Client, Identity, ListenerClass, Prefixes, token_client
from shieldmw.core.limits import Limit, aggregate
from shieldmw.core.mode import Mode
from shieldmw.core.plan import TAG_BYTES, Plan, Requester
from shieldmw.core.routes import Route
from shieldmw.core.rules import Policy, RouteRules, Scope

IP = Limit("ip", 300, 60, 300)
EMERGENCY_IP = Limit("ip", 30, 60, 30)
PREFLIGHT = Limit("preflight", 300, 60, 300)
TOKEN = Limit("token", 1200, 60, 1200)
ADDRESS = Limit("address", 2000, 60, 2000)
# A rule may be called what another's aggregate is called.
OWN = (Limit("search", 10, 60, 10), Limit("search-prefix", 5, 60, 5), Limit("ip-prefix", 7, 60, 7))

V4 = packed("203.0.113.7")
V6 = packed("2001:db8::1")
SUBJECTS = ("alice", "bob", "2001:db8::1")


def digest(subject: str) -> bytes:
    """A digest as the gate makes it: always of the same length, that of an IPv6 address."""
    return blake2b(subject.encode(), digest_size=16).digest()


# Neighbours in every sense: the first network of a site, another one there, and what a subject's digest spells.
ADDRESSES = (
    *(None, V4, packed("203.0.113.8"), bytes(4), bytes(16)),
    *(packed("2001:db8::"), V6, packed("2001:db8:0:1::1"), packed("2001:db8:0:100::1"), digest("alice")),
)
IDENTITIES = (
    None,
    *(Identity(subject) for subject in SUBJECTS),
    *(Identity("alice", listener_class) for listener_class in (ListenerClass.GUEST, ListenerClass.HOST)),
)


def expected(
    policy: Policy,
    rules: RouteRules,
    identity: Identity | None,
    address: Address | None,
    mode: Mode,
    prefixes: Prefixes,
) -> Charges:
    """The same by the rules in the documents, client by client."""
    clients = prefixes.clients(address)
    if identity is not None:
        first: list[tuple[Client, Limit]] = [
            (token_client(identity), limit) for limit in (*rules.limits, *policy.limits(Scope.TOKEN))
        ]
        of_address = policy.limits(Scope.ADDRESS)
    else:
        ip = policy.limits(Scope.PREFLIGHT if rules.preflight else Scope.IP, mode)
        first, of_address = [], (*rules.limits, *ip, *policy.limits(Scope.ADDRESS))
    charged = first + [(clients.network, limit) for limit in of_address]
    if clients.site is not None:
        charged += [(clients.site, aggregate(limit)) for limit in of_address]
    return tuple(Charge(client, limit, min(rules.cost + rules.surcharge, limit.burst)) for client, limit in charged)


def some(*limits: Limit) -> st.SearchStrategy[tuple[Limit, ...]]:
    """Any of the limits."""
    return st.lists(st.sampled_from(limits), unique=True).map(tuple)


policies = st.builds(
    Policy,
    st.fixed_dictionaries(
        {
            Scope.IP: some(IP),
            Scope.TOKEN: some(TOKEN),
            Scope.ADDRESS: some(ADDRESS),
            Scope.PREFLIGHT: some(PREFLIGHT),
        }
    ),
    emergency=st.fixed_dictionaries({Scope.IP: some(EMERGENCY_IP)}),
)
rules = st.builds(
    RouteRules,
    limits=some(*OWN),
    cost=st.integers(0, 20),
    surcharge=st.integers(0, 9),
    preflight=st.booleans(),
    shared=st.just(()),
    trial=st.none(),
)
any_prefixes = st.builds(Prefixes, st.integers(8, 32), st.integers(16, 128))
addresses = st.one_of(ipv4, ipv6, st.sampled_from(ADDRESSES))


@settings(deadline=None, max_examples=300)
@given(policies, rules, st.sampled_from(IDENTITIES), addresses, st.sampled_from(Mode), any_prefixes)
def test_a_plan_charges_what_the_policy_says(
    policy: Policy,
    route_rules: RouteRules,
    identity: Identity | None,
    address: Address | None,
    mode: Mode,
    prefixes: Prefixes,
) -> None:
    """Each limit to its client, the narrowest first, and each value as its class would make it."""
    charges = charges_of(policy, route_rules, identity, address, mode, prefixes)
    assert charges == expected(policy, route_rules, identity, address, mode, prefixes)
    assert all(type(charge) is Charge and type(charge.client) is Client for charge in charges)


def everybody(policy: Policy, route_rules: list[RouteRules], prefixes: Prefixes) -> list[Requester]:
    """Everyone who may send a request, by every route and in every mode, as far as something limits it."""
    found = []
    for rules_here in route_rules:
        route = Route(rules_here, policy, prefixes)
        for mode, identity, address in product(Mode, IDENTITIES, ADDRESSES):
            plan = route.plan(mode, identity, address)
            if plan.terms:
                subject = b"" if identity is None else digest(identity.subject)
                found.append(plan.requester(address, identity, subject))
    return found


few = settings(deadline=None, max_examples=40)
prefixes_of_all_kinds = st.builds(Prefixes, st.sampled_from([24, 32]), st.sampled_from([48, 56, 57, 64, 128]))
several = st.lists(rules, min_size=1, max_size=3, unique=True)


@few
@given(policies, several, prefixes_of_all_kinds)
def test_a_key_is_one_client_under_one_plan(policy: Policy, route_rules: list[RouteRules], prefixes: Prefixes) -> None:
    """Two requests have the same key if they have the same plan and are charged the same, and only then."""
    requesters = everybody(policy, route_rules, prefixes)
    kinds = [(requester.plan, requester.charges()) for requester in requesters]
    keys = [requester.key for requester in requesters]
    assert len(set(keys)) == len(set(kinds)) == len(set(zip(keys, kinds, strict=True)))


@few
@given(policies, several, prefixes_of_all_kinds)
def test_buckets_are_named_one_to_one(policy: Policy, route_rules: list[RouteRules], prefixes: Prefixes) -> None:
    """By whichever plan a bucket is charged it has the same name here, and no other bucket has."""
    pairs = set()
    for requester in everybody(policy, route_rules, prefixes):
        names = requester.plan.buckets(requester)
        pairs |= set(zip(names, [charge.bucket for charge in requester.charges()], strict=True))
    names_here, names_by_text = {name for name, _ in pairs}, {text for _, text in pairs}
    assert len(pairs) == len(names_here) == len(names_by_text)


@few
@given(policies, several, prefixes_of_all_kinds)
def test_the_only_limit_of_a_plan(policy: Policy, route_rules: list[RouteRules], prefixes: Prefixes) -> None:
    """Its bucket's name, what a request costs and what it holds; None where there are several limits, or none."""
    for requester in everybody(policy, route_rules, prefixes):
        charges, only = requester.charges(), requester.plan.single
        assert (only is not None) is (len(charges) == 1)
        if only is not None:
            name, step_us, tau_us = only
            assert (name + requester.key[TAG_BYTES:],) == requester.plan.buckets(requester)
            assert (step_us, tau_us) == (charges[0].step_us, charges[0].limit.tau_us)


def test_a_requester_has_what_its_plan_charges() -> None:
    """All that is asked of it later: plan, address, identity, digest and charges."""
    plan = Route(RouteRules(), Policy({Scope.TOKEN: (TOKEN,), Scope.ADDRESS: (ADDRESS,)}), Prefixes(32, 64)).plan(
        Mode.NORMAL, IDENTITIES[1], V6
    )
    requester = plan.requester(V6, IDENTITIES[1], digest("alice"))
    assert requester[:4] == (plan, V6, IDENTITIES[1], digest("alice"))
    assert requester.charges() == plan.charges(V6, IDENTITIES[1])


_numbers = count()


def of_terms(*terms: Term) -> Plan:
    """A plan of these limits."""
    return Plan(next(_numbers), terms, Prefixes(32, 64), Mode.NORMAL, live=False, closed=False)


SECOND, MINUTE = Limit("s", 1, 1, 10), Limit("m", 1, 60, 10)


@pytest.mark.parametrize(
    ("terms", "is_of_one_pace"),
    [
        pytest.param([], False, id="nothing-refills"),
        pytest.param([(SECOND, 1)], True, id="one-limit"),
        pytest.param([(SECOND, 0)], False, id="a-look-has-no-pace"),
        pytest.param([(SECOND, 1), (SECOND, 4)], True, id="four-times-as-slow-as-an-aggregate-is"),
        pytest.param([(SECOND, 1), (SECOND, 5)], False, id="slower-than-that"),
        pytest.param([(MINUTE, 1), (SECOND, 1)], False, id="a-minute-and-a-second"),
        pytest.param([(MINUTE, 0), (SECOND, 1)], True, id="a-look-does-not-count"),
    ],
)
def test_buckets_of_one_pace(terms: list[tuple[Limit, int]], is_of_one_pace: bool) -> None:
    """Whether units can be taken ahead from all of a plan's buckets alike."""
    plan = of_terms(*(Term(Party.ADDRESS, limit, cost) for limit, cost in terms))
    assert plan.is_of_one_pace is is_of_one_pace
