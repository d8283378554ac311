"""`/limits` as operators see it: what is in force, versions, undo, and documents that are wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from admin.app import ADMIN, VIEW, Operator, run, shielded
from shieldmw.core.mode import LONGEST_S

RULES = json.dumps([{"name": "search", "path": "/search", "limits": "5/minute"}])
CHANGE = {
    "settings": {"SHIELD_IP_LIMIT": "2/day", "SHIELD_CAPACITY": 50},
    "rules": {"search": {"dry_run": True, "limits": "1/minute"}},
    "for_seconds": 60,
    "reason": " flood\n on\u00a0/ ",
}


def test_a_change_is_told_with_all_that_was_asked_obeyed_and_audited() -> None:
    """What differs from the settings and until when, who and why, and what is in force of everything."""

    async def work() -> None:
        app = shielded(rules=RULES, capacity=100)
        operator, client = Operator(app, shield_actor="kim"), Operator(app, address="192.0.2.7")
        answer = await operator.put("/limits", CHANGE)
        now = answer.json()
        assert (answer.status_code, answer.headers["etag"]) == (200, '"1"')
        assert (now["version"], now["actor"], now["reason"]) == (1, "admin (kim)", "flood on /")
        assert now["settings"] == CHANGE["settings"]
        assert now["rules"] == {"search": {"limits": "1/minute", "burst": None, "dry_run": True}}
        assert now["until"] == pytest.approx(now["since"] + 60)
        assert (now["in_force"]["SHIELD_IP_LIMIT"], now["configured"]["SHIELD_IP_LIMIT"]) == ("2/day", "5/day")
        assert now["in_force"]["SHIELD_TOKEN_LIMIT"] == now["configured"]["SHIELD_TOKEN_LIMIT"] == "1200/minute"
        assert now["rules_in_force"] == [
            {
                "name": "search",
                "in_force": {"limits": "1/minute", "burst": None, "dry_run": True},
                "configured": {"limits": "5/minute", "burst": None, "dry_run": False},
            }
        ]
        assert (now["ignored"], now["store"]) == ([], "up")
        assert [(await client.anywhere("/")).status_code for _ in range(3)] == [200, 200, 429]
        status = (await operator.get("/status")).json()
        assert (status["limits_version"], status["limits_ignored"], status["version"]) == (1, [], 0)
        assert (status["settings"]["SHIELD_IP_LIMIT"], status["capacity"]) == ("2/day", 50)
        (entry,) = (await operator.get("/audit")).json()["entries"]
        assert (entry["who"], entry["what"], entry["from"], entry["why"]) == (
            *("admin (kim)", "limits", "as in the settings"),
            "flood on /",
        )
        assert entry["to"] == (
            "SHIELD_IP_LIMIT=2/day, SHIELD_CAPACITY=50, rule search: limits=1/minute dry_run=true, for 60 s"
        )

    run(work)


def test_what_a_change_replaced_can_be_put_back() -> None:
    """`before` is a document that restores it; an empty one is as in the settings."""

    async def work() -> None:
        operator = Operator(shielded(rules=RULES))
        assert (await operator.get("/limits")).json()["before"]["settings"] == {}
        await operator.put("/limits", CHANGE)
        second = (await operator.put("/limits", {"settings": {"SHIELD_IP_LIMIT": "1/day"}})).json()
        assert (second["until"], second["rules"]) == (None, {})
        before = second["before"]
        assert before["settings"] == CHANGE["settings"]
        assert before["rules"] == {"search": {"limits": "1/minute", "burst": None, "dry_run": True}}
        assert 50 <= before["seconds_left"] <= 60
        body = {name: before[name] for name in ("settings", "rules")}
        third = (await operator.put("/limits", {**body, "for_seconds": before["seconds_left"]}, if_match='"2"')).json()
        assert (third["version"], third["settings"]) == (3, CHANGE["settings"])
        last = (await operator.put("/limits", {})).json()
        assert last["in_force"] == last["configured"]

    run(work)


def test_if_match_is_honoured() -> None:
    """Another version is 412, tells those in force, and changes nothing."""

    async def work() -> None:
        operator = Operator(shielded(rules=RULES), shield_actor="kim")
        assert (await operator.put("/limits", CHANGE, if_match='"0"')).status_code == 200
        for version in ('"0"', "7", '"x"'):
            answer = await operator.put("/limits", {}, if_match=version)
            told = answer.json()
            assert (answer.status_code, answer.headers["etag"]) == (412, '"1"')
            assert told["detail"] == "Nothing was changed: the limits are at version 1 now, set by admin (kim)."
            assert told["current"]["settings"] == CHANGE["settings"]
            described = (await operator.get("/openapi.json")).json()["components"]["schemas"]["ProblemAnswer"]
            assert set(told) <= set(described["properties"])
            assert {"$ref": "#/components/schemas/LimitsAnswer"} in described["properties"]["current"]["anyOf"]
        assert (await operator.put("/limits", {}, if_match="*")).status_code == 200

    run(work)


def test_the_view_token_may_look_and_change_nothing() -> None:
    """GET with either token, PUT with one, and neither without."""

    async def work() -> None:
        app = shielded()
        assert (await Operator(app, VIEW).get("/limits")).status_code == 200
        assert (await Operator(app, VIEW).put("/limits", {})).status_code == 403
        assert (await Operator(app, None).get("/limits")).status_code == 401
        assert (await Operator(app, None).put("/limits", {})).status_code == 401
        assert (await Operator(app, ADMIN).get("/limits")).json()["version"] == 0

    run(work)


WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"settings": {"SHIELD_IP_LIMIT": "300/fortnight"}},
        "SHIELD_IP_LIMIT: '300/fortnight': not a limit: write it like '300/minute'",
    ),
    ({"settings": {"SHIELD_CAPACITY": "50"}}, "SHIELD_CAPACITY: '50': write a whole number"),
    ({"settings": {"SHIELD_CAPACITY": -5}}, "SHIELD_CAPACITY: '-5': write 0 or more"),
    (
        {"settings": {"SHIELD_EMERGENCY_GUEST_SHARE": 20}},
        "SHIELD_EMERGENCY_GUEST_SHARE: '20': write 1 or less",
    ),
    (
        {"settings": {"SHIELD_IPLIMIT": "1/day"}},
        "SHIELD_IPLIMIT: there is no such setting, did you mean SHIELD_IP_LIMIT?",
    ),
    ({"settings": {"SHIELD_ADMIN_TOKEN": "x"}}, "SHIELD_ADMIN_TOKEN: cannot be changed without a restart"),
    ({"rules": {"search": {"dry_run": "yes"}}}, "search.dry_run: 'yes': write true or false"),
    ({"rules": {"search": {"burst": 0}}}, "search.burst: '0': write 1 or more"),
    ({"rules": {"searhc": {"dry_run": True}}}, "rule 'searhc': there is no such rule here: the rules are search"),
    (
        {"settings": {"SHIELD_IP_LIMIT": "1/second,9/minute", "SHIELD_IP_BURST": 5}},
        "SHIELD_IP_BURST='5': a burst of 5 goes only with a single limit",
    ),
    ({"for_seconds": LONGEST_S + 1}, f"for_seconds: write {LONGEST_S} or less"),
    ({"for_seconds": 0}, "for_seconds: write 1 or more"),
    ({"reason": "x" * 201}, "reason: write at most 200 characters"),
    ({"reason": "\u001b[2J\u202e"}, "reason: has characters that cannot be printed"),
    ({"limits": {}}, "limits: there is no such field"),
    ({"settings": {"SHIELD_IP_LIMIT": "\u001b[2J"}}, "SHIELD_IP_LIMIT: '\\x1b[2J': not a limit"),
]


@pytest.mark.parametrize(("body", "line"), WRONG, ids=[str(number) for number in range(len(WRONG))])
def test_a_bad_document_changes_nothing_and_says_what_would_be_right(body: dict[str, Any], line: str) -> None:
    """One problem that names the setting, shows the value and tells the right form; version and audit stay."""

    async def work() -> None:
        operator = Operator(shielded(rules=RULES))
        good = {"SHIELD_TOKEN_LIMIT": "9/day", **body.get("settings", {})}
        answer = await operator.put("/limits", {**body, "settings": good})
        told = answer.json()
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
        assert told["detail"].startswith(f"Nothing was changed. {line}")
        assert told["detail"].isprintable()
        now = (await operator.get("/limits")).json()
        assert (now["version"], now["in_force"]) == (0, now["configured"])
        assert (await operator.get("/audit")).json()["entries"] == []

    run(work)
