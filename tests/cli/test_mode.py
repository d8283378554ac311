"""`shieldmw mode` against a real server: its output and exit status."""

from __future__ import annotations

import re
import shlex
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import pytest
import uvicorn
from click.testing import CliRunner
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from cli.commands import invoke
from servers import wait_until
from shieldmw import Settings, ShieldMiddleware
from shieldmw.cli import main
from shieldmw.cli.admin_client import admin_url

ADMIN = "an-admin-token-of-some-length"
VIEW = "a-view-token-of-some-length"


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it printed."""

    status: int
    out: str
    err: str

    def line(self, label: str) -> str:
        """The line of a label."""
        (found,) = (line for line in self.out.splitlines() if line.startswith(f"{label:<8}"))
        return found[8:]


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """The app on a port of loopback, in a thread of this process; where it is."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", ws="none", proxy_headers=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started, 20, "the server")
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def shielded(**values: object) -> ShieldMiddleware:
    app = Starlette(routes=[Route("/{path:path}", lambda request: PlainTextResponse("the app"))])
    return ShieldMiddleware(app, Settings(**{"admin_token": ADMIN, "view_token": VIEW, "capacity": 100, **values}))


@pytest.fixture
def url() -> Iterator[str]:
    """A fleet of one worker, new for each test."""
    with served(shielded()) as url:
        yield url


def mode(url: str | None, *args: str, token: str | None = ADMIN, view: str | None = None) -> Ran:
    env = {"SHIELD_ADMIN_URL": url, "SHIELD_ADMIN_TOKEN": token, "SHIELD_VIEW_TOKEN": view, "SHIELD_ADMIN_PATH": None}
    result = CliRunner().invoke(main, ["mode", *args], env=env, prog_name="shieldmw")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


def test_the_status_says_what_is_in_force(url: str) -> None:
    """Without any argument; the token that may only look will do."""
    told = mode(url, token=None, view=VIEW)
    assert told.status == 0
    assert told.line("now") == "normal (never switched)"
    assert told.line("seats") == "100, at most 100 for guests"
    assert told.line("on") == "1 worker, within a second"
    assert told.line("asked") == f"{url}/-/shield"
    assert told.out.startswith("now ")
    assert told.line("load") == "calm: turns under 1 ms, 0 requests in flight on 1 worker"
    assert mode(url, "status").out == told.out


def test_the_status_tells_those_who_poll() -> None:
    """Clients on polled paths hold seats as listeners of streams do; of how many it is true is told, too."""
    with served(shielded(polled_paths="/hls/*", redis_url="memory://")) as url:
        assert mode(url).line("present") == "0 hosts, 0 members, 0 guests"
        assert httpx.get(f"{url}/hls/live.m3u8").status_code == 200
        told = "0 hosts, 0 members, 1 guest (1 of them polling)"
        wait_until(lambda: mode(url).line("present") == told, 20, "the next report")


def test_no_capacity_and_no_guests(url: str) -> None:
    """Guests have no seats although there is no limit of seats."""
    assert (
        mode(url, "emergency", "--capacity", "0", "--guest-share", "0").line("seats")
        == "unlimited, but none for guests"
    )
    assert mode(url, "emergency", "--capacity", "0", "--guest-share", "0.1").line("seats") == "unlimited"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--guest-share", "10%", "'10%' is not a number: write it like 0.1 for a tenth"),
        ("--capacity", "50,000", "'50,000' is not a whole number: write it like 5000, without separators or a unit"),
    ],
)
def test_a_number_is_told_how_to_write_it(option: str, value: str, message: str) -> None:
    """Not that it is no valid range."""
    told = invoke("mode", "emergency", option, value)
    assert told.status == 2
    assert message in told.err


def test_a_switch_tells_what_was_what_is_until_when_and_how_to_end_it(url: str) -> None:
    """All of it in a few lines, the reason and the operator's name among them."""
    told = mode(url, "emergency", "--for", "30m", "--capacity", "40", "--guest-share", "0.5", "--reason", "flood")
    assert told.status == 0
    assert told.line("was") == "normal (never switched)"
    assert told.line("now").startswith("EMERGENCY since ")
    assert "by admin (" in told.line("now")
    assert told.line("now").endswith(': "flood" (version 1)')
    assert re.fullmatch(r"(\d\d \w+ )?\d\d:\d\d:\d\d [A-Z+0-9-]+, in 30 min; .*", told.line("until"))
    assert told.line("seats") == "40, at most 20 for guests"
    assert told.line("end it") == "shieldmw mode normal"
    shown = mode(url, "status")
    assert shown.line("now") == told.line("now")
    assert shown.line("end it") == "shieldmw mode normal"


def test_a_dry_run_is_told(url: str) -> None:
    """By the status and by a change, and only then."""
    with served(shielded(dry_run=True)) as dry:
        for args in ((), ("emergency",)):
            assert mode(dry, *args).line("dry run").startswith("SHIELD_DRY_RUN=true: nothing is refused")
    assert "dry run" not in mode(url).out


def test_the_undo_command_brings_back_what_was(url: str) -> None:
    """Typed as it is printed, it makes the same emergency again, and says --url where that was given."""
    mode(url, "emergency", "--for", "30m", "--capacity", "40", "--guest-share", "0.5", "--reason", "it's a flood")
    ended = mode(None, "normal", "--url", url)
    assert ended.line("now").startswith("normal since ")
    undo = ended.line("undo")
    assert undo.endswith(f" --url {url}")
    again = mode(None, *shlex.split(undo)[2:])
    assert again.status == 0
    assert again.line("seats") == "40, at most 20 for guests"
    assert "by admin (" in again.line("now")
    assert '"it\'s a flood"' in again.line("now")


def test_a_second_emergency_says_what_it_has_not_kept_of_the_first(url: str) -> None:
    """In a hurry nobody names everything again."""
    mode(url, "emergency", "--for", "30m", "--capacity", "15", "--guest-share", "0.2")
    second = mode(url, "emergency", "--reason", "still there")
    dropped = [line[8:] for line in second.out.splitlines() if line.startswith("but ")]
    assert dropped == [
        "without --for it lasts 7 days, no longer 30 min",
        "without --capacity the settings hold, no longer --capacity 15",
        "without --guest-share the settings hold, no longer --guest-share 0.2",
    ]
    mode(url, "emergency", "--for", "30m", "--capacity", "15", "--guest-share", "0.2")
    kept = mode(url, "emergency", "--for", "20m", "--capacity", "15", "--guest-share", "0")
    assert "\nbut " not in kept.out


def test_an_undo_pins_nothing_that_was_as_configured(url: str) -> None:
    """It names the numbers that were given, so what was left to the settings follows them again."""
    mode(url, "emergency", "--for", "30m")
    words = shlex.split(mode(url, "normal").line("undo"))
    assert words[:4] == ["shieldmw", "mode", "emergency", "--for"]
    assert len(words) == 5
    mode(url, "emergency", "--capacity", "0")
    undo = mode(url, "normal").line("undo")
    assert undo.endswith(" --capacity 0")
    mode(url, "emergency", "--guest-share", "0.25")
    assert mode(url, "normal").line("undo").endswith(" --guest-share 0.25")


def test_normal_when_it_is_normal_already_changes_nothing(url: str) -> None:
    """No version and no line of the audit; it says so. With --if-version of another version it is still an error."""
    told = mode(url, "normal", "--reason", "over")
    assert (told.status, told.err) == (0, "")
    assert told.out.startswith("Nothing was changed: the mode is normal already.\n")
    assert told.line("now") == "normal (never switched)"
    assert mode(url, "normal", "--if-version", "3").status == 1
    mode(url, "emergency", "--for", "30m")
    longer = mode(url, "emergency", "--for", "40m")
    assert "(version 2)" in longer.line("now"), "another end is a change"
    assert "(version 3)" in mode(url, "normal").line("now")
    assert "(version 3)" in mode(url, "normal").line("now")


def test_another_operators_change_stops_a_change_for_a_version(url: str) -> None:
    """One line with who, what and why; exit status 1; nothing is changed."""
    mode(url, "emergency", "--for", "30m", "--reason", "flood")
    told = mode(url, "normal", "--if-version", "0")
    assert told.status == 1
    assert told.err.startswith("Error: someone else changed it: admin (")
    assert 'set it to emergency, "flood", now version 1' in told.err
    assert told.err.count("\n") == 1
    assert mode(url, "normal", "--if-version", "1").status == 0


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("90s", "in 90 s"),
        ("30m", "in 30 min"),
        ("1h30m", "in 90 min"),
        ("2h", "in 2 h;"),
        ("2h5m", "in 2 h 5 min;"),
        ("1D", "in 24 h;"),
        ("2d", "in 2 days;"),
        ("3d5h", "in 3 days 5 h;"),
    ],
)
def test_durations_are_written_as_people_do(url: str, written: str, read: str) -> None:
    """Seconds, minutes, hours, days, and several of them."""
    assert read in mode(url, "emergency", "--for", written).line("until")


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("30", "'30' has no unit: write 30s or 30m"),
        ("1h30", "'1h30' is not a duration: write it like 90s, 30m or 2h"),
    ],
)
def test_a_number_without_a_unit_is_no_duration(written: str, told: str) -> None:
    """Half a minute and half an hour are too different to guess."""
    ran = invoke("mode", "emergency", "--for", written, SHIELD_ADMIN_TOKEN=ADMIN)
    assert (ran.status, ran.out) == (2, "")
    assert told in ran.err


@pytest.mark.parametrize(
    "args",
    [
        ("panic",),
        ("emergency", "--for", "soon"),
        ("emergency", "--for", "0"),
        ("emergency", "--for", ""),
        ("emergency", "--capacity", "-1"),
        ("emergency", "--guest-share", "1.5"),
        ("emergency", "--for", "8d"),
        ("emergency", "--reason", "\u001b"),
        ("normal", "--capacity", "3"),
        ("status", "--reason", "x"),
    ],
)
def test_what_is_asked_wrongly_ends_with_2_and_changes_nothing(url: str, args: tuple[str, ...]) -> None:
    """Whether the command or the server finds it."""
    told = mode(url, *args)
    assert told.status == 2
    assert told.err
    assert mode(url).line("now") == "normal (never switched)"


def test_a_wrong_token_is_told_and_then_the_lockout_with_its_wait(url: str) -> None:
    """One line each, exit status 1, and never the token."""
    for _ in range(3):
        told = mode(url, token="a-wrong-token-of-some-length")
        assert (told.status, told.err.count("\n")) == (1, 1)
        assert "wrong token" in told.err
        assert "a-wrong-token" not in told.err
    locked = mode(url, token="a-wrong-token-of-some-length")
    assert locked.status == 1
    assert locked.err.startswith("Error: Locked out: ")
    assert "Try again in 2 s." in locked.err or "Try again in 1 s." in locked.err
    assert mode(url).status == 0


def test_a_view_token_switches_nothing(url: str) -> None:
    """Where it stands in for the admin token, the server refuses; where there is none, the command does."""
    assert "change nothing" in mode(url, "emergency", token=VIEW).err
    missing = mode(url, "normal", token=None, view=VIEW)
    assert missing.status == 2
    assert "SHIELD_ADMIN_TOKEN is not set" in missing.err


@pytest.mark.parametrize("args", [(), ("emergency",)])
def test_a_server_that_is_not_there_is_told_in_a_line(args: tuple[str, ...]) -> None:
    """With the URL that was tried."""
    told = mode("http://127.0.0.1:1", *args)
    assert (told.status, told.err.count("\n")) == (1, 1)
    assert told.err.startswith("Error: cannot reach http://127.0.0.1:1/-/shield: ")


def test_something_else_at_the_url_is_told(url: str) -> None:
    """An app without admin routes, or a wrong path."""
    assert "is not the shield's" in mode(url + "/elsewhere").err
    with served(shielded(admin_token=None)) as other:
        told = mode(other)
        assert (told.status, told.err.count("\n")) == (1, 1)
        assert "is not the shield's" in told.err


def test_a_store_that_is_away_is_told_and_the_mode_stays() -> None:
    """The status says AWAY; a change ends with 1 and says that nothing was changed."""
    with served(shielded(redis_url="redis://127.0.0.1:1/0")) as url:
        assert mode(url).line("store").startswith("AWAY")
        told = mode(url, "emergency")
        assert told.status == 1
        assert "Nothing was changed" in told.err


def test_a_fleet_without_a_capacity_counts_its_workers_all_the_same() -> None:
    """The operator sees on how many workers the switch holds, whether there are seats or not."""
    with served(shielded(capacity=0)) as url:
        told = mode(url)
        assert told.line("seats") == "unlimited"
        assert told.line("on") == "1 worker, within a second"


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/-/shield"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/-/shield"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000/-/shield"),
        ("localhost", "http://localhost/-/shield"),
        ("event.example.org", "https://event.example.org/-/shield"),
        ("https://event.example.org/api/-/guard/", "https://event.example.org/api/-/guard"),
    ],
)
def test_a_host_is_enough_of_a_url(given: str, found: str) -> None:
    """It gets the default path, and TLS unless it is this machine."""
    assert admin_url(given) == found


def test_the_url_is_no_setting_and_no_mistake() -> None:
    """Workers may see the variable of the command; a misspelt one is still an error."""
    assert Settings.from_environ({"SHIELD_ADMIN_URL": "http://127.0.0.1:8000"}) == Settings()
    with pytest.raises(Exception, match="SHIELD_ADMIN_URI: there is no such setting, did you mean SHIELD_ADMIN_URL"):
        Settings.from_environ({"SHIELD_ADMIN_URI": "x"})


@pytest.mark.parametrize("args", [("status",), ("emergency",)])
def test_a_fleet_without_a_lane_says_why_its_load_is_unknown(args: tuple[str, ...]) -> None:
    """The rest is told as ever."""
    with served(shielded(overload="off")) as url:
        told = mode(url, *args)
        assert (told.status, told.line("load")) == (0, "unknown: SHIELD_OVERLOAD is off")


ESCAPES = "\x1b]0;owned\x07\x1b[2J\u202e\r"


@pytest.mark.parametrize(
    ("status", "body", "has_way_out"),
    [
        (500, "oops", True),
        (502, "<html>", True),
        (503, "", True),
        (503, '{"title": "The store is away", "detail": "x"}', False),
        (504, "", True),
        (404, "", False),
        (401, '{"title": "No", "detail": "x"}', False),
        (403, '{"title": "No", "detail": "x"}', False),
        (412, '{"title": "No", "detail": "x"}', False),
        (422, '{"title": "No", "detail": "x"}', False),
        (429, '{"title": "Locked out", "detail": "x"}', False),
    ],
)
def test_only_where_nobody_could_do_it_the_line_names_the_other_way(status: int, body: str, has_way_out: bool) -> None:
    """A server that is drowned or broken, or a proxy that says so; not a wrong token, a wrong request, or no store."""

    async def answer(_: Request) -> PlainTextResponse:
        return PlainTextResponse(body, status)

    with served(Starlette(routes=[Route("/-/shield/status", answer)])) as url:
        ran = mode(url, "emergency", "--for", "30m")
    assert (ran.status, ran.err.count("\n")) == (2 if status == 422 else 1, 1)
    assert ran.err.endswith("try: shieldmw mode emergency --for 30m --direct\n") == has_way_out
    assert "?." not in ran.err
    assert ("--direct" in ran.err) == has_way_out


def test_a_fleet_without_its_store_is_not_sent_to_the_store() -> None:
    """The other way leads to the same store: the line says what must come first."""
    body = {"title": "The store is away", "detail": "Nothing was changed."}

    async def answer(_: Request) -> JSONResponse:
        return JSONResponse(body, 503)

    with served(Starlette(routes=[Route("/-/shield/status", answer)])) as url:
        ran = mode(url, "normal")
    assert ran.err == "Error: The store is away: Nothing was changed. Bring the store back, then repeat the command.\n"


def test_a_server_that_never_answers_is_told_with_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts the connection, as the kernel of a drowned one does."""
    monkeypatch.setattr("shieldmw.cli.admin_client.PATIENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ran = mode(f"http://127.0.0.1:{silent.getsockname()[1]}", "normal")
    assert (ran.status, ran.err.count("\n")) == (1, 1)
    assert "did not answer within " in ran.err
    assert ran.err.endswith("try: shieldmw mode normal --direct\n")


@pytest.mark.parametrize("title", ["", ESCAPES], ids=["status", "problem"])
def test_what_a_server_says_moves_no_cursor(title: str) -> None:
    """Reason, actor and problem of whatever server answers are shown with their control characters as escapes."""

    async def status(_: Request) -> JSONResponse:
        answer: dict[str, object] = {"title": title, "detail": title}
        if not title:
            answer = {
                **{"mode": "emergency", "now": 1.0, "until": None, "capacity": 1, "guest_share": 0, "workers": 1},
                **{"counted": "fleet", "seats": dict.fromkeys(("host", "member", "guest"), 0), "demand": None},
                **{"store": "up", "version": 1, "since": 1.0, "actor": ESCAPES, "reason": ESCAPES},
            }
        return JSONResponse(answer, 500 if title else 200)

    with served(Starlette(routes=[Route("/-/shield/status", status)])) as url:
        ran = mode(url)
    shown = ran.out + ran.err
    assert all(line.isprintable() for line in shown.splitlines())
    assert "\x1b" not in shown
    assert r"\x1b]0;owned\x07" in shown
    assert title or ran.line("load") == "unknown: the server does not tell"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://[::1", "is not a URL"),
        ("[::1", "is not a URL"),
        ("http://host:99999", "is not a URL"),
        ("ftp://host", "is not a URL"),
        ("unix:", "'unix:' names no socket"),
    ],
)
def test_a_url_that_cannot_be_is_one_line(url: str, message: str) -> None:
    """And status 2, as every wrong use."""
    ran = invoke("mode", "--url", url, SHIELD_ADMIN_TOKEN="0123456789abcdef")
    assert ran.status == 2
    assert message in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("SHIELD_ADMIN_ULR", "there is no such setting, did you mean SHIELD_ADMIN_URL?"),
        ("shield_admin_url", "names are in capitals, write SHIELD_ADMIN_URL"),
        ("SHIELD_URL", "there is no such setting, did you mean SHIELD_ADMIN_URL?"),
        ("SHIELDMW_ADMIN_URL", "names begin with SHIELD_, write SHIELD_ADMIN_URL"),
        ("SHIELD_ADMIN_TOKN", "there is no such setting, did you mean SHIELD_ADMIN_TOKEN?"),
    ],
)
def test_a_misspelt_variable_of_its_own_is_told(name: str, told: str) -> None:
    """Ignored, it would ask the default URL without a word; nothing is asked."""
    ran = invoke("mode", SHIELD_ADMIN_TOKEN=ADMIN, **{name: "http://127.0.0.1:1"})
    assert (ran.status, ran.out, ran.err) == (2, "", f"shieldmw: {name}: {told}\n")


def test_other_variables_are_left_alone(url: str) -> None:
    """Those of the workers, of whatever version, do not keep an operator from the switch."""
    env = {"SHIELD_REDIS_ULR": "x", "SHIELD_JWT_JWKS_URL": "https://e.org/", "SHIELD_OF_TOMORROW": "x"}
    assert invoke("mode", SHIELD_ADMIN_TOKEN=ADMIN, SHIELD_ADMIN_URL=url, **env).status == 0


def test_a_reason_of_several_words_needs_quotes() -> None:
    """Without them the rest is taken for arguments, which is told with what to do."""
    ran = invoke("mode", "emergency", "--reason", "trying", "it", "out", SHIELD_ADMIN_TOKEN=ADMIN)
    assert (ran.status, ran.out) == (2, "")
    assert "unexpected arguments (it out): put quotes around a --reason of several words" in ran.err
    assert "quotes" not in invoke("mode", "normal", "now").err


def test_an_emergency_that_is_too_long_is_told_in_the_words_of_the_command() -> None:
    """Not in those of the API."""
    ran = invoke("mode", "emergency", "--for", "8d", SHIELD_ADMIN_TOKEN=ADMIN)
    assert ran.status == 2
    assert "'8d' is too long: 7d at most" in ran.err


def test_https_to_a_plain_port_is_told(url: str) -> None:
    """In place of OpenSSL's words alone."""
    told = mode(url.replace("http://", "https://"))
    assert (told.status, told.err.count("\n")) == (1, 1)
    assert "use http://" in told.err
