"""`shieldmw deny`, `reset` and `audit` against a real server: their output and exit status."""

from __future__ import annotations

import getpass
import re
import shlex
from collections.abc import Iterator

import httpx
import pytest

from cli.commands import Ran, invoke
from cli.test_mode import ADMIN, VIEW, served, shielded
from shieldmw.gate.operator import deny_editor

ME = f"admin ({getpass.getuser()})"


@pytest.fixture
def url() -> Iterator[str]:
    """A fleet of one worker, new for each test."""
    with served(shielded(ip_limit="2/day")) as url:
        yield url


def run(url: str, *args: str, token: str | None = ADMIN) -> Ran:
    """The command."""
    given = {} if token is None else {"SHIELD_ADMIN_TOKEN": token}
    return invoke(*args, SHIELD_ADMIN_URL=url, **given)


def line(ran: Ran, label: str) -> str:
    """The line of a label."""
    (found,) = (each for each in ran.out.splitlines() if each.startswith(f"{label:<8}"))
    return found[8:]


def test_a_network_is_denied_listed_and_lifted(url: str) -> None:
    """Each says what it did and the command that undoes it, which works as it is printed."""
    empty = run(url, "deny")
    assert (empty.status, empty.err, line(empty, "denied")) == (0, "", "nothing")
    added = run(url, "deny", "add", "203.0.113.0/24", "--for", "30m", "--reason", "flood")
    assert (added.status, added.err) == (0, "")
    assert line(added, "denied").startswith("203.0.113.0/24 until ")
    assert line(added, "denied").endswith(f', in 30 min, by {ME}: "flood"')
    assert line(added, "undo") == "shieldmw deny lift 203.0.113.0/24"
    listed = run(url, "deny", "list")
    assert (line(listed, "denied"), line(listed, "asked")) == ("1 network", f"{url}/-/shield")
    assert listed.out.splitlines()[-1].startswith("  203.0.113.0/24          until ")
    lifted = run(url, *shlex.split(line(added, "undo"))[1:])
    assert line(lifted, "lifted").startswith("203.0.113.0/24, which was denied until ")
    again = run(url, *shlex.split(line(lifted, "undo"))[1:])
    assert line(again, "denied").endswith(f', by {ME}: "flood"')
    assert "in 30 min" in line(again, "denied") or "in 29 min" in line(again, "denied")


def test_a_network_that_is_denied_gets_the_new_end(url: str) -> None:
    """It is told what was, and undo restores that; an hour is the default, and an address is a network of one."""
    first = run(url, "deny", "add", "2001:db8::7", "--url", url)
    assert "2001:db8::7/128 until " in line(first, "denied")
    assert "in 60 min" in line(first, "denied")
    assert line(first, "undo") == f"shieldmw deny lift 2001:db8::7/128 --url {url}"
    second = run(url, "deny", "add", "2001:db8::7", "--for", "30d")
    assert "in 60 min" in line(second, "was") or "in 59 min" in line(second, "was")
    assert "in 30 days" in line(second, "denied")
    assert line(second, "lift it") == "shieldmw deny lift 2001:db8::7/128"
    undone = run(url, *shlex.split(line(second, "undo"))[1:])
    assert "in 60 min" in line(undone, "denied") or "in 59 min" in line(undone, "denied")


def test_ones_own_address_needs_force(url: str) -> None:
    """The refusal says how it is done all the same, in the words of the command."""
    ran = run(url, "deny", "add", "127.0.0.0/8")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == ("Error: 127.0.0.0/8 contains your own address, 127.0.0.1. To deny it all the same: --force.\n")
    assert line(run(url, "deny", "list"), "denied") == "nothing"
    forced = run(url, "deny", "add", "127.0.0.0/8", "--for", "1m", "--force")
    assert forced.status == 0
    assert "abnormal-usage-detected" in httpx.get(url).text


def test_a_full_list_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what can be done."""
    monkeypatch.setattr(deny_editor, "MOST_ENTRIES", 1)
    run(url, "deny", "add", "203.0.113.0/24")
    ran = run(url, "deny", "add", "198.51.100.0/24")
    assert (ran.status, ran.err) == (
        *(1,),
        "Error: The deny list is full: it has 10,000 entries. Remove some, or deny wider ones.\n",
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["203.0.113.7/24"], "'203.0.113.7/24' has bits beyond its prefix: did you mean 203.0.113.0/24?"),
        (["fe80::%1"], "'fe80::%1' is not a CIDR: write it like 203.0.113.0/24 or 2001:db8::/32"),
        (["../mode"], "'../mode' is not a CIDR"),
        (["\x1b[2J"], "'\\x1b[2J' is not a CIDR"),
        (["203.0.113.0/24", "--for", "31d"], "'31d' is too long: 30d at most"),
        (["203.0.113.0/24", "--for", "5"], "'5' has no unit: write 5s or 5m"),
        (["203.0.113.0/24", "--reason", "x" * 201], "reason: write at most 200 characters"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_denied(url: str, args: list[str], message: str) -> None:
    """Exit status 2, and no escape sequence reaches the terminal."""
    ran = run(url, "deny", "add", *args)
    assert (ran.status, ran.out) == (2, "")
    assert message in ran.err
    assert "\x1b" not in ran.err
    assert line(run(url, "deny", "list"), "denied") == "nothing"


def test_what_is_not_denied_cannot_be_lifted(url: str) -> None:
    """A part of a denied network is not on the list; what is at another path is not the shield's."""
    run(url, "deny", "add", "203.0.113.0/24")
    ran = run(url, "deny", "lift", "203.0.113.7")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith(
        "Error: 203.0.113.7/32 is not on the deny list. Addresses of it are denied by 203.0.113.0/24. Lift "
    )
    elsewhere = run(f"{url}/-/shield/no-such", "deny", "lift", "203.0.113.0/24")
    assert (elsewhere.status, "is not the shield's" in elsewhere.err) == (1, True)


def test_other_denials_of_the_same_addresses_are_named(url: str) -> None:
    """Otherwise nobody knows why a client is still refused."""
    for network in ("203.0.113.0/24", "203.0.113.9/32", "198.51.100.0/24", "2001:db8::/32"):
        assert run(url, "deny", "add", network).status == 0
    inside = run(url, "deny", "lift", "203.0.113.7")
    assert inside.status == 1
    assert "203.0.113.7/32 is not on the deny list. Addresses of it are denied by 203.0.113.0/24. Lift" in inside.err
    lifted = run(url, "deny", "lift", "203.0.113.0/24")
    assert "but     still denied, with addresses of it: 203.0.113.9/32\n" in lifted.out
    assert "but " not in run(url, "deny", "lift", "198.51.100.0/24").out


def test_a_client_that_was_refused_is_reset(url: str) -> None:
    """Its buckets are full again, and the audit has it."""
    assert [httpx.get(url).status_code for _ in range(3)] == [200, 200, 429]
    ran = run(url, "reset", "ip:127.0.0.1", "--reason", "our studio")
    assert (ran.status, ran.err) == (0, "")
    assert line(ran, "full") == "ip:127.0.0.1/32, on every worker within a second"
    assert httpx.get(url).status_code == 200
    assert run(url, "audit").out.endswith(f'{ME}  reset ip:127.0.0.1/32: full "our studio"\n')
    wrong = run(url, "reset", "127.0.0.1")
    assert (wrong.status, "write it like 'ip:203.0.113.7' or 'token:alice'" in wrong.err) == (2, True)


def test_the_audit_is_shown_newest_first(url: str) -> None:
    """When, who, what, from what to what, and why; the view token sees addresses in part."""
    nothing = run(url, "audit")
    assert (nothing.status, nothing.out, nothing.err) == (0, "", "Nothing has been changed yet.\n")
    run(url, "mode", "emergency", "--for", "30m", "--guest-share", "0", "--reason", "flood")
    run(url, "deny", "add", "203.0.113.7", "--reason", "203.0.113.7 again")
    newest, oldest = run(url, "audit").out.splitlines()
    assert oldest.endswith(f'  {ME}  mode: normal -> emergency, for 1800 s, guest share 0 % "flood"')
    assert re.search(rf"  {re.escape(ME)}  deny 203.0.113.7/32: until [^ ]*\d\d:\d\d:\d\d ", newest)
    assert run(url, "audit", "--count", "1").out == f"{newest}\n"
    looked = invoke("audit", SHIELD_ADMIN_URL=url, SHIELD_VIEW_TOKEN=VIEW)
    assert (looked.status, "203.0.113.7" in looked.out) == (0, False)


def test_text_of_others_is_inert() -> None:
    """A server that is not the shield's may answer with anything."""

    async def hostile(scope: object, receive: object, send: object) -> None:
        text = r'{"entries": [{"cidr": "\u001b[2J", "until": 9, "seconds_left": 5, "actor": "\u202e", "reason": "\n"}]}'
        start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
        for message in (start, {"type": "http.response.body", "body": text.encode()}):
            await send(message)  # type: ignore[operator]

    with served(hostile) as url:
        ran = run(url, "deny", "list")
    assert ran.status == 0
    assert ran.out.replace("\n", "").isprintable()
