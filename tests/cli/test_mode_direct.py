"""`mode --direct`, and `limits` and `deny` with it, on a real store: as through the admin routes, without a worker."""

from __future__ import annotations

import gc
import getpass
import json
import os
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.commands import Ran, invoke, shieldmw, without
from servers import HOST, RedisServer, asgi_server, free_port, redis_cluster, redis_sentinels, redis_server, trust
from shieldmw.cli.clients import HURRY_NICE
from shieldmw.errors import NotApplied, StoreError, StoreUnavailable
from shieldmw.gate.operator.direct import DirectControl
from store.rights import user_without

ADMIN = "an-admin-token-of-some-length"

# Longest that a person waits for a line, and what a busy machine may add.
GIVES_UP_S = 5.0 + 2.0


def direct(store: RedisServer | str, *args: str, **env: str) -> Ran:
    url = store if isinstance(store, str) else store.url
    return invoke("mode", *args, "--direct", SHIELD_REDIS_URL=url, **env)


def line(ran: Ran, label: str) -> str:
    """The line of a label."""
    (found,) = (text for text in ran.out.splitlines() if text.startswith(f"{label:<8}"))
    return found[8:]


def audit(store: RedisServer) -> list[dict[str, Any]]:
    """The audit, the newest first."""
    entries: Any = store.client().xrevrange("shield:{control}:audit")
    return [json.loads(fields[b"entry"]) for _, fields in entries]


def test_a_look_leaves_nothing_behind(store: RedisServer) -> None:
    """Not even in an empty store; and it says that there is nobody to obey."""
    ran = direct(store)
    assert (ran.status, ran.err) == (0, "")
    assert line(ran, "now") == "normal (never switched)"
    assert line(ran, "seats") == "unlimited"
    first = ran.out.splitlines()[0]
    assert first.startswith(
        "warning nobody follows: no worker that this store knows of; is SHIELD_REDIS_URL the workers'"
    )
    assert line(ran, "asked") == f"the store {store.url}"
    assert store.client().dbsize() == 0


def test_a_switch_tells_what_was_what_is_until_when_and_how_to_end_it(store: RedisServer) -> None:
    """The words of the admin routes; the commands that it names go the same way."""
    ran = direct(store, "emergency", "--for", "30m", "--capacity", "40", "--guest-share", "0.5", "--reason", "flood")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("warning nobody follows: ")
    assert line(ran, "was") == "normal (never switched)"
    assert line(ran, "now").endswith(f'by admin ({getpass.getuser()}): "flood" (version 1)')
    assert "in 30 min" in line(ran, "until")
    assert line(ran, "seats") == "40, at most 20 for guests"
    assert line(ran, "end it") == "shieldmw mode normal --direct"
    ended = direct(store, "normal")
    again = invoke(*shlex.split(line(ended, "undo"))[1:], SHIELD_REDIS_URL=store.url)
    assert line(again, "seats") == "40, at most 20 for guests"
    assert [(entry["who"], entry["was"], entry["why"]) for entry in audit(store)][1:] == [
        (f"admin ({getpass.getuser()})", "emergency", ""),
        (f"admin ({getpass.getuser()})", "normal", "flood"),
    ]
    assert sorted(store.client().keys()) == [b"shield:{control}:audit", b"shield:{control}:mode"]


def test_limits_and_the_deny_list_go_through_the_store_too(store: RedisServer) -> None:
    """Shown, changed and undone by the commands that are printed, audited as through a worker, with none running."""
    way = {
        "SHIELD_REDIS_URL": store.url,
        "SHIELD_RULES": '[{"name": "search", "path": "/search", "limits": "5/minute"}]',
    }
    assert line(invoke("limits", "show", "--direct", **way), "now") == "as in the settings (never changed)"
    assert line(invoke("deny", "list", "--direct", **way), "denied") == "nothing"
    assert store.client().dbsize() == 0
    changed = invoke("limits", "set", "search.dry_run=true", "--for", "30m", "--reason", "flood", "--direct", **way)
    assert "* search.dry_run                  true                    settings: false" in changed.out
    undo = line(changed, "undo").partition("  (")[0]
    assert undo == "shieldmw limits undo --direct"
    assert "*" not in invoke(*shlex.split(undo)[1:], **way).out
    added = invoke("deny", "add", "203.0.113.0/24", "--for", "40d", "--direct", **way)
    assert (added.status, "'40d' is too long: 30d at most" in added.err) == (2, True)
    added = invoke("deny", "add", "203.0.113.0/24", "--for", "30d", "--direct", **way)
    assert "until " in line(added, "denied")
    assert "  203.0.113.0/24          until " in invoke("deny", "list", "--direct", **way).out
    lifted = invoke(*shlex.split(line(added, "undo"))[1:], **way)
    assert line(lifted, "lifted").startswith("203.0.113.0/24, which was denied until ")
    assert line(lifted, "undo").endswith(" --direct")
    assert line(invoke("deny", "list", "--direct", **way), "denied") == "nothing"
    told = [text.split("  ", 2)[2] for text in invoke("audit", "--count", "3", "--direct", **way).out.splitlines()]
    assert [text.partition(":")[0] for text in told] == ["deny 203.0.113.0/24", "deny 203.0.113.0/24", "limits"]


def test_what_is_refused_through_the_store_is_told_in_a_line(store: RedisServer) -> None:
    """What the settings here rule out, a version that is over, and a network that is not on the list."""
    way = {"SHIELD_REDIS_URL": store.url}
    wrong = invoke("limits", "set", "nosuch.dry_run=true", "--direct", **way)
    assert (wrong.status, wrong.err.count("\n")) == (2, 1)
    assert "rule 'nosuch': there is no such rule here: SHIELD_RULES has none" in wrong.err
    wrong = invoke("limits", "set", "SHIELD_QUEUE_MS=5", "--direct", **way)
    assert (wrong.status, wrong.err) == (
        *(2,),
        "Error: Nothing was changed. SHIELD_QUEUE_MS: cannot be changed without a restart\n",
    )
    assert invoke("limits", "set", "SHIELD_IP_LIMIT=9/day", "--direct", **way).status == 0
    late = invoke("limits", "set", "SHIELD_IP_LIMIT=8/day", "--if-version", "0", "--direct", **way)
    assert (late.status, "someone else changed them: admin (" in late.err) == (1, True)
    unknown = invoke("deny", "lift", "203.0.113.0/24", "--direct", **way)
    assert (unknown.status, unknown.err) == (
        *(1,),
        "Error: 203.0.113.0/24 is not on the deny list. Lift a network as it was denied: "
        "see 'shieldmw deny list --direct'.\n",
    )


@pytest.mark.parametrize(
    ("command", "step"),
    [
        ("limits", "limits show"),
        ("limits set SHIELD_CAPACITY=0 --for forever --reason 'a flood'", None),
        ("limits undo --if-version 3", None),
        ("deny", "deny list"),
        ("deny add 203.0.113.7/32 --for 90m --force", "deny add 203.0.113.7/32 --for 1h30m --force"),
        ("deny lift 203.0.113.0/24", None),
        ("mode emergency --capacity 0", None),
        ("audit --count 5", None),
        ("top", "mode"),
        ("reset ip:203.0.113.7", "mode"),
    ],
)
def test_a_command_that_reaches_no_worker_says_the_next_step(command: str, step: str | None) -> None:
    """The same command through the store, as it was typed; or the one that shows how the fleet is."""
    ran = invoke(*shlex.split(command), SHIELD_ADMIN_URL="http://127.0.0.1:1", SHIELD_ADMIN_TOKEN=ADMIN)
    assert (ran.status, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert ran.err.startswith("Error: cannot reach http://127.0.0.1:1/-/shield: ")
    assert ran.err.endswith(
        f" With SHIELD_REDIS_URL set as for the workers, try: shieldmw {step or command} --direct\n"
    )


def test_normal_when_it_is_normal_already_leaves_the_store_alone(store: RedisServer) -> None:
    """But where foreign data is stored, normal is written anew: only a change repairs that."""
    assert direct(store, "normal").out.startswith("Nothing was changed: the mode is normal already.\n")
    assert store.client().dbsize() == 0
    store.client().hset("shield:{control}:mode", mapping={"version": 7, "data": "{", "since_us": 1})
    assert line(direct(store, "normal"), "now").endswith("(version 8)")


def test_what_is_not_said_is_as_configured(store: RedisServer) -> None:
    """Capacities of the environment, the longest end, and the prefix of the keys."""
    configured = {"SHIELD_CAPACITY": "100", "SHIELD_EMERGENCY_CAPACITY": "60", "SHIELD_EMERGENCY_GUEST_SHARE": "0.25"}
    ran = direct(store, "emergency", SHIELD_KEY_PREFIX="other", **configured)
    assert line(ran, "seats") == "60, at most 15 for guests"
    assert "in 7 days" in line(ran, "until")
    assert store.client().exists("other:{control}:mode")


def test_another_operators_change_stops_a_change_for_a_version(store: RedisServer) -> None:
    """One line with who, what and why; exit status 1; nothing is changed."""
    direct(store, "emergency", "--reason", "flood")
    ran = direct(store, "normal", "--if-version", "0")
    assert (ran.status, ran.err.count("\n")) == (1, 1)
    assert ran.err.startswith("Error: someone else changed it: admin (")
    assert 'set it to emergency, "flood", now version 1' in ran.err
    assert direct(store, "normal", "--if-version", "1").status == 0


@pytest.mark.parametrize(
    "args",
    [
        ("panic",),
        ("emergency", "--for", "soon"),
        ("emergency", "--for", "8d"),
        ("emergency", "--capacity", "1000000001"),
        ("emergency", "--guest-share", "1.5"),
        ("emergency", "--reason", "x" * 201),
        ("emergency", "--reason", "\u001b"),
        ("normal", "--capacity", "3"),
        ("status", "--reason", "x"),
        ("emergency", "--url", "http://127.0.0.1:1"),
    ],
)
def test_what_is_asked_wrongly_ends_with_2_and_changes_nothing(store: RedisServer, args: tuple[str, ...]) -> None:
    """Whether the command finds it or what the admin routes refuse, too; and there is only one way at a time."""
    ran = direct(store, *args)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err
    assert "\x1b" not in ran.err
    assert store.client().dbsize() == 0


def test_an_admin_url_of_the_shell_is_no_mistake(store: RedisServer) -> None:
    """Operators have it set for the ordinary way."""
    assert direct(store, SHIELD_ADMIN_URL="http://127.0.0.1:1").status == 0


def test_a_foreign_value_is_replaced(store: RedisServer) -> None:
    """As through a worker: the switch works whatever somebody else wrote there."""
    store.client().hset("shield:{control}:mode", mapping={"version": 7, "data": "{", "since_us": 1})
    store.client().set("shield:seats", "foreign", ex=60)
    ran = direct(store, "emergency")
    assert ran.status == 0, ran.err
    assert line(ran, "present") == "not known: the store does not tell"
    assert line(ran, "now").endswith("(version 8)")
    store.client().flushall()


# --- stores that cannot be used ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "SHIELD_REDIS_URL is not set: --direct needs the one that the workers were started with"),
        ("memory://", "is private to each process, so only the workers' own admin routes reach it"),
        ("embedded://", "set it to the unix:// URL that 'shieldmw serve' prints at its start"),
    ],
)
def test_a_store_that_no_other_process_reaches_is_told(url: str, told: str) -> None:
    """One line that says what would be right; nothing is started."""
    ran = direct(url, "emergency")
    assert (ran.status, ran.err.count("\n")) == (2, 1)
    assert told in ran.err


def test_wrong_settings_are_told_as_by_other_commands(store: RedisServer) -> None:
    """A line each, and status 2; so are options of the URL that cannot be."""
    ran = direct(store, SHIELD_IP_LIMIT="nonsense", SHIELD_CAPACITY="-1")
    assert (ran.status, [text.split("=")[0] for text in ran.err.splitlines()]) == (
        2,
        ["shieldmw: SHIELD_IP_LIMIT", "shieldmw: SHIELD_CAPACITY"],
    )
    ran = direct("redis://:secret@127.0.0.1/0?health_check_interval=soon")
    assert (ran.status, ran.err.count("\n")) == (2, 1)
    assert ran.err.startswith("shieldmw: SHIELD_REDIS_URL=")
    assert "secret" not in ran.err


@pytest.mark.parametrize(
    "url",
    [
        "redis://:p4ssword@127.0.0.1:{port}/0",
        "redis+cluster://:p4ssword@127.0.0.1:{port},127.0.0.1:{port}",
        "redis+sentinel://:p4ssword@127.0.0.1:{port}/shield",
        "unix://:p4ssword@/nowhere/redis.sock",
    ],
)
@pytest.mark.parametrize("what", ["status", "emergency"])
def test_a_store_that_is_not_there_is_told_in_a_line(url: str, what: str) -> None:
    """Exit status 1, in time, and without the password."""
    began_s = time.monotonic()
    ran = shieldmw("mode", what, "--direct", SHIELD_REDIS_URL=url.format(port=free_port()))
    assert time.monotonic() - began_s < GIVES_UP_S
    assert (ran.status, ran.err.count("\n")) == (1, 1), ran.err
    assert ran.err.startswith("Error: the store ")
    assert "p4ssword" not in ran.printed


def test_a_wrong_password_is_told_and_not_shown() -> None:
    """One line, status 1."""
    with redis_server("valkey", requirepass="right-password") as server:
        ran = shieldmw("mode", "--direct", SHIELD_REDIS_URL=f"redis://:wrong-password@{HOST}:{server.port}")
    assert (ran.status, ran.err.count("\n")) == (1, 1), ran.err
    assert "refused the password: " in ran.err
    assert "password@" not in ran.printed
    assert "wrong-password" not in ran.printed


def test_a_store_that_hangs_is_given_up_in_time(store: RedisServer) -> None:
    """It accepts the connection and never answers."""
    store.pause()
    try:
        began_s = time.monotonic()
        ran = shieldmw("mode", "emergency", "--direct", SHIELD_REDIS_URL=store.tcp_url)
        assert time.monotonic() - began_s < GIVES_UP_S
    finally:
        store.resume()
    assert (ran.status, ran.err.count("\n")) == (1, 1), ran.err


def test_all_calls_together_have_a_limit(store: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, and however long each may take."""
    monkeypatch.setattr("shieldmw.cli.direct_client.BUDGET_S", 0.2)
    store.pause()
    try:
        ran = direct(store, "emergency")
    finally:
        store.resume()
    assert (ran.status, ran.err.count("\n")) == (1, 1)
    assert ran.err.endswith("did not answer within 0 s.\n")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (StoreUnavailable("cut off"), "cut off. It may be done all the same: see 'shieldmw mode status --direct'.\n"),
        (NotApplied("not sent"), "does not answer: not sent.\n"),
    ],
)
def test_it_is_told_whether_a_change_may_have_been_made(
    store: RedisServer, monkeypatch: pytest.MonkeyPatch, error: StoreError, told: str
) -> None:
    """Where the answer got lost nobody knows; where nothing was sent nothing was done."""

    async def fails(*_: object) -> bool:
        raise error

    monkeypatch.setattr(DirectControl, "set_mode", fails)
    ran = direct(store, "emergency")
    assert (ran.status, ran.err.count("\n")) == (1, 1)
    assert ran.err.endswith(told)


def test_a_change_whose_outcome_cannot_be_shown_is_told_to_be_made(
    store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store goes away right after it."""

    async def goes(*_: object) -> bool:
        store.pause()
        return True

    monkeypatch.setattr(DirectControl, "set_mode", goes)
    monkeypatch.setattr("shieldmw.cli.load.PATIENCE_MS", 100)
    try:
        ran = direct(store, "emergency")
    finally:
        store.resume()
    assert (ran.status, ran.err.count("\n")) == (1, 1)
    assert ran.err.endswith(" The change itself was made.\n")


def test_it_goes_first_where_it_may_and_leaves_the_process_as_it_was(
    store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user who may not raise a priority has the usual one; afterwards all is as it was."""
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    asked: list[int] = []

    def refuses(_which: int, _who: int, priority: int) -> None:
        asked.append(priority)
        if priority < usual:
            raise PermissionError

    monkeypatch.setattr("os.setpriority", refuses)
    assert direct(store).status == 0
    assert asked == [min(usual, HURRY_NICE), usual]
    monkeypatch.undo()
    assert direct(store).status == 0
    assert os.getpriority(os.PRIO_PROCESS, 0) == usual
    assert gc.isenabled()


def test_the_url_that_serve_prints_reaches_an_embedded_store(tmp_path: Path) -> None:
    """`embedded://` is a server of its own: its socket is for the user who started it."""
    env = {"SHIELD_ADMIN_TOKEN": ADMIN}
    with asgi_server("shieldmw", "apps:app", env=env, cwd=tmp_path) as server:
        found = re.search(r"store embedded:// at (unix://\S+)", server.log())
        assert found
        ran = shieldmw("mode", "emergency", "--direct", SHIELD_REDIS_URL=found[1])
        assert (ran.status, ran.err) == (0, "")
        shown = invoke("mode", "--url", server.base_url, **env)
        assert line(shown, "now") == line(ran, "now")


def test_a_user_needs_the_rights_of_the_runbook_and_no_others(store: RedisServer) -> None:
    """What a worker's user may do is enough; a user who may not write is told so, and that it was not done."""
    assert direct(user_without(store, None), "emergency").status == 0
    ran = direct(user_without(store, "+evalsha"), "normal")
    assert (ran.status, ran.err.count("\n")) == (1, 1)
    assert "does not permit it: " in ran.err
    assert line(direct(store), "now").startswith("EMERGENCY")
    store.client().execute_command("ACL", "DELUSER", "shield")  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def tls_server() -> Iterator[RedisServer]:
    """A server with TLS."""
    with redis_server("redis", tls=True) as server:
        yield server


def test_tls_is_as_for_the_workers(tls_server: RedisServer) -> None:
    """With the options of the URL."""
    assert direct(tls_server.tls_url, "emergency").status == 0
    assert tls_server.certificates is not None
    ran = direct(tls_server.tls_url.replace(trust(tls_server.certificates), ""))
    assert (ran.status, ran.err.count("\n")) == (1, 1)


def test_a_cluster_and_sentinels_are_as_for_the_workers() -> None:
    """The mode and the seats lie on different nodes; the master is the one that the sentinels name."""
    with redis_cluster("valkey") as cluster:
        assert "(version 1)" in line(direct(cluster.url, "emergency"), "now")
        assert line(direct(cluster.url), "present").startswith("0 hosts")
    with redis_sentinels("valkey") as sentinels:
        assert "(version 1)" in line(direct(sentinels.url, "emergency"), "now")


# --- the way out, named where HTTP fails ------------------------------------------------------------

EMERGENCY = ("emergency", "--for", "90m", "--capacity", "40", "--reason", "it's a flood")


def test_a_worker_that_is_not_there_is_told_with_the_way_out(store: RedisServer) -> None:
    """The line ends with the command that does it, typed as it stands; nothing stands there for what was not given."""
    ran = invoke("mode", *EMERGENCY, "--url", "http://127.0.0.1:1", SHIELD_ADMIN_TOKEN=ADMIN)
    assert (ran.status, ran.err.count("\n")) == (1, 1)
    told, _, command = ran.err.strip().rpartition("try: ")
    assert told.startswith("Error: cannot reach http://127.0.0.1:1/-/shield: ")
    assert "With SHIELD_REDIS_URL set as for the workers" in told
    assert shlex.split(command) == [
        *("shieldmw", "mode", "emergency", "--for", "1h30m", "--capacity", "40"),
        *("--reason", "it's a flood", "--direct"),
    ]
    done = invoke(*shlex.split(command)[1:], SHIELD_REDIS_URL=store.url)
    assert '"it\'s a flood"' in line(done, "now")
    ran = invoke("mode", SHIELD_ADMIN_TOKEN=ADMIN, SHIELD_ADMIN_URL="http://127.0.0.1:1")
    assert ran.err.endswith("try: shieldmw mode status --direct\n")


def test_it_needs_no_client_for_http(store: RedisServer) -> None:
    """The extra is for the admin routes: where it is missing the other way is named, and works."""
    ran = without("httpx", "mode", SHIELD_ADMIN_TOKEN=ADMIN)
    assert (ran.status, ran.err.count("\n")) == (1, 1)
    assert "pip install 'shieldmw[cli]'" in ran.err
    assert "--direct" in ran.err
    assert without("httpx", "mode", "--direct", SHIELD_REDIS_URL=store.url).status == 0


def test_nothing_is_logged_to_the_terminal(store: RedisServer, tmp_path: Path) -> None:
    """The switch's own warnings are for a worker's log; `python -m` as users run it."""
    ran = shieldmw("mode", "emergency", "--direct", SHIELD_REDIS_URL=store.url, cwd=tmp_path)
    assert (ran.status, ran.err) == (0, "")
