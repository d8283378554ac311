"""`shieldmw top` against a real server: what it prints, and that nothing a client wrote reaches the terminal raw."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from io import StringIO

import httpx
import pytest
from click.testing import CliRunner, Result
from rich.console import Console
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from cli.test_mode import ADMIN, VIEW, served
from shieldmw import Settings, ShieldMiddleware
from shieldmw.cli import main
from shieldmw.cli.top import _table, _totals


@pytest.fixture
def url() -> Iterator[str]:
    """A worker whose clients have asked for a few paths, and were refused the last of them."""
    app = Starlette(routes=[Route("/{path:path}", lambda request: PlainTextResponse("the app"))])
    settings = Settings(admin_token=ADMIN, view_token=VIEW, ip_limit="4/day", trusted_proxies="127.0.0.1")
    with served(ShieldMiddleware(app, settings)) as url:
        with httpx.Client(base_url=url, headers={"x-forwarded-for": "203.0.113.7"}) as client:
            for path in ("/feed", "/feed", "/feed", "/%1b[2J%e2%80%ae", "/login"):
                client.get(path, headers={"user-agent": "bot/1"})
        yield url


def top(url: str, *args: str, token: str | None = ADMIN, view: str | None = None) -> Result:
    """Run the command."""
    env = {"SHIELD_ADMIN_URL": url, "SHIELD_ADMIN_TOKEN": token, "SHIELD_VIEW_TOKEN": view, "SHIELD_ADMIN_PATH": None}
    return CliRunner().invoke(main, ["top", *args], env={**env, "COLUMNS": "100"}, prog_name="shieldmw")


def test_it_shows_the_mode_and_the_busiest(url: str) -> None:
    """Once, if the output is no terminal: each name with its requests and refusals."""
    ran = top(url)
    assert ran.exit_code == 0, ran.output
    lines = [line.split() for line in ran.stdout.splitlines()]
    assert ["now", "normal", "(never", "switched)"] in lines
    assert any(line[:3] == ["busy", "5", "requests"] and line[-3:] == ["1", "refused,", "20%"] for line in lines)
    without_rates = [[*words[:2], *words[3:]] for words in lines]
    assert ["203.0.113.7/32", "5", "1"] in without_rates
    assert ["203.0.113.0/24", "5", "1"] in without_rates
    assert ["/feed", "3", "0"] in without_rates
    assert ["/login", "1", "1"] in without_rates


def test_it_shows_how_many_there_are_a_second() -> None:
    """By the time that was counted; refusals are not counted by user agent, so that table does not name them."""
    busy = {"name": "x", "requests": 300, "requests_at_most": 300}
    path = {**busy, "refused": 30, "refused_at_most": 31}
    found = {"seconds": 60.0, "workers": 2, "requests": 600, "refused": 60}
    assert _totals(found) == "600 requests in 60 s (10.0 a second) on 2 workers, 60 refused, 10%"
    console = Console(width=100, record=True, file=StringIO())
    console.print(_table("Paths", [path], 60.0), _table("User agents", [busy], 60.0))
    shown = [line.split() for line in console.export_text().splitlines()]
    assert shown == [["Paths", "requests", "a", "second", "refused"], ["x", "300", "5.0", "30", "to", "31"],
                     ["User", "agents", "requests", "a", "second"], ["x", "300", "5.0"]]  # fmt: skip


def test_what_clients_wrote_is_inert(url: str) -> None:
    """A path may hold what controls a terminal."""
    ran = top(url)
    assert "\x1b" not in ran.stdout
    assert "\u202e" not in ran.stdout
    assert "/\\x1b[2J\\u202e" in ran.stdout


def test_the_count_bounds_each_table(url: str) -> None:
    """The first by requests, and the first by refusals, however few its requests are."""
    shown = top(url, "--count", "1").stdout
    assert "/feed" in shown
    assert "/login" in shown
    assert "2J" not in shown


def test_in_a_terminal_it_goes_on_until_it_is_interrupted() -> None:
    """Also while the server is away; and Ctrl-C is no error."""
    screens = b""
    with served(ShieldMiddleware(Starlette(), Settings(admin_token=ADMIN))) as url:
        process, ours = _in_a_terminal(url)
        screens += _until(ours, b"busy", 2)
    try:
        screens += _until(ours, b"cannot reach", 2)
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # the terminal is closed at the other end
            while True:
                screens += os.read(ours, 65_536)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert b"Traceback" not in screens


def _in_a_terminal(url: str) -> tuple[subprocess.Popen[bytes], int]:
    ours, theirs = pty.openpty()
    env = {**os.environ, "SHIELD_ADMIN_URL": url, "SHIELD_ADMIN_TOKEN": ADMIN, "TERM": "xterm", "COLUMNS": "100"}
    command = [sys.executable, "-m", "shieldmw", "top"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True)
    os.close(theirs)
    return process, ours


def _until(terminal: int, text: bytes, times: int) -> bytes:
    """What a terminal shows until it has shown a text so often."""
    shown = b""
    while shown.count(text) < times:
        assert select.select([terminal], [], [], 20)[0], shown
        shown += os.read(terminal, 65_536)
    return shown


def test_the_view_token_is_enough(url: str) -> None:
    """It shows clients in part."""
    ran = top(url, token=None, view=VIEW)
    assert ran.exit_code == 0, ran.output
    assert "203.0.x.x/32" in ran.stdout
    assert "203.0.113.7" not in ran.stdout


def test_a_server_that_is_not_there_is_one_line() -> None:
    """And the status is 1."""
    ran = top("http://127.0.0.1:1")
    assert ran.exit_code == 1
    assert ran.stderr.count("\n") == 1
    assert "cannot reach http://127.0.0.1:1/-/shield" in ran.stderr


@pytest.mark.parametrize("count", ["0", "51", "x"])
def test_a_wrong_count_is_told(count: str) -> None:
    """As wrong usage."""
    ran = top("http://127.0.0.1:1", "--count", count)
    assert ran.exit_code == 2
    assert count in ran.stderr
