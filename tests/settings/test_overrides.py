"""Overrides of the settings: what they change, what they leave, and what is said of those that are wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldmw import Settings
from shieldmw.core.limits import parse_limits, written_limits
from shieldmw.core.mode import Mode
from shieldmw.core.overrides import NOTHING, Overrides, RuleOverride, Value
from shieldmw.core.rules import Policy, Scope
from shieldmw.settings.overrides import FIELDS, VARIABLES, limits_in_force, problems, rule_texts
from shieldmw.settings.policy import EMERGENCY_LIMIT_FIELDS, LIMIT_FIELDS

RULES = json.dumps(
    [
        {"name": "search", "path": "/search", "limits": "5/minute", "burst": 9, "cost": 2},
        {"name": "all", "path": "/all", "limits": "100/second", "per": "everyone"},
    ]
)


def settings(**values: Any) -> Settings:
    """Settings with two rules."""
    return Settings(**{"rules": RULES, "capacity": 1000, **values})


def policy_with(values: dict[str, Value], **configured: Any) -> Policy:
    """The policy under these overrides."""
    return limits_in_force(settings(**configured), Overrides(values)).policy


def rates(policy: Policy, scope: Scope, mode: Mode = Mode.NORMAL) -> list[tuple[str, int, int, int]]:
    """Name, amount, period and burst of each limit."""
    return [(limit.name, limit.amount, limit.period_s, limit.burst) for limit in policy.limits(scope, mode)]


def test_without_overrides_all_is_as_in_the_settings() -> None:
    """The policy is equal, and so are capacity and share."""
    own = settings(ip_burst=7, emergency_guest_share=0.25)
    now = limits_in_force(own)
    assert now.policy == own.policy
    assert (now.capacity, now.emergency_capacity, now.emergency_guest_share) == (1000, 1000, 0.25)
    assert not now.ignored
    assert now.texts["SHIELD_IP_BURST"] == "7"
    assert problems(own, NOTHING) == []


def test_every_limit_that_can_be_changed_is_changed_and_no_other() -> None:
    """Each variable changes the limits that the settings make of it; the rest of the policy stays."""
    own = settings()
    for fields, mode in ((LIMIT_FIELDS, Mode.NORMAL), (EMERGENCY_LIMIT_FIELDS, Mode.EMERGENCY)):
        for scope, name in fields.items():
            if name not in FIELDS:
                continue
            variable = f"SHIELD_{name.upper()}"
            told = rates(policy_with({variable: "7/second"}), scope, mode)
            assert told == rates(settings(**{name: "7/second"}).policy, scope, mode) != rates(own.policy, scope, mode)
    assert set(VARIABLES) == {f"SHIELD_{name.upper()}" for name in FIELDS}
    assert policy_with({"SHIELD_IP_LIMIT": "7/second"}) == settings(ip_limit="7/second").policy


def test_a_burst_belongs_to_its_limit() -> None:
    """A new limit has its own amount as burst, unless the burst is given as well; a burst alone goes with the old."""
    assert rates(policy_with({"SHIELD_IP_LIMIT": "30/minute"}, ip_burst=300), Scope.IP) == [("ip", 30, 60, 30)]
    both: dict[str, Value] = {"SHIELD_IP_LIMIT": "30/minute", "SHIELD_IP_BURST": 5}
    assert rates(policy_with(both, ip_burst=300), Scope.IP) == [("ip", 30, 60, 5)]
    assert rates(policy_with({"SHIELD_IP_BURST": 5}), Scope.IP) == [("ip", 300, 60, 5)]


def test_capacities_follow_each_other_as_in_the_settings() -> None:
    """The capacity in an emergency is the other one, unless one of the two places sets it."""

    def seats(values: dict[str, Value], **configured: Any) -> tuple[int, int, float]:
        now = limits_in_force(settings(**configured), Overrides(values))
        return now.capacity, now.emergency_capacity, now.emergency_guest_share

    assert seats({"SHIELD_CAPACITY": 50}) == (50, 50, 0)
    assert seats({"SHIELD_CAPACITY": 50}, emergency_capacity=20) == (50, 20, 0)
    assert seats({"SHIELD_EMERGENCY_CAPACITY": 0, "SHIELD_EMERGENCY_GUEST_SHARE": 0.5}) == (1000, 0, 0.5)


def test_parts_of_a_rule() -> None:
    """Limits, burst and dry run change each alone; all else of the rule stays."""
    own = settings()
    changed = {"search": RuleOverride(limits="1/second,20/minute", dry_run=True), "all": RuleOverride(burst=7)}
    search, everyone = limits_in_force(own, Overrides({}, changed)).policy.rules
    assert [(limit.name, limit.amount) for limit in search.limits] == [("search", 1), ("search-2", 20)]
    assert (search.dry_run, search.cost, search.path) == (True, 2, own.policy.rules[0].path)
    assert (everyone.limits[0].amount, everyone.limits[0].burst, everyone.dry_run) == (100, 7, False)
    assert rule_texts(own.policy.rules[0]) == RuleOverride("5/minute", 9, False)


WRONG = [
    (
        Overrides({"SHIELD_IP_LIMIT": "300/fortnight"}),
        ["SHIELD_IP_LIMIT='300/fortnight': not a limit: write it like '300/minute'"],
    ),
    (Overrides({"SHIELD_CAPACITY": -1}), ["SHIELD_CAPACITY='-1': write 0 or more"]),
    (Overrides({"SHIELD_EMERGENCY_GUEST_SHARE": 1.5}), ["SHIELD_EMERGENCY_GUEST_SHARE='1.5': write 1 or less"]),
    (Overrides({"SHIELD_SECRET": "x" * 40}), ["'SHIELD_SECRET': no such setting can be changed here"]),
    (
        Overrides({"SHIELD_IP_LIMIT": "1/second,30/minute", "SHIELD_IP_BURST": 5}),
        ["SHIELD_IP_BURST='5': a burst of 5 goes only with a single limit"],
    ),
    (
        Overrides({}, {"searhc": RuleOverride(dry_run=True)}),
        ["rule 'searhc': there is no such rule here: the rules are search, all"],
    ),
    (
        Overrides({}, {"search": RuleOverride(limits="many")}),
        ["rule 'search': limits 'many': not a limit: write it like"],
    ),
    (Overrides({"SHIELD_IP_LIMIT": "1/second"}), ["rule 'search': a cost of 2 is above the burst of limit 'ip' (1)"]),
    (Overrides({"\x1b[2J": 1}), ["'\\x1b[2J': no such setting"]),
]


@pytest.mark.parametrize(("overrides", "begins"), WRONG, ids=[str(number) for number in range(len(WRONG))])
def test_what_is_wrong_is_named_shown_and_told_how_it_would_be_right(overrides: Overrides, begins: list[str]) -> None:
    """One line for each problem."""
    lines = problems(settings(), overrides)
    assert [line[: len(start)] for line, start in zip(lines, begins, strict=True)] == begins


def test_the_rest_applies_where_a_part_does_not_fit() -> None:
    """On a worker with other rules, or of another version, what it does not know is listed and the rest obeyed."""
    overrides = Overrides(
        {"SHIELD_IP_LIMIT": "7/minute", "SHIELD_OF_TOMORROW": 1, "SHIELD_TOKEN_LIMIT": "x"},
        {"nobody-knows": RuleOverride(dry_run=True), "search": RuleOverride(dry_run=True)},
    )
    now = limits_in_force(settings(), overrides)
    assert len(now.ignored) == 3
    assert rates(now.policy, Scope.IP) == [("ip", 7, 60, 7)]
    assert rates(now.policy, Scope.TOKEN) == [("token", 1200, 60, 1200)]
    assert [rule.dry_run for rule in now.policy.rules] == [True, False]


values = st.dictionaries(
    st.sampled_from([*VARIABLES, "SHIELD_SECRET", "x"]),
    st.one_of(st.text(max_size=20), st.integers(), st.floats(), st.sampled_from(["off", "5/second", "1/day,9/hour"])),
)
parts = st.builds(
    RuleOverride,
    st.none() | st.text(max_size=20) | st.sampled_from(["off", "5/second"]),
    st.none() | st.integers(-5, 10**12),
    st.none() | st.booleans(),
)


@given(values, st.dictionaries(st.sampled_from(["search", "all", "x"]) | st.text(max_size=9), parts))
def test_any_document_gives_a_policy(some: dict[str, Value], rules: dict[str, RuleOverride]) -> None:
    """Whatever lies in the store, workers have a policy that differs only in limits and dry runs, and its texts."""
    own = settings()
    now = limits_in_force(own, Overrides(some, rules))
    assert [rule.path for rule in now.policy.rules] == [rule.path for rule in own.policy.rules]
    assert now.policy.default.keys() == own.policy.default.keys()
    assert now.policy.default[Scope.FAILED_AUTH] == own.policy.default[Scope.FAILED_AUTH]
    assert now.capacity >= 0
    assert 0 <= now.emergency_guest_share <= 1
    assert set(now.texts) == set(VARIABLES)
    assert set(now.ignored) <= set(problems(own, Overrides(some, rules)))


@given(
    st.lists(
        st.tuples(
            st.integers(1, 1000), st.integers(1, 50), st.sampled_from(["second", "minute", "hour", "day", "month"])
        ),
        min_size=1,
        max_size=3,
    )
)
def test_limits_are_written_as_they_are_read(limits: list[tuple[int, int, str]]) -> None:
    """Reading what was written gives the same limits."""
    parsed = parse_limits(",".join(f"{amount} per {count} {unit}" for amount, count, unit in limits), name="x")
    assert parse_limits(written_limits(parsed), name="x") == parsed
    assert written_limits(()) == "off"
