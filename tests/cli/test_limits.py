"""`shieldmw limits` against a real server: its output and exit status."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from cli.commands import Ran, invoke
from cli.test_mode import ADMIN, VIEW, served, shielded

RULES = json.dumps([{"name": "search", "path": "/search", "limits": "5/minute"}])


@pytest.fixture
def url() -> Iterator[str]:
    """A fleet of one worker, new for each test."""
    with served(shielded(rules=RULES, ip_limit="300/minute")) as url:
        yield url


def limits(url: str, *args: str, token: str | None = ADMIN) -> Ran:
    """The command."""
    given = {} if token is None else {"SHIELD_ADMIN_TOKEN": token}
    return invoke("limits", *args, SHIELD_ADMIN_URL=url, **given)


def rows(ran: Ran) -> dict[str, str]:
    """The changed values that were printed, with what the settings say."""
    marked = [line[2:].split(maxsplit=1) for line in ran.out.splitlines() if line.startswith("* ")]
    return {name: " ".join(value.split()) for name, value in marked}


def line(ran: Ran, label: str) -> str:
    """The line of a label."""
    (found,) = (each for each in ran.out.splitlines() if each.startswith(f"{label:<8}"))
    return found[8:]


def test_it_shows_what_is_in_force(url: str) -> None:
    """Without any argument too; the token that may only look will do."""
    told = limits(url)
    assert (told.status, told.err) == (0, "")
    assert line(told, "now") == "as in the settings (never changed)"
    assert "  SHIELD_IP_LIMIT                 300/minute\n" in told.out
    assert "  search.limits                   5/minute\n" in told.out
    assert "undo" not in told.out
    assert rows(told) == {}
    assert limits(url, "show").out == told.out
    looked = invoke("limits", SHIELD_ADMIN_URL=url, SHIELD_VIEW_TOKEN=VIEW)
    assert (looked.status, looked.out) == (0, told.out)


def test_a_change_keeps_what_was_changed_before(url: str) -> None:
    """One value after another, each as in the environment; what has no value is as in the settings again."""
    first = limits(url, "set", "SHIELD_IP_LIMIT=60/minute", "--for", "30m", "--reason", "flood")
    assert (first.status, first.err) == (0, "")
    assert line(first, "now").endswith(': "flood" (version 1)')
    assert "in 30 min; then as in the settings by itself" in line(first, "until")
    second = limits(url, "set", "search.dry_run=true", "SHIELD_CAPACITY=40000", "SHIELD_EMERGENCY_GUEST_SHARE=0.1")
    assert rows(second) == {
        "SHIELD_IP_LIMIT": "60/minute settings: 300/minute",
        "SHIELD_CAPACITY": "40000 settings: 100",
        "SHIELD_EMERGENCY_GUEST_SHARE": "0.1 settings: 0.0",
        "search.dry_run": "true settings: false",
    }
    assert "min; then as in the settings" in line(second, "until"), "the end that was in force"
    third = limits(url, "set", "SHIELD_IP_LIMIT=", "search.dry_run=", "search.limits=1/second", "--for", "forever")
    assert "until" not in third.out
    assert set(rows(third)) == {"SHIELD_CAPACITY", "SHIELD_EMERGENCY_GUEST_SHARE", "search.limits"}


def test_undo_restores_what_the_last_change_replaced(url: str) -> None:
    """With its end time; `undo` says before what it would restore, and undoes itself."""
    limits(url, "set", "SHIELD_IP_LIMIT=60/minute", "--for", "30m")
    told = limits(url, "set", "SHIELD_IP_LIMIT=30/minute", "search.burst=9")
    assert line(told, "undo") == "shieldmw limits undo  (restores: SHIELD_IP_LIMIT=60/minute)"
    undone = limits(url, "undo")
    assert rows(undone) == {"SHIELD_IP_LIMIT": "60/minute settings: 300/minute"}
    assert "min; then as in the settings" in line(undone, "until")
    assert '"undo of version 2" (version 3)' in line(undone, "now")
    assert line(undone, "undo").endswith("(restores: SHIELD_IP_LIMIT=30/minute, search.burst=9)")
    assert set(rows(limits(url, "undo"))) == {"SHIELD_IP_LIMIT", "search.burst"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["set"], "Missing argument 'NAME=VALUE...'"),
        (["set", "SHIELD_IP_LIMIT"], "'SHIELD_IP_LIMIT' is not of the form NAME=VALUE"),
        (["set", "SHIELD_IP_LIMIT=often"], "Nothing was changed. SHIELD_IP_LIMIT: 'often': not a limit: write it like"),
        (["set", "SHIELD_CAPACITY=50.000"], ". SHIELD_CAPACITY: '50.0': write a whole number"),
        (["set", "SHIELD_CAPACITY=many"], ". SHIELD_CAPACITY: 'many': write a whole number"),
        (["set", "SHIELD_IPLIMIT=1/day"], ". SHIELD_IPLIMIT: there is no such setting, did you mean SHIELD_IP_LIMIT?"),
        (["set", "SHIELD_QUEUE_MS=5"], ". SHIELD_QUEUE_MS: cannot be changed without a restart\n"),
        (["set", "search.dryrun=true"], ". search.dryrun: there is no such field, did you mean dry_run?"),
        (
            ["set", "SHIELD_IP_LIMITT="],
            "'SHIELD_IP_LIMITT=': there is no limit 'SHIELD_IP_LIMITT' that can be changed,",
        ),
        (["set", "serch.limits="], "there is no rule 'serch' that can be changed, did you mean 'search'?"),
        (["set", "SHIELD_QUEUE_MS="], "there is no limit 'SHIELD_QUEUE_MS' that can be changed"),
        (["set", "nosuch.dry_run=true"], "rule 'nosuch': there is no such rule here: the rules are search"),
        (["set", "SHIELD_IP_LIMIT=1/day", "--for", "8d"], "'8d' is too long: 7d at most"),
        (["set", "\x1b[2J=1"], ". \\x1b[2J: there is no such setting"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_changes(url: str, args: list[str], message: str) -> None:
    """Exit status 2, one line, and no escape sequence reaches the terminal."""
    ran = limits(url, *args)
    assert ran.status == 2
    assert message in ran.err
    assert "\x1b" not in ran.printed
    assert line(limits(url), "now") == "as in the settings (never changed)"


def test_what_is_in_force_already_changes_nothing(url: str) -> None:
    """No version and no line of the audit, whether the value is the settings' or an operator's; it says so."""
    for _ in range(2):
        ran = limits(url, "set", "SHIELD_IP_LIMIT=300/minute", "search.limits=5/minute", "--for", "30m")
        assert (ran.status, ran.err) == (0, "")
        assert ran.out.startswith("Nothing was changed: all of that is in force already.\n")
        assert line(ran, "now") == "as in the settings (never changed)"
    assert limits(url, "undo").out.startswith("Nothing was changed: there is nothing to undo.\n")
    assert "(version 1)" in line(limits(url, "set", "SHIELD_IP_LIMIT=60/minute", "search.dry_run=true"), "now")
    assert "(version 1)" in line(limits(url, "set", "search.dry_run=true", "SHIELD_IP_LIMIT=60/minute"), "now")
    assert "(version 1)" in line(limits(url, "set", "SHIELD_IP_LIMIT=60/minute", "--for", "forever"), "now")
    assert limits(url, "set", "SHIELD_IP_LIMIT=60/minute", "--if-version", "0").status == 1
    assert "(version 2)" in line(limits(url, "set", "SHIELD_IP_LIMIT=60/minute", "--for", "1h"), "now"), "an end"


def test_a_limit_whose_burst_would_change_is_a_change() -> None:
    """A limit that is given has its own amount as its burst, whatever the settings have."""
    with served(shielded(ip_limit="300/minute", ip_burst=50)) as url:
        assert "(version 1)" in line(limits(url, "set", "SHIELD_IP_LIMIT=300/minute"), "now")


def test_nobody_overwrites_what_another_operator_has_just_done(url: str) -> None:
    """With --if-version of an older version nothing changes, and it is told who was first."""
    assert limits(url, "set", "SHIELD_IP_LIMIT=60/minute", "--reason", "flood", "--if-version", "0").status == 0
    ran = limits(url, "set", "SHIELD_IP_LIMIT=1/minute", "--if-version", "0")
    assert ran.status == 1
    assert "someone else changed them: admin (" in ran.err
    assert '"flood", now version 1. Nothing was changed by this command' in ran.err
    assert rows(limits(url)) == {"SHIELD_IP_LIMIT": "60/minute settings: 300/minute"}


def test_without_a_token_nothing_is_asked(url: str) -> None:
    """It says which variable is missing."""
    ran = limits(url, "set", "SHIELD_IP_LIMIT=1/minute", token=None)
    assert ran.status != 0
    assert "SHIELD_ADMIN_TOKEN is not set" in ran.err
