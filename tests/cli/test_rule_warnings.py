"""The warnings about rules without effect."""

from __future__ import annotations

import json

import pytest

from cli.commands import invoke
from shieldmw import Settings
from shieldmw.cli.rule_warnings import rule_warnings

LIMITED = {"limits": "10/minute"}


def warnings_of(*rules: dict[str, object]) -> list[str]:
    """The warnings about these rules, which are named a, b and so on."""
    named = [{"name": name, **rule} for name, rule in zip("abc", rules, strict=False)]
    return list(rule_warnings(Settings.from_environ({"SHIELD_RULES": json.dumps(named)}).policy.rules))


@pytest.mark.parametrize(
    ("method", "told"),
    [("GTE", "did you mean GET?"), ("DELET", "did you mean DELETE?"), ("XYZZY", "is that what clients send?")],
)
def test_a_method_that_is_not_usual_is_told(method: str, told: str) -> None:
    """It may be meant, so it is no error."""
    (line,) = warnings_of({"path": "/x", "methods": [method, "POST"], **LIMITED})
    assert line == f"rule 'a' is for the method {method}, which is not a usual one: {told}"


@pytest.mark.parametrize(
    ("first", "second", "covered"),
    [
        ({"path": "/*"}, {"path": "/x"}, True),
        ({"path": "/x"}, {"path": "/x"}, True),
        ({"path": "/x/*"}, {"path": "/x/*"}, True),
        ({"path": "/x"}, {"path": "/x/*"}, False),
        ({"path": "/x/*"}, {"path": "/xy"}, False),
        ({"path": "/*", "methods": ["GET", "POST"]}, {"path": "/x", "methods": ["HEAD"]}, True),
        ({"path": "/*", "methods": ["GET"]}, {"path": "/x", "methods": ["GET", "POST"]}, False),
        ({"path": "/*", "methods": ["GET"]}, {"path": "/x"}, False),
    ],
)
def test_a_rule_behind_one_that_matches_all_of_its_requests_is_told(
    first: dict[str, object], second: dict[str, object], covered: bool
) -> None:
    """The first rule that matches counts, so the other is never looked at."""
    lines = warnings_of({**first, **LIMITED}, {**second, **LIMITED})
    assert [line.partition(":")[0] for line in lines] == (["rule 'b' never applies"] if covered else [])


@pytest.mark.parametrize(
    ("rule", "later", "told"),
    [
        ({}, {"path": "/y"}, True),
        ({}, {"path": "/*"}, False),
        (LIMITED, {"path": "/y"}, False),
        ({"cost": 2}, {"path": "/y"}, False),
        ({"live": True}, {"path": "/y"}, False),
        ({"emergency": "members"}, {"path": "/y"}, False),
    ],
)
def test_a_rule_that_changes_nothing_is_told(rule: dict[str, object], later: dict[str, object], told: bool) -> None:
    """Unless it exempts its path from a later rule."""
    lines = warnings_of({"path": "/x", **rule}, {**later, **LIMITED})
    assert lines == (["rule 'a' changes nothing: it has no limits, cost, live or emergency"] if told else [])


def test_check_tells() -> None:
    """As a warning, with status 0."""
    ran = invoke("check", SHIELD_RULES='[{"name": "a", "path": "/a"}]')
    assert ran.status == 0
    assert "warning: rule 'a' changes nothing" in ran.out


def test_a_rule_in_dry_run() -> None:
    """It refuses nobody, which may have been forgotten."""
    (line,) = warnings_of({"path": "/search", **LIMITED, "dry_run": True})
    assert line == "rule 'a' is in dry run: what it would refuse passes, and is counted and logged"
