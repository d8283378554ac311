"""A served process is started, waited for and stopped, and every failure is reported."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import sysconfig
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from servers import wait_until
from shieldmw.rehearsal.load import server as server_module
from shieldmw.rehearsal.load.server import Server, ServerNotReady, environment, free_port, serving

WEB = """
import http.server, signal, subprocess, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
def leave(*_):
    sys.exit({status})
signal.signal(signal.SIGTERM, {on_term})
{more}
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
POLITE = WEB.format(status=0, on_term="leave", more="")
ROUGH = WEB.format(status=4, on_term="leave", more="")
DEAF = WEB.format(status=0, on_term="signal.SIG_IGN", more="")
PARENT = WEB.format(
    status=0,
    on_term="leave",
    more="subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])",
)


async def ready(server: Server, url: str) -> None:
    await server.ready(url, 20, lambda _passed: None)


def with_server(script: str, use: Callable[[Server, str], Awaitable[None]]) -> None:
    async def run() -> None:
        port = free_port("127.0.0.1")
        async with serving([sys.executable, "-c", script, str(port)], Path.cwd(), os.environ) as server:
            await use(server, f"http://127.0.0.1:{port}/healthz")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("script", "wrong"),
    [
        (POLITE, None),
        (ROUGH, "it ended with status 4 after SIGTERM"),
        (DEAF, "it did not end within 0.5 s of SIGTERM and was killed"),
        (PARENT, "it left a process behind, which was killed"),
    ],
    ids=["polite", "rough", "deaf", "parent"],
)
def test_stopping_says_whether_it_was_clean(script: str, wrong: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that ends with 0 and leaves nothing behind stopped cleanly; any other does not, and is gone too."""
    monkeypatch.setattr(server_module, "_CHILDREN_END_WITHIN_S", 0.3)

    async def use(server: Server, url: str) -> None:
        await ready(server, url)
        assert server.running
        assert await server.stop(within_s=0.5 if script is DEAF else 10) == wrong
        assert not server.running
        assert await server.stop() is not None, "a second stop is no clean stop"

    with_server(script, use)


def test_a_server_that_nobody_stopped_is_stopped_in_the_end() -> None:
    """Leaving the block ends the process, whatever happened inside."""
    servers: list[Server] = []

    async def use(server: Server, url: str) -> None:
        servers.append(server)
        await ready(server, url)
        raise LookupError

    with pytest.raises(LookupError):
        with_server(POLITE, use)
    assert not servers[0].running


def test_a_server_that_ends_at_once_shows_its_last_lines() -> None:
    """The message says with which status it ended, and what it wrote last."""
    script = "import sys; print('first'); print('SHIELD_X: not known', file=sys.stderr); sys.exit(2)"
    with pytest.raises(ServerNotReady, match=r"(?s)ended with status 2.*SHIELD_X: not known"):
        with_server(script, ready)


def test_what_it_warned_of_is_found_among_its_lines() -> None:
    """However much it wrote since: the lines that a mark is in, the last of them."""
    lines = ["WARNING the store is away", "WARNING the store answers again", *["INFO"] * 100]
    script = f"import sys; print(*{lines}, sep='\\n', file=sys.stderr)\n{POLITE}"

    async def use(server: Server, url: str) -> None:
        await ready(server, url)
        assert server.last_lines(1, "WARNING", "ERROR") == "WARNING the store answers again"
        assert len(server.last_lines(20, "WARNING", "ERROR").splitlines()) == 2
        assert server.last_lines(20, "ERROR") == ""

    with_server(script, use)


def test_a_server_that_never_answers_is_given_up() -> None:
    """Waiting has an end, and meanwhile tells how long it has lasted."""
    passed: list[float] = []

    async def use(server: Server, url: str) -> None:
        await server.ready(url, 0.3, passed.append)

    with pytest.raises(ServerNotReady, match=r"(?s)did not answer .*/healthz within 0.3 s.*\(nothing\)"):
        with_server("import time; time.sleep(60)", use)
    assert passed == sorted(passed)
    assert passed


def test_no_inherited_setting_reaches_the_server() -> None:
    """Only the settings given count; everything else of the environment is passed on."""
    inherited = {"SHIELD_DRY_RUN": "true", "SHIELD_TYPO": "1", "PATH": "/bin", "HOME": "/home/a"}
    environ = environment(inherited, {"SHIELD_IP_LIMIT": "5/second"})
    assert {name for name in environ if name.startswith("SHIELD_")} == {"SHIELD_IP_LIMIT"}
    assert (environ["PATH"], environ["HOME"]) == ("/bin", "/home/a")


def test_the_server_runs_the_same_package_though_in_another_folder() -> None:
    """Relative entries of PYTHONPATH are made absolute; an uninstalled package's folder is put in front."""
    home = Path(server_module.__file__).resolve().parents[2]
    paths = environment({"PYTHONPATH": f"some/where{os.pathsep}"}, {})["PYTHONPATH"].split(os.pathsep)
    assert str(Path.cwd() / "some/where") in paths
    if str(home) not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        assert paths[0] == str(home)


KILLED = """
import asyncio, os, sys
from pathlib import Path
from shieldmw.rehearsal.load.server import serving
async def run():
    async with serving([sys.executable, "-c", "import time; time.sleep(60)"], Path.cwd(), os.environ) as server:
        print(server._process.pid, flush=True)
        await server.ended()
asyncio.run(run())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process does not hear of its parent's death")
def test_a_server_ends_with_a_drill_that_is_killed() -> None:
    """After kill -9 of the drill nobody would stop it."""
    command = [sys.executable, "-c", KILLED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(os.environ, {})) as drill:
        assert drill.stdout is not None
        served = Path("/proc", drill.stdout.readline().decode().strip(), "stat")
        drill.kill()

    def ended() -> bool:
        with suppress(FileNotFoundError):
            return ") Z" in served.read_text()
        return True

    wait_until(ended, 10, "the server to end")
