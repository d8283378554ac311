"""Rules as operators write them: in a variable as JSON, or in a JSON or TOML file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shieldmw import Settings, SettingsError
from shieldmw.core.limits import Limit
from shieldmw.core.paths import PathPattern
from shieldmw.core.rules import Per, Rule

SEARCH = {"name": "search", "path": "/search/*", "methods": ["get"], "limits": "10/minute", "burst": 5, "cost": 2}
LIVE = {"name": "live", "path": "/live"}

PARSED = (
    Rule("search", PathPattern("/search/*"), frozenset({"GET"}), (Limit("search", 10, 60, 5),), 2),
    Rule("live", PathPattern("/live")),
)

TOML = """
[[rules]]
name = "search"
path = "/search/*"
methods = ["get"]
limits = "10/minute"
burst = 5
cost = 2

[[rules]]
name = "live"
path = "/live"
"""


def problems(environ: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environ(environ)
    return caught.value.problems


def test_rules_in_a_variable() -> None:
    """A JSON list in SHIELD_RULES becomes the rules of the policy, in its order."""
    settings = Settings.from_environ({"SHIELD_RULES": json.dumps([SEARCH, LIVE])})
    assert settings.policy.rules == settings.rules == PARSED
    assert Settings(rules=PARSED).policy.rules == PARSED, "or as values, in Python"


@pytest.mark.parametrize(("fields", "lease_s"), [({}, 0), ({"polled": True}, 30), ({"lease_seconds": 6}, 6)])
def test_how_long_a_polled_path_is_leased(fields: dict[str, int], lease_s: int) -> None:
    """The length of a lease seat is 30 s if the rule says no other."""
    rules = [{"name": "r", "path": "/r", **fields, "polled": bool(fields)}]
    (rule,) = Settings.from_environ({"SHIELD_RULES": json.dumps(rules)}).rules
    assert rule.lease_s == lease_s


@pytest.mark.parametrize(
    ("live", "polled", "clash"),
    [
        ("/live", "/hls/*", False),
        ("/live", "/livestock", False),
        ("/live/*", "/live/a.m3u8", True),
        ("/live/a", "/live/*", True),
        ("/*", "/hls", True),
    ],
)
def test_no_path_is_both_live_and_polled(live: str, polled: str, clash: bool) -> None:
    """Wherever the two are said, one line names the variable, both paths, and why not."""
    rules = [{"name": "r", "path": polled, "polled": True}], [{"name": "r", "path": live, "live": True}]
    for environ, variable in (
        ({"SHIELD_LIVE_PATHS": live, "SHIELD_POLLED_PATHS": polled}, "SHIELD_POLLED_PATHS"),
        ({"SHIELD_LIVE_PATHS": live, "SHIELD_RULES": json.dumps(rules[0])}, "SHIELD_LIVE_PATHS"),
        ({"SHIELD_RULES": json.dumps(rules[1]), "SHIELD_POLLED_PATHS": polled}, "SHIELD_POLLED_PATHS"),
    ):
        if not clash:
            Settings.from_environ(environ)
            continue
        (line,) = problems(environ)
        assert line.startswith(f"{variable}=")
        assert repr(live) in line
        assert repr(polled) in line
        assert "no path is both" in line


@pytest.mark.parametrize(
    ("environ", "variable", "why"),
    [
        ({}, "SHIELD_REDIRECT_TO_RECORDING='true'", "SHIELD_RECORDING_URL is unset"),
        ({"SHIELD_RECORDING_URL": "https://e.org/recording"}, "SHIELD_RECORDING_URL=", "ends in .m3u8 or .mpd"),
        (
            {"SHIELD_RECORDING_URL": "https://e.org/hls/rec.m3u8", "SHIELD_POLLED_PATHS": "/hls/*"},
            "SHIELD_RECORDING_URL=",
            "'/hls/*' is polled",
        ),
        (
            {
                "SHIELD_RECORDING_URL": "https://e.org/hls/%72ec.mpd",
                "SHIELD_RULES": json.dumps([{"name": "r", "path": "/hls/rec.mpd", "polled": True}]),
            },
            "SHIELD_RECORDING_URL=",
            "'/hls/rec.mpd' is polled",
        ),
    ],
    ids=["no recording", "no playlist", "polled itself", "polled by a rule"],
)
def test_a_recording_that_nobody_can_be_redirected_to(environ: dict[str, str], variable: str, why: str) -> None:
    """One line says why; without the option the same recording is fine, and a redirect to one beside the live paths."""
    (line,) = problems({**environ, "SHIELD_REDIRECT_TO_RECORDING": "true"})
    assert line.startswith(variable)
    assert why in line
    Settings.from_environ(environ)
    beside = {"SHIELD_RECORDING_URL": "https://e.org/rec.m3u8", "SHIELD_POLLED_PATHS": "/hls/*"}
    Settings.from_environ({**beside, "SHIELD_REDIRECT_TO_RECORDING": "true"})


@pytest.mark.parametrize("per", list(Per))
def test_who_shares_the_limits_of_a_rule(per: Per) -> None:
    """``per`` is `client` if it is not set, or all guests, or everyone."""
    rules = [LIVE, {"name": "r", "path": "/r", "limits": "5/minute", "per": str(per)}]
    live, other = Settings.from_environ({"SHIELD_RULES": json.dumps(rules)}).rules
    assert (live.per, other.per) == (Per.CLIENT, per)


@pytest.mark.parametrize(
    ("name", "text"),
    [("rules.json", json.dumps([SEARCH, LIVE])), ("rules.toml", TOML), ("rules", json.dumps([SEARCH, LIVE]))],
)
def test_rules_in_a_file(name: str, text: str, tmp_path: Path) -> None:
    """A file holds the same, as JSON or, where it is called so, as TOML."""
    path = tmp_path / name
    path.write_text(text)
    assert Settings.from_environ({"SHIELD_RULES_FILE": str(path)}).policy.rules == PARSED


def rule(**changes: object) -> str:
    return json.dumps([LIVE, {"name": "r", "path": "/r", **changes}])


@pytest.mark.parametrize(
    ("text", "right"),
    [
        pytest.param("", "not JSON", id="an-empty-file"),
        pytest.param("[", "not JSON", id="half-of-a-list"),
        pytest.param("[" * 100_000, "not JSON", id="a-list-too-deep"),
        pytest.param('{"rules": []}', "write a list", id="an-object"),
        pytest.param("null", "write a list", id="nothing"),
        pytest.param("[1]", "rule 1: write an object", id="a-number-for-a-rule"),
        pytest.param('[{"path": "/r"}]', "rule 1 'name': is missing", id="no-name"),
        pytest.param('[{"name": "r"}]', "rule 1 'path': is missing", id="no-path"),
        pytest.param(rule(limit="1/day"), "rule 2 'limit': there is no such field", id="a-name-misspelled"),
        pytest.param(
            '[{"name": "r", "paht": "/r"}]',
            "rule 1 'paht': there is no such field, did you mean 'path'?",
            id="a-name-misspelled-of-a-field-that-must-be",
        ),
        pytest.param(rule(name="a b"), "rule 2: name 'a b': use 1 to 48 letters, digits", id="a-space-in-the-name"),
        pytest.param(rule(name="{x}"), "rule 2: name '{x}': use 1 to 48 letters, digits", id="a-hash-tag-in-the-name"),
        pytest.param(rule(name=""), "rule 2: name '': use 1 to 48 letters, digits", id="an-empty-name"),
        pytest.param(rule(name=5), "rule 2 'name': write text", id="a-number-for-a-name"),
        pytest.param(rule(path="r"), "rule 2: path: 'r' does not begin with a slash: did you", id="no-slash"),
        pytest.param(rule(path="/r/"), "did you mean '/r'?", id="a-trailing-slash"),
        pytest.param(rule(path="/*/r"), "one that ends in /*", id="a-star-in-the-middle"),
        pytest.param(rule(path="/hls/{id}"), "rule 2: path: '/hls/{id}' has a placeholder", id="a-placeholder"),
        pytest.param(rule(path=""), "rule 2: path: ", id="an-empty-path-is-not-the-root"),
        pytest.param(rule(methods="GET"), "rule 2 'methods': write a list", id="one-method-as-text"),
        pytest.param(rule(methods=["G ET"]), "rule 2: methods: 'G ET' is not a method", id="a-space-in-a-method"),
        pytest.param(rule(limits="fast"), "rule 2: limits 'fast': not a limit: write it like", id="no-limit"),
        pytest.param(rule(limits="off", burst=5), "has no meaning beside 'off': remove it", id="a-burst-beside-off"),
        pytest.param(
            rule(limits="1/second;9/minute", burst=5), "remove it, or keep one limit", id="a-burst-beside-several"
        ),
        pytest.param(rule(limits="1/second", burst=0), "rule 2 'burst': write 1 or more", id="a-burst-of-0"),
        pytest.param(rule(cost=-1), "rule 2 'cost': write 0 or more", id="a-negative-cost"),
        pytest.param(rule(cost="2"), "rule 2 'cost': write a whole number", id="a-cost-as-text"),
        pytest.param(rule(cost=1.5), "rule 2 'cost': write a whole number", id="half-a-unit"),
        pytest.param(rule(cost=True), "rule 2 'cost': write a whole number", id="a-truth-as-a-cost"),
        pytest.param(rule(per="foo"), "rule 2: per 'foo': use client, guests or everyone", id="shared-by-nobody"),
        pytest.param(rule(per="guests"), "rule 2: per 'guests' says who shares the rule's limits", id="nothing-shared"),
        pytest.param(rule(live=True, polled=True), "rule 2: path '/r' is live and polled", id="live-and-polled"),
        pytest.param(rule(lease_seconds=30), "lease_seconds 30 is for polled paths: add", id="a-lease-of-nobody"),
        pytest.param(rule(polled=True, lease_seconds=5), "'lease_seconds': write 6 or more", id="a-short-lease"),
        pytest.param(rule(polled=True, lease_seconds=601), "'lease_seconds': write 600 or less", id="a-long-lease"),
        pytest.param(rule(per=["guests"]), "rule 2 'per': write text", id="shared-by-a-list"),
    ],
)
def test_rules_that_are_wrong(text: str, right: str, tmp_path: Path) -> None:
    """Variable and file give the same one line: which rule, which part of it, and what would be right."""
    path = tmp_path / "rules.json"
    path.write_text(text)
    for environ in ({"SHIELD_RULES": text}, {"SHIELD_RULES_FILE": str(path)}):
        if environ == {"SHIELD_RULES": ""}:
            continue  # an empty variable counts as unset
        (line,) = problems(environ)
        (variable,) = environ
        assert line.startswith(f"{variable}='")
        assert right in line
        assert len(line.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "right"),
    [
        pytest.param("[[rules]", "not TOML", id="not-toml"),
        pytest.param("rules = 5", "write a list", id="a-number"),
        pytest.param('[rules]\nname = "r"\npath = "/r"', "write a list", id="a-table-not-a-list"),
        pytest.param('[[rule]]\nname = "r"\npath = "/r"', "[[rules]]", id="a-name-misspelled-is-no-empty-list"),
        pytest.param('[[rules]]\nname = "r"\npath = "r"', "did you mean '/r'?", id="a-rule-that-is-wrong"),
    ],
)
def test_toml_that_is_wrong(text: str, right: str, tmp_path: Path) -> None:
    """A TOML file that gives no rules is told so: a shield without its rules would not be noticed."""
    path = tmp_path / "rules.toml"
    path.write_text(text)
    (line,) = problems({"SHIELD_RULES_FILE": str(path)})
    assert line.startswith(f"SHIELD_RULES_FILE={str(path)!r}: ")
    assert right in line


@pytest.mark.parametrize(
    ("content", "right"),
    [
        pytest.param(None, "cannot be read: Is a directory", id="a-directory"),
        pytest.param(b"\xff\xfe[]", "not JSON", id="not-utf-8"),
    ],
)
def test_a_file_that_cannot_be_read(content: bytes | None, right: str, tmp_path: Path) -> None:
    """A file that cannot be read is told as such."""
    path = tmp_path / "rules.json"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    (line,) = problems({"SHIELD_RULES_FILE": str(path)})
    assert right in line


def test_yaml_is_told_what_to_write_instead(tmp_path: Path) -> None:
    """Not only that it is no JSON."""
    path = tmp_path / "rules.yaml"
    path.write_text("- name: r\n  path: /r\n")
    (line,) = problems({"SHIELD_RULES_FILE": str(path)})
    assert line.endswith("; write the rules in a .json or .toml file")


def test_rules_in_two_places(tmp_path: Path) -> None:
    """Rules in a variable and in a file at once: one of them would be ignored, so it is an error."""
    path = tmp_path / "rules.json"
    path.write_text("[]")
    (line,) = problems({"SHIELD_RULES": json.dumps([LIVE]), "SHIELD_RULES_FILE": str(path)})
    assert line == f"SHIELD_RULES_FILE={str(path)!r}: SHIELD_RULES is set too: keep one of the two"


def two(first: dict[str, object], second: dict[str, object]) -> str:
    return json.dumps([{"path": "/a", **first}, {"path": "/b", **second}])


@pytest.mark.parametrize(
    ("rules", "environ", "right"),
    [
        pytest.param(
            rule(name="ip"), {}, "rule 'ip': this name belongs to a default limit, use another", id="a-reserved-name"
        ),
        pytest.param(
            rule(limits="10/minute", cost=11),
            {},
            "rule 'r': a cost of 11 is above the burst of limit 'r' (10)",
            id="a-cost-above-the-rule-s-own-burst",
        ),
        pytest.param(
            rule(cost=301), {}, "a cost of 301 is above the burst of limit 'ip' (300)", id="above-the-burst-of-guests"
        ),
        pytest.param(
            rule(cost=301),
            {"SHIELD_IP_LIMIT": "off", "SHIELD_TOKEN_LIMIT": "300/minute"},
            "a cost of 301 is above the burst of limit 'token' (300)",
            id="above-the-burst-of-members",
        ),
        pytest.param(
            rule(cost=6),
            {"SHIELD_ADDRESS_LIMIT": "100/minute", "SHIELD_ADDRESS_BURST": "5"},
            "a cost of 6 is above the burst of limit 'address' (5)",
            id="above-the-burst-of-an-address",
        ),
        pytest.param(
            two({"name": "same"}, {"name": "same"}),
            {},
            "rule 'same': there are 2 rules of this name, give each its own",
            id="two-rules-of-one-name",
        ),
        pytest.param(
            two({"name": "r", "limits": "1/second; 9/minute"}, {"name": "r-2", "limits": "1/second"}),
            {},
            "rule 'r-2': its limit would be called 'r-2', as one of rule 'r' is: use another name",
            id="the-name-of-another-rule-s-second-limit",
        ),
        pytest.param(
            rule(name="ip-prefix", limits="1/second"),
            {},
            "its limit would be called 'ip-prefix', as one of the default limits is",
            id="the-name-of-an-aggregate",
        ),
        pytest.param(
            rule(name="ip-2", limits="1/second"),
            {"SHIELD_IP_LIMIT": "1/second; 9/minute"},
            "its limit would be called 'ip-2', as one of the default limits is",
            id="the-name-of-a-second-default-limit",
        ),
        pytest.param(
            two({"name": "r", "limits": "9/minute"}, {"name": "r-preflight", "limits": "9/minute"}),
            {},
            "rule 'r-preflight': its limit would be called 'r-preflight', as one of rule 'r' is: use another name",
            id="the-name-of-another-rule-s-preflights",
        ),
        pytest.param(
            two({"name": "r-preflight-prefix", "limits": "9/minute"}, {"name": "r", "limits": "9/minute"}),
            {},
            "rule 'r': its limit would be called 'r-preflight-prefix', as one of rule 'r-preflight-prefix' is",
            id="the-other-way-round-and-of-a-site",
        ),
    ],
)
def test_rules_beside_other_limits(rules: str, environ: dict[str, str], right: str) -> None:
    """A rule that could never admit anything, or would share another's bucket, stops the start."""
    assert any(right in line for line in problems({"SHIELD_RULES": rules, **environ}))


def test_a_rule_with_the_name_of_a_default_limit_is_told_once() -> None:
    """Not also that its limit would be called as that one is."""
    (line,) = problems({"SHIELD_RULES": rule(name="ip", limits="1/day")})
    assert line == "SHIELD_RULES: rule 'ip': this name belongs to a default limit, use another"


def test_a_rule_of_exactly_the_burst() -> None:
    """A cost of the whole burst can pass, so it is no mistake; nor is a cost of nothing."""
    settings = Settings.from_environ({"SHIELD_RULES": rule(limits="10/minute", cost=10)})
    assert settings.policy.rules[1].cost == 10
    assert Settings.from_environ({"SHIELD_RULES": rule(cost=0)}).policy.rules[1].cost == 0


def test_a_rule_in_dry_run() -> None:
    """The field is a boolean; a cost above the burst of a default limit, which it is not charged to, is no problem."""
    (parsed,) = Settings(rules=json.dumps([{**SEARCH, "dry_run": True}]), ip_limit="1/minute").policy.rules
    assert parsed.dry_run
    assert (
        "rule 1 'dry_run': write true or false" in problems({"SHIELD_RULES": json.dumps([{**SEARCH, "dry_run": 1}])})[0]
    )
