"""The policy: a request's charges, exempt paths, and paths that only look exempt."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.addresses import PREFIXES, packed
from core.plans import charges_of
from shieldmw.core.bounds import MOST_MARKS
from shieldmw.core.bucket import Charge
from shieldmw.core.client import Address, Client, Identity, token_client
from shieldmw.core.facts import Facts
from shieldmw.core.limits import Limit, aggregate
from shieldmw.core.mode import Mode
from shieldmw.core.paths import PathPattern
from shieldmw.core.rules import LEASE_SEAT_S, Access, Per, Policy, RouteRules, Rule, Scope, all_limits

IP = Limit("ip", 300, 60, 300)
TOKEN = Limit("token", 1200, 60, 1200)
ADDRESS = Limit("address", 2000, 60, 2000)
FAILED = Limit("failed-auth", 10, 60, 10)
SEARCH = Limit("search", 10, 60, 10)
SEARCH_2 = Limit("search-2", 100, 3600, 100)
LIVE = Limit("live", 5, 1, 5)

ALICE = Identity("alice")
ALICE_CLIENT = Client("token", "alice", "token:alice")
V4 = packed("203.0.113.7")
V6 = packed("2001:db8::1")
V6_CLIENTS = PREFIXES.clients(V6)

SEARCH_RULE = Rule("search", PathPattern("/search/*"), limits=(SEARCH, SEARCH_2), cost=3)
LIVE_RULE = Rule("live", PathPattern("/live"), frozenset({"GET"}), limits=(LIVE,))

EVERYTHING = Policy(
    {Scope.IP: (IP,), Scope.TOKEN: (TOKEN,), Scope.ADDRESS: (ADDRESS,), Scope.FAILED_AUTH: (FAILED,)},
    rules=(SEARCH_RULE, LIVE_RULE),
    exempt=(PathPattern("/healthz"),),
)


def facts(path: str, *methods: str, below: str | None = None) -> Facts:
    return Facts(
        peer=None, path=path, route_path=path if below is None else below, methods=frozenset(methods or ("GET",))
    )


def named(charges: tuple[Charge, ...]) -> list[tuple[str, str, int]]:
    return [(str(charge.client), charge.limit.name, charge.cost) for charge in charges]


GUEST_V4 = "ip:203.0.113.7/32"
GUEST_V6 = "ip:2001:db8::/64"
SITE_V6 = "ip:2001:db8::/56"


@pytest.mark.parametrize(
    ("identity", "address", "path", "charges"),
    [
        pytest.param(None, V4, "/", [(GUEST_V4, "ip", 1), (GUEST_V4, "address", 1)], id="a-guest-to-ip-and-address"),
        pytest.param(
            ALICE,
            V4,
            "/",
            [("token:alice", "token", 1), (GUEST_V4, "address", 1)],
            id="a-verified-subject-to-token-and-address-but-not-to-ip",
        ),
        pytest.param(
            None,
            V6,
            "/",
            [
                (GUEST_V6, "ip", 1),
                (GUEST_V6, "address", 1),
                (SITE_V6, "ip-prefix", 1),
                (SITE_V6, "address-prefix", 1),
            ],
            id="an-ipv6-guest-also-to-its-site",
        ),
        pytest.param(
            ALICE,
            V6,
            "/",
            [("token:alice", "token", 1), (GUEST_V6, "address", 1), (SITE_V6, "address-prefix", 1)],
            id="a-verified-subject-on-ipv6",
        ),
        pytest.param(
            None,
            V4,
            "/search/cats",
            [(GUEST_V4, name, 3) for name in ("search", "search-2", "ip", "address")],
            id="a-rule-adds-its-limits-and-all-are-charged-its-cost",
        ),
        pytest.param(
            ALICE,
            V4,
            "/search",
            [
                ("token:alice", "search", 3),
                ("token:alice", "search-2", 3),
                ("token:alice", "token", 3),
                (GUEST_V4, "address", 3),
            ],
            id="a-rule-s-limits-are-the-client-s-own",
        ),
    ],
)
def test_who_is_charged_what(
    identity: Identity | None, address: Address, path: str, charges: list[tuple[str, str, int]]
) -> None:
    """A request is charged to its client and its address, the narrowest client first."""
    assert named(charges_of(EVERYTHING, EVERYTHING.route_rules(facts(path)), identity, address)) == charges


def test_the_aggregate_is_charged_with_the_aggregated_limit() -> None:
    """A site has four times the limit of one of its networks, not the limit itself."""
    (one, site) = charges_of(Policy({Scope.IP: (IP,)}), RouteRules(), None, V6)
    assert (one.client, one.limit) == (V6_CLIENTS.network, IP)
    assert (site.client, site.limit) == (V6_CLIENTS.site, aggregate(IP))


PREFLIGHTS = Limit("preflight", 300, 60, 300)
MEMBERS_ONLY = Rule("pay", PathPattern("/pay/*"), limits=(SEARCH,), cost=5, live=True, emergency=Access.MEMBERS)
CLOSED = Rule("report", PathPattern("/report"), limits=(LIVE,), cost=2, emergency=Access.CLOSED)
WITH_PREFLIGHTS = Policy(
    {Scope.IP: (IP,), Scope.ADDRESS: (ADDRESS,), Scope.PREFLIGHT: (PREFLIGHTS,)},
    rules=(MEMBERS_ONLY, CLOSED, Rule("free", PathPattern("/free"), cost=0)),
    emergency={Scope.IP: (Limit("ip", 30, 60, 30),)},
    exempt=(PathPattern("/healthz"),),
)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize(
    ("path", "own", "cost", "access"),
    [
        pytest.param("/", [], 1, Access.OPEN, id="no-rule"),
        pytest.param("/pay", ["search-preflight"], 5, Access.OPEN, id="members-preflights-look-like-those-of-guests"),
        pytest.param("/report", ["live-preflight"], 2, Access.CLOSED, id="what-is-closed-is-closed-to-all"),
        pytest.param("/free", [], 1, Access.OPEN, id="free-for-requests-only"),
        pytest.param("/pay/../report", ["search-preflight", "live-preflight"], 5, Access.CLOSED, id="two-readings"),
    ],
)
def test_a_preflight_has_the_route_rules_of_its_path_in_buckets_of_its_own(
    path: str, own: list[str], cost: int, access: Access, mode: Mode
) -> None:
    """A rule's limits and its cost hold for preflights too, in an emergency as well, and cost requests nothing."""
    asked = facts(path, "OPTIONS")._replace(preflight=True)
    route_rules = WITH_PREFLIGHTS.route_rules(asked)
    charges = charges_of(WITH_PREFLIGHTS, route_rules, None, V6, mode)
    names = [*own, "preflight", "address"]
    assert named(charges) == [
        *((GUEST_V6, name, cost) for name in names),
        *((SITE_V6, f"{name}-prefix", cost) for name in names),
    ]
    assert (route_rules.live, route_rules.access, route_rules.preflight) == ("pay" in path, access, True)
    assert route_rules != WITH_PREFLIGHTS.route_rules(facts(path, "OPTIONS")), (
        "guests that are refused are known by their terms"
    )


def test_a_preflight_of_a_path_beyond_reading_has_the_strictest_route_rules() -> None:
    """Those of every rule, as a request there has."""
    path = "/" + "%252f" * 2000
    request, asked = (
        WITH_PREFLIGHTS.route_rules(facts(path, "OPTIONS")._replace(preflight=what)) for what in (False, True)
    )
    assert request == WITH_PREFLIGHTS.strictest_route_rules()
    assert [limit.name for limit in asked.limits] == ["search-preflight", "live-preflight"]
    assert (asked.cost, asked.access, asked.live) == (5, Access.CLOSED, True)


def test_a_preflight_of_an_exempt_path_is_exempt() -> None:
    """As the request that follows."""
    assert WITH_PREFLIGHTS.route_rules(facts("/healthz", "OPTIONS")._replace(preflight=True)).exempt


@pytest.mark.parametrize(
    ("policy", "has"),
    [
        (Policy(), False),
        (Policy(rules=(LIVE_RULE, SEARCH_RULE)), False),
        (Policy(rules=(SEARCH_RULE, MEMBERS_ONLY)), True),
        (Policy(live=(PathPattern("/live"),)), True),
    ],
)
def test_live_paths_are_those_of_the_settings_and_of_rules(policy: Policy, has: bool) -> None:
    """Where there are none no seat is ever given."""
    assert policy.has_live_paths is has


POLLED_RULE = Rule("hls", PathPattern("/hls/*"), lease_s=12)
LONG_RULE = Rule("dash", PathPattern("/dash/*"), lease_s=60)


@pytest.mark.parametrize(
    ("policy", "path", "lease_s"),
    [
        (Policy(polled=(PathPattern("/hls/*"),)), "/hls/a.m3u8", LEASE_SEAT_S),
        (Policy(polled=(PathPattern("/hls/*"),)), "/other", 0),
        (Policy(polled=(PathPattern("/hls/*"),), rules=(POLLED_RULE,)), "/hls/a.m3u8", 12),
        (Policy(rules=(POLLED_RULE, LONG_RULE)), "/dash/a.mpd", 60),
        (Policy(rules=(POLLED_RULE, LONG_RULE)), "/dash/%2e%2e/hls/a", 12),
        (Policy(rules=(POLLED_RULE, LONG_RULE)), "/%" * MOST_MARKS, 12),
    ],
)
def test_how_long_clients_of_a_polled_path_hold_a_seat(policy: Policy, path: str, lease_s: int) -> None:
    """As the rule says, or as it is by default; the shortest of several; a preflight holds none."""
    assert policy.longest_lease_s >= lease_s
    assert policy.route_rules(facts(path)).lease_s == lease_s
    assert policy.route_rules(facts(path, "OPTIONS")._replace(preflight=True)).lease_s == 0


def test_no_limit_no_charge() -> None:
    """Where nothing limits a request there is nothing to ask the store."""
    assert charges_of(Policy(), RouteRules(), None, V6) == ()
    assert charges_of(Policy({Scope.IP: (IP,)}), RouteRules(), ALICE, V6) == ()


@pytest.mark.parametrize("cost", [0, 1])
def test_failed_credentials_are_charged_to_the_address(cost: int) -> None:
    """A credential that fails costs its address, and the site around it; with cost 0 it only looks."""
    charges = EVERYTHING.failed_auth_charges(V6_CLIENTS, cost)
    assert named(charges) == [(GUEST_V6, "failed-auth", cost), (SITE_V6, "failed-auth-prefix", cost)]


@pytest.mark.parametrize(
    ("rule_methods", "methods", "matches"),
    [
        pytest.param((), ("GET",), True, id="no-methods-are-all-methods"),
        pytest.param((), ("BREW",), True, id="also-unknown-ones"),
        pytest.param(("GET",), ("GET",), True, id="the-method"),
        pytest.param(("GET",), ("POST",), False, id="another-method"),
        pytest.param(("GET",), ("get",), False, id="methods-have-a-case"),
        pytest.param(("GET",), ("HEAD", "GET"), True, id="head-may-end-up-as-get"),
        pytest.param(("DELETE",), ("POST", "DELETE"), True, id="an-override-may-make-it-a-delete"),
        pytest.param(("GET", "POST"), ("POST",), True, id="one-of-several"),
        pytest.param(("GET",), ("BREW",), False, id="an-unknown-method"),
    ],
)
def test_methods(rule_methods: tuple[str, ...], methods: tuple[str, ...], matches: bool) -> None:
    """A rule is for its methods, and for every method that a request may end up as."""
    rule = Rule("r", PathPattern("/live"), frozenset(rule_methods))
    assert any(rule.matches("/live", method) for method in methods) is matches
    assert not any(rule.matches("/other", method) for method in methods)


@pytest.mark.parametrize(
    ("path", "below", "exempt"),
    [
        pytest.param("/healthz", None, True, id="the-path-itself"),
        pytest.param("/app/healthz", "/healthz", True, id="below-a-root-path"),
        pytest.param("/healthzz", None, False, id="a-longer-word"),
        pytest.param("/health", None, False, id="a-shorter-word"),
        pytest.param("/x/healthz", None, False, id="below-something-else"),
        pytest.param("/healthz/x", None, False, id="something-below-it"),
        pytest.param("/healthz/../live", None, False, id="up-and-over"),
        pytest.param("/live/../healthz", None, False, id="up-and-over-from-elsewhere"),
        pytest.param("/live/..%2fhealthz", None, False, id="the-same-escaped"),
        pytest.param("//healthz", None, False, id="two-slashes"),
        pytest.param("/./healthz", None, False, id="a-dot"),
        pytest.param("/healthz/", None, False, id="a-trailing-slash"),
        pytest.param("/healthz/.", None, False, id="a-trailing-dot"),
        pytest.param("/HEALTHZ", None, False, id="another-case"),
        pytest.param("/healthz;a=b", None, False, id="a-parameter"),
        pytest.param("/healthz;/../live", None, False, id="a-parameter-and-up"),
        pytest.param("/%68ealthz", None, False, id="an-escape"),
        pytest.param("/healthz%00", None, False, id="an-escaped-nul"),
        pytest.param("/healthz\x00", None, False, id="a-nul"),
        pytest.param("/healthz\n", None, False, id="a-line-feed-that-a-regex-would-let-pass"),
        pytest.param("\\healthz", None, False, id="a-backslash"),
        pytest.param("healthz", None, False, id="no-slash"),
        pytest.param("/healthz?x=y", None, False, id="a-question-mark-that-was-escaped"),
        pytest.param("/healthz#x", None, False, id="a-fragment"),
        pytest.param("http://evil/healthz", None, False, id="an-absolute-url"),
        pytest.param("/ｈealthz", None, False, id="a-letter-of-full-width"),
        pytest.param("/healthz\u200b", None, False, id="a-space-of-no-width"),
    ],
)
def test_exempt_look_alikes(path: str, below: str | None, exempt: bool) -> None:
    """Only the path that every server reads alike is exempt."""
    assert EVERYTHING.route_rules(facts(path, below=below)).exempt is exempt


def test_below_an_exempt_prefix() -> None:
    """An exemption that ends in /* holds for everything below it, but not for the ways out of it."""
    policy = Policy(exempt=(PathPattern("/static/*"),))
    assert policy.route_rules(facts("/static/a/b.css")).exempt
    assert not policy.route_rules(facts("/static/../live")).exempt
    assert not policy.route_rules(facts("/static/%2e%2e/live")).exempt
    assert not policy.route_rules(facts("/static/..;/live")).exempt
    assert not policy.route_rules(facts("/statics")).exempt


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/live", id="the-path-itself"),
        pytest.param("//live", id="two-slashes"),
        pytest.param("/live/", id="a-trailing-slash"),
        pytest.param("/x/../live", id="up-and-over"),
        pytest.param("/./live", id="a-dot"),
        pytest.param("/live;a=b", id="a-parameter"),
        pytest.param("/x/..;/live", id="up-with-a-parameter"),
        pytest.param("/l%69ve", id="an-escape"),
        pytest.param("/%2e/live", id="an-escaped-dot"),
        pytest.param("/x%2F..%2Flive", id="escaped-slashes"),
        pytest.param("/live%00", id="an-escaped-nul"),
        pytest.param("/live\x00", id="a-nul"),
        pytest.param("/live\n", id="a-line-feed"),
        pytest.param("\\live", id="a-backslash"),
        pytest.param("live", id="no-slash"),
    ],
)
def test_no_spelling_of_a_path_slips_past_its_rule(path: str) -> None:
    """Whatever a server makes of the path, it is charged as /live."""
    assert LIVE in [charge.limit for charge in charges_of(EVERYTHING, EVERYTHING.route_rules(facts(path)), None, V4)]


A = Rule("a", PathPattern("/a"), limits=(Limit("a", 1, 1, 10),), cost=2)
B = Rule("b", PathPattern("/b/*"), limits=(Limit("b", 1, 1, 10),), cost=5)
FREE = Rule("free", PathPattern("/free"), cost=0)
A_AGAIN = Rule("again", PathPattern("/a"), limits=(Limit("again", 1, 1, 10),), cost=7)


@pytest.mark.parametrize(
    ("path", "below", "limits", "cost"),
    [
        pytest.param("/a", None, ["a", "ip"], 2, id="one-reading-one-rule"),
        pytest.param("/b/c", None, ["b", "ip"], 5, id="another"),
        pytest.param("/c", None, ["ip"], 1, id="no-rule-costs-1"),
        pytest.param("/free", None, ["ip"], 0, id="a-rule-may-be-free"),
        pytest.param("/b/../a", None, ["b", "a", "ip"], 5, id="two-readings-two-rules-the-higher-cost"),
        pytest.param("/b/../c", None, ["b", "ip"], 5, id="two-readings-one-of-them-under-no-rule"),
        pytest.param("/x/../free", None, ["ip"], 1, id="free-in-one-reading-only-is-not-free"),
        pytest.param("/b/a", "/a", ["a", "b", "ip"], 5, id="with-and-without-root-path"),
        pytest.param("//a", None, ["a", "ip"], 2, id="a-rule-counts-once-however-often-it-matches"),
    ],
)
def test_a_path_with_several_readings(path: str, below: str | None, limits: list[str], cost: int) -> None:
    """The first rule of each reading counts, each once: all their limits, and the highest of their costs."""
    policy = Policy({Scope.IP: (IP,)}, rules=(A, B, FREE, A_AGAIN))
    charges = charges_of(policy, policy.route_rules(facts(path, below=below)), None, V4)
    assert [charge.limit.name for charge in charges] == limits
    assert {charge.cost for charge in charges} == {cost}


GUESTS = Limit("guests", 100, 1, 100)
ALL = Rule("all", PathPattern("/all/*"), limits=(Limit("all", 1, 1, 10),), cost=2, per=Per.EVERYONE)
SOME = Rule("some", PathPattern("/some/*"), limits=(Limit("some", 1, 1, 10),), cost=3, per=Per.GUESTS)


@pytest.mark.parametrize(
    ("path", "own", "guests", "shared"),
    [
        pytest.param("/all/x", 2, 2, {"all": 2}, id="one-rule"),
        pytest.param("/some/../all/x", 5, 3, {"all": 2, "some": 3}, id="two-rules-cost-what-a-request-under-each-does"),
        pytest.param("/all/../b/x", 5, 5, {"all": 2}, id="beside-a-dearer-rule-of-its-own"),
        pytest.param("/b/../c//" + "%2f" * 3000, 5, 5, {"all": 2, "some": 3}, id="beyond-reading"),
    ],
)
def test_no_spelling_drains_shared_limits_at_less_than_requests_do(
    path: str, own: int, guests: int, shared: dict[str, int]
) -> None:
    """A client pays for all that a request takes from limits that it shares with others; but no more is taken from
    what all guests have than by the dearest request.
    """
    policy = Policy({Scope.IP: (IP,), Scope.GUESTS: (GUESTS,)}, rules=(A, B, ALL, SOME))
    route_rules = policy.route_rules(facts(path))
    assert {charge.cost for charge in charges_of(policy, route_rules, None, V4)} == {own}
    taken = {charge.limit.name: charge.cost for charge in policy.shared_charges(route_rules, None)}
    assert taken == {**shared, "guests": guests}


def test_a_spelling_never_makes_a_path_impossible() -> None:
    """Rules that each admit their requests admit them also where two hold at once: no cost is above a burst."""
    dear = Rule("dear", PathPattern("/live"), cost=20)
    strict = Rule("strict", PathPattern("/live/*"), limits=(Limit("strict", 10, 60, 10),))
    policy = Policy({Scope.IP: (IP,)}, rules=(dear, strict))
    charges = charges_of(policy, policy.route_rules(facts("/live/")), None, V4)
    assert all(charge.cost <= charge.limit.burst for charge in charges)


pieces = st.lists(
    st.sampled_from(["/", "//", "live", "search", "healthz", "..", ".", "%2e", "%2F", ";a", "\\", "\x00", "é"]),
    max_size=8,
).map("".join)


@settings(deadline=None)
@given(st.one_of(st.text(max_size=30), pieces), st.one_of(st.text(max_size=30), pieces))
def test_no_path_raises_or_goes_free(path: str, below: str) -> None:
    """Any text can be a path: it is charged the default limits at least, and once each."""
    charges = charges_of(EVERYTHING, EVERYTHING.route_rules(facts(path, below=below)), None, V6)
    names = [charge.limit.name for charge in charges]
    assert {"ip", "address", "ip-prefix", "address-prefix"} <= set(names)
    assert len(names) == len(set(names))
    assert all(charge.cost >= 1 for charge in charges)
    assert EVERYTHING.route_rules(facts(path, below=below)).exempt in (True, False)


def test_an_emergency_replaces_only_the_limits_that_it_names() -> None:
    """Also by none at all; the others stay, and a scope without limits has none."""
    policy = Policy({Scope.IP: (IP,), Scope.TOKEN: (TOKEN,)}, emergency={Scope.IP: (), Scope.GUESTS: (LIVE,)})
    assert [policy.limits(Scope.IP, mode) for mode in Mode] == [(IP,), ()]
    assert [policy.limits(Scope.TOKEN, mode) for mode in Mode] == [(TOKEN,), (TOKEN,)]
    assert [policy.limits(Scope.GUESTS, mode) for mode in Mode] == [(), (LIVE,)]
    assert [policy.limits(Scope.ADDRESS, mode) for mode in Mode] == [(), ()]


def test_all_limits_of_a_policy() -> None:
    """Every limit is told of once, the default ones first."""
    assert list(all_limits(EVERYTHING)) == [IP, TOKEN, ADDRESS, FAILED, SEARCH, SEARCH_2, LIVE]


def test_a_token_is_charged_the_same_on_every_address() -> None:
    """A verified subject has one bucket, wherever it comes from."""
    first, second = (charges_of(Policy({Scope.TOKEN: (TOKEN,)}), RouteRules(), ALICE, address) for address in (V4, V6))
    assert first == second == (Charge(token_client(ALICE), TOKEN),)
    assert first[0].client == ALICE_CLIENT


DRY_SEARCH = Rule("search", PathPattern("/search/*"), limits=(SEARCH,), cost=3, emergency=Access.CLOSED, dry_run=True)
DRY_SHARED = Rule("all", PathPattern("/all"), limits=(LIVE,), cost=2, per=Per.EVERYONE, live=True, dry_run=True)
SHOP = Rule("shop", PathPattern("/shop"), limits=(SEARCH_2,), cost=2)


def test_a_rule_in_dry_run_is_only_tried() -> None:
    """Requests have what is left without it, and what it would add is apart; a seat is needed all the same."""
    policy = Policy({Scope.IP: (IP,)}, rules=(DRY_SEARCH, DRY_SHARED, SHOP))
    search = policy.route_rules(facts("/search/x"))
    assert search._replace(trial=None) == RouteRules()
    assert search.trial == RouteRules(limits=(SEARCH,), cost=3, access=Access.CLOSED)
    shared = policy.route_rules(facts("/all"))
    assert shared._replace(trial=None) == RouteRules(live=True)
    assert shared.trial == RouteRules(live=True, shared=((Per.EVERYONE, LIVE, 2),), cost=2)
    assert policy.route_rules(facts("/shop")).trial is None
    free = Policy(rules=(Rule("free", PathPattern("/"), cost=0, dry_run=True),)).route_rules(facts("/"))
    assert (free.cost, free.trial) == (0, RouteRules(cost=0))


def test_of_several_readings_those_in_dry_run_are_tried_and_the_others_count() -> None:
    """A path that some servers read as another is charged what is not in dry run."""
    several = Policy({Scope.IP: (IP,)}, rules=(DRY_SEARCH, SHOP)).route_rules(facts("/shop/../search/x"))
    assert several.trial is not None
    assert several.trial.limits == (SEARCH,)
    assert SEARCH not in several.limits
    strictest = Policy(rules=(DRY_SEARCH, SHOP)).strictest_route_rules()
    assert (strictest.limits, strictest.cost, strictest.access) == ((SEARCH_2,), 2, Access.OPEN)


def test_a_preflight_of_a_path_in_dry_run() -> None:
    """It tries the rule in buckets of its own, as it would be charged them."""
    policy = Policy({Scope.PREFLIGHT: (IP,)}, rules=(DRY_SEARCH,))
    rules = policy.route_rules(facts("/search/x")._replace(preflight=True))
    assert (rules.limits, rules.cost, rules.access) == ((), 1, Access.OPEN)
    assert rules.trial is not None
    assert ([limit.name for limit in rules.trial.limits], rules.trial.cost) == (["search-preflight"], 3)
