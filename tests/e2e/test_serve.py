"""`shieldmw serve` as operators see it: it starts, stops, crashes, restarts, and reports errors."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest

from e2e.clients import JWT_SECRET, TIMEOUT_S, ask, client, fresh_address, receive, token
from e2e.test_seats import Listener, run, until
from servers import APPS, HOST, HttpServer, asgi_server, clean_environment, free_port, redis_server, wait_until
from servers.http import ready
from servers.places import on_free_port, own_directory
from servers.processes import end_group, read, spawn

BURST = 20
SETTINGS = {
    "SHIELD_IP_LIMIT": "1/hour",
    "SHIELD_IP_BURST": str(BURST),
    "SHIELD_EXEMPT_PATHS": "/healthz,/pid",
    "SHIELD_REDIS_TIMEOUT_MS": "5000",
}
# For how long a busy machine may hold up a worker that starts.
HELD_UP_S = 3.5

CONSOLE_SCRIPT = str(Path(sysconfig.get_path("scripts"), "shieldmw"))


@pytest.fixture
def temporary() -> Iterator[Path]:
    """The folder for temporary files of the server under test, and of nobody else."""
    with own_directory() as folder:
        yield folder


# --- stopping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_lets_a_request_finish(workers: int, tmp_path: Path) -> None:
    """A request under way when SIGTERM comes is answered to its end, and the exit code is 0."""
    with asgi_server("shieldmw", "apps:app", env=SETTINGS, cwd=tmp_path, workers=workers) as server:
        with client(fresh_address()) as guest, guest.stream("GET", f"{server.base_url}/stream?n=50") as answer:
            came = answer.iter_lines()
            first = next(came)
            server.process.terminate()
            rest = list(came)
        assert [first, *rest] == [f"chunk {number}" for number in range(50)]
        assert server.process.wait(TIMEOUT_S) == 0
        assert server.log().count("app ended in") == workers


def test_sigterm_lets_a_request_finish_that_takes_seconds(tmp_path: Path) -> None:
    """What is under way is not cut, although a worker is signalled again and again until granian has heard it."""
    with asgi_server("shieldmw", "apps:app", env=SETTINGS, cwd=tmp_path) as server:
        with client(fresh_address()) as guest, guest.stream("GET", f"{server.base_url}/stream?n=150") as answer:
            came = answer.iter_lines()
            first = next(came)
            server.process.terminate()
            rest = list(came)
        assert [first, *rest] == [f"chunk {number}" for number in range(150)]
        assert server.process.wait(TIMEOUT_S) == 0


def test_idle_connections_do_not_hold_up_the_stop(tmp_path: Path) -> None:
    """A client that keeps its connection open without asking anything is not waited for."""
    with (
        asgi_server("shieldmw", "apps:app", env=SETTINGS, cwd=tmp_path) as server,
        closing(http.client.HTTPConnection(HOST, server.port, TIMEOUT_S)) as connection,
    ):
        connection.request("GET", "/healthz")
        assert receive(connection).status == 200
        server.process.terminate()
        assert server.process.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize("way", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["Starting granian", "Spawning worker-2"])
def test_it_can_be_stopped_while_it_starts(moment: str, way: signal.Signals, temporary: Path, tmp_path: Path) -> None:
    """Workers that do not serve yet end at once, not at the end of the drain, and nothing is left."""
    log, port = tmp_path / "log", free_port()
    command = [sys.executable, "-m", "shieldmw", "serve", "apps:app", "--port", str(port), "--workers", "2"]
    process = spawn(command, log, tmp_path, clean_environment({**SETTINGS, "TMPDIR": str(temporary)}))
    try:
        wait_until(lambda: moment in read(log), TIMEOUT_S, moment, lambda: read(log))
        process.send_signal(way)
        process.wait(TIMEOUT_S)
        wait_until(lambda: not _session(process.pid), 5, "all processes to end", lambda: str(_session(process.pid)))
        assert list(temporary.iterdir()) == []
    finally:
        end_group(process)


def test_a_stop_just_before_a_worker_listens_is_not_lost(tmp_path: Path) -> None:
    """uvloop keeps a signal that comes between two of its runs to itself until another one comes."""
    log, port, started = tmp_path / "log", free_port(), tmp_path / "started"
    command = [sys.executable, "-m", "shieldmw", "serve", "slow_to_listen:app", "--port", str(port)]
    environment = clean_environment({"SHIELD_REDIS_URL": "memory://", "START_FILE": str(started)})
    process = spawn(command, log, tmp_path, environment)
    try:
        wait_until(lambda: "about to listen" in read(log), TIMEOUT_S, "the app to start", lambda: read(log))
        process.terminate()
        stopping_s = time.monotonic()
        wait_until(lambda: time.monotonic() > stopping_s + HELD_UP_S, TIMEOUT_S, "the worker to be late")
        started.touch()
        assert process.wait(TIMEOUT_S) == 0
        assert "refused to gracefully stop" not in read(log)
    finally:
        end_group(process)


def test_ctrl_c_while_the_app_starts(tmp_path: Path) -> None:
    """Workers receive two signals then, that of the terminal and that of the main process, and stop as soon as the app
    has started, not at the end of the drain.
    """
    log, port, started = tmp_path / "log", free_port(), tmp_path / "started"
    command = [sys.executable, "-m", "shieldmw", "serve", "slow_to_start:app", "--port", str(port), "--workers", "2"]
    environment = clean_environment({"SHIELD_REDIS_URL": "memory://", "START_FILE": str(started)})
    process = spawn(command, log, tmp_path, environment)
    try:
        wait_until(lambda: read(log).count("app starts in") == 2, TIMEOUT_S, "both apps to start", lambda: read(log))
        os.killpg(process.pid, signal.SIGINT)
        wait_until(lambda: "Shutting down" in read(log), TIMEOUT_S, "the stop to begin", lambda: read(log))
        started.touch()
        assert process.wait(TIMEOUT_S) == 0
        assert "refused to gracefully stop" not in read(log)
    finally:
        end_group(process)


@pytest.mark.parametrize("loads", [1, 2], ids=["tried in a child", "in a worker"])
def test_ctrl_c_while_the_app_is_imported_shows_no_traceback(loads: int, tmp_path: Path) -> None:
    """Neither of the child process that tries the app nor of a worker."""
    log, port = tmp_path / "log", free_port()
    (tmp_path / "imports_long.py").write_text(
        # The file is closed before: an interrupt that comes while Python drops an object is lost.
        f"import sys, time\nwith open({str(log)!r}) as log:\n    earlier = log.read().count('app loads')\n"
        f"sys.stderr.write('app loads\\n')\nsys.stderr.flush()\n"
        f"if earlier + 1 == {loads}:\n    time.sleep({TIMEOUT_S})\n"
        "async def app(scope, receive, send): ...\n"
    )
    command = [sys.executable, "-m", "shieldmw", "serve", "imports_long:app", "--port", str(port)]
    process = spawn(command, log, tmp_path, clean_environment({"SHIELD_REDIS_URL": "memory://"}))
    try:
        wait_until(lambda: read(log).count("app loads") == loads, TIMEOUT_S, "the import", lambda: read(log))
        os.killpg(process.pid, signal.SIGINT)
        process.wait(TIMEOUT_S)
        assert "Traceback" not in read(log)
        assert "KeyboardInterrupt" not in read(log)
    finally:
        end_group(process)


@pytest.mark.parametrize("way", [signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_after_the_stop(way: signal.Signals, temporary: Path, tmp_path: Path) -> None:
    """Once stopped there is no process, not even the embedded server's, and no temporary file."""
    environment = {**SETTINGS, "TMPDIR": str(temporary)}
    with asgi_server("shieldmw", "apps:app", env=environment, cwd=tmp_path, workers=2) as server:
        session = server.process.pid
        assert "valkey" in " ".join(_session(session).values())
        assert list(temporary.iterdir())
        server.process.send_signal(way)
        assert server.process.wait(TIMEOUT_S) == 0
        # Python's resource tracker ends a moment after the process that it watches.
        wait_until(lambda: not _session(session), 5, "all processes to end", lambda: str(_session(session)))
        assert list(temporary.iterdir()) == []


def _session(session: int) -> dict[int, str]:
    """The live processes of a session, with their command lines."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _parent, _group, its_session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state != "Z":
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
    return found


# --- workers --------------------------------------------------------------------------------------


def test_workers_share_one_store(tmp_path: Path) -> None:
    """Without SHIELD_REDIS_URL all workers count in one embedded server: a client gets its burst exactly once."""
    address = fresh_address()
    with asgi_server("shieldmw", "apps:app", env=SETTINGS, cwd=tmp_path, workers=4) as server:
        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(lambda _: ask(server, address, "/hello").status, range(BURST * 6)))
            workers = {answer.body for answer in pool.map(lambda _: ask(server, address, "/pid"), range(60))}
        assert "store embedded://" in server.log()
    assert statuses.count(200) == BURST
    assert statuses.count(429) == BURST * 5
    assert len(workers) > 1, "one worker answered everything"


def test_a_killed_worker_comes_back_and_limits_hold(tmp_path: Path) -> None:
    """After kill -9 of a worker a new one serves, and refuses whom the old one had refused."""
    address = fresh_address()
    with asgi_server("shieldmw", "apps:app", env=SETTINGS, cwd=tmp_path, workers=2) as server:
        assert [ask(server, address, "/hello").status for _ in range(BURST + 1)] == [200] * BURST + [429]
        before = _started(server)
        os.kill(min(before), signal.SIGKILL)
        wait_until(lambda: _started(server) - before, TIMEOUT_S, "a new worker", server.log)
        (new,) = _started(server) - before
        wait_until(lambda: _status_from(server, new, address) == 429, TIMEOUT_S, "the new worker to refuse", server.log)
        assert ask(server, fresh_address(), "/hello").status == 200
        assert server.terminate() == 0


def _started(server: HttpServer) -> set[int]:
    """The workers that ever started the app."""
    return {int(pid) for pid in re.findall(r"app started in (\d+)", server.log())}


def _status_from(server: HttpServer, worker: int, address: str) -> int | None:
    """How a client is answered by one worker; None where another one took the connection."""
    with closing(http.client.HTTPConnection(HOST, server.port, TIMEOUT_S, (address, 0))) as connection:
        try:
            connection.request("GET", "/pid")
            if receive(connection).body != str(worker).encode():
                return None
        except (OSError, http.client.HTTPException):  # queued for the worker that was killed
            return None
        connection.request("GET", "/hello")
        return receive(connection).status


# --- starting, or saying why not ------------------------------------------------------------------


def _run(*arguments: str, env: Mapping[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shieldmw", *arguments]
    environment = clean_environment(env)
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False, timeout=60)


BAD_TARGETS = {
    "apps": "module:app",
    "apps:": "module:app",
    ":app": "module:app",
    "no_such_module:app": "no module 'no_such_module'",
    "apps:no_such_app": "no 'no_such_app'",
    "apps:PAUSE_S": "no ASGI app",
}


@pytest.mark.parametrize("target", BAD_TARGETS)
def test_a_bad_target_is_one_line(target: str, tmp_path: Path) -> None:
    """What is wrong with MODULE:APP is said in one line, with exit code 2."""
    result = _run("serve", target, "--port", str(free_port()), env=SETTINGS, cwd=tmp_path)
    _assert_one_line(result, 2, BAD_TARGETS[target])


BAD_SETTINGS = {
    "SHIELD_IP_LIMIT": ("plenty", "'plenty'"),
    "SHIELD_IP_LIMTI": ("5/minute", "SHIELD_IP_LIMIT"),
    "SHIELD_REDIS_URL": ("ftp://user:hidden-password@127.0.0.1/", "redis://"),
    "SHIELD_SECRET": ("hidden-password", "32"),
    "SHIELD_JWT_SECRET": ("hidden-password", "32"),
    "SHIELD_JWT_PUBLIC_KEY": ("/no/such/key.pem", "'/no/such/key.pem'"),
    "SHIELD_RULES": ("[{", "JSON"),
    "SHIELD_RULES_FILE": ("/no/such/rules.toml", "'/no/such/rules.toml'"),
    "SHIELD_TRUSTED_PROXIES": ("10.0.0.1/8", "10.0.0.0/8"),
}


@pytest.mark.parametrize("variable", BAD_SETTINGS)
def test_a_bad_setting_is_one_line(variable: str, tmp_path: Path) -> None:
    """A wrong variable is named in one line that says what would be right and shows no secret; exit code 2."""
    value, told = BAD_SETTINGS[variable]
    result = _run("serve", "apps:app", "--port", str(free_port()), env={variable: value}, cwd=tmp_path)
    _assert_one_line(result, 2, told)
    assert variable in result.stderr
    assert "hidden-password" not in result.stderr


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    """A port that somebody else listens on is said in one line, with exit code 1."""
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        result = _run("serve", "apps:app", "--port", str(port), env=SETTINGS, cwd=tmp_path)
    _assert_one_line(result, 1, f"{HOST}:{port}")


def test_a_host_that_is_not_ours_is_one_line(tmp_path: Path) -> None:
    """An address that this machine does not have is said in one line, with exit code 1."""
    result = _run("serve", "apps:app", "--host", "192.0.2.1", env=SETTINGS, cwd=tmp_path)
    _assert_one_line(result, 1, "192.0.2.1:8000")


def _assert_one_line(result: subprocess.CompletedProcess[str], status: int, told: str) -> None:
    assert result.returncode == status, result.stderr
    assert told in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stdout == ""


def test_several_bad_settings_are_a_line_each(tmp_path: Path) -> None:
    """Every wrong variable is named at once, not one after the other."""
    wrong = {"SHIELD_IP_LIMIT": "x", "SHIELD_TOKEN_LIMIT": "y", "SHIELD_NONSENSE": "1"}
    lines = _run("serve", "apps:app", env=wrong, cwd=tmp_path).stderr.splitlines()
    assert len(lines) == len(wrong)
    assert all(any(variable in line for line in lines) for variable in wrong)


# --- both ways to call it -------------------------------------------------------------------------


@pytest.mark.parametrize("command", [[sys.executable, "-m", "shieldmw"], [CONSOLE_SCRIPT]], ids=["module", "script"])
def test_both_ways_serve_an_app_of_the_current_folder(command: list[str], tmp_path: Path) -> None:
    """`python -m shieldmw` and the script `shieldmw` find app.py in the folder they are called in, and limit it."""
    (tmp_path / "app.py").write_text((APPS / "apps.py").read_text("utf-8"), "utf-8")
    environment = clean_environment(SETTINGS)
    del environment["PYTHONPATH"]

    def start(port: int) -> HttpServer:
        log = tmp_path / f"{port}.log"
        process = spawn([*command, "serve", "app:app", "--port", str(port)], log, tmp_path, environment)
        return ready(HttpServer(port, process, log), "shieldmw serve", "/healthz")

    server = on_free_port(start)
    try:
        address = fresh_address()
        assert [ask(server, address, "/hello").status for _ in range(BURST + 1)] == [200] * BURST + [429]
    finally:
        end_group(server.process)


# --- secrets --------------------------------------------------------------------------------------


def test_the_log_holds_no_secret(tmp_path: Path) -> None:
    """Neither settings nor credentials reach the log: not at the start, nor in refusals, nor when the store fails."""
    secret, password = "a secret of 32 characters or more", "redis-password"
    good, forged = token("ada"), "shk_forged-key"
    secrets = (secret, JWT_SECRET, password, *good.split("."), forged)
    with redis_server("redis", requirepass=password) as store:
        environment = {
            **SETTINGS,
            "SHIELD_REDIS_URL": store.tcp_url,
            "SHIELD_REDIS_TIMEOUT_MS": "500",
            "SHIELD_TOKEN_LIMIT": "2/hour",
            "SHIELD_SECRET": secret,
            "SHIELD_JWT_SECRET": JWT_SECRET,
            "SHIELD_TOKEN_QUERY": "token",
            "SHIELD_TOKEN_COOKIE": "session",
        }
        with asgi_server("shieldmw", "apps:app", env=environment, cwd=tmp_path) as server:
            _use_credentials(server, good, forged)
            store.kill()
            _use_credentials(server, good, forged)
            wait_until(lambda: "refused quota" in server.log(), TIMEOUT_S, "a refusal in the log", server.log)
            log = server.log()
    assert "***@" in log, "the store's URL is in the log, without its password"
    assert [secret for secret in secrets if secret in log] == []


def _use_credentials(server: HttpServer, good: str, forged: str) -> None:
    """Show credentials in every place, until they are refused, and once to an app that raises."""
    for shown in good, forged, f"{good}x":
        address = fresh_address()
        for _ in range(3):
            ask(server, address, "/who", [("Authorization", f"Bearer {shown}")])
            ask(server, address, "/who", [("Cookie", f"session={shown}")])
            ask(server, address, f"/who?token={shown}")
        ask(server, fresh_address(), f"/boom?token={shown}", [("Cookie", f"session={shown}")])


# --- killed ---------------------------------------------------------------------------------------


def test_nothing_outlives_a_main_process_that_is_killed(temporary: Path, tmp_path: Path) -> None:
    """After kill -9, as for want of memory, listeners hear of the end, the workers and the embedded server end too,
    and another one can listen there.
    """
    environment = {"SHIELD_LIVE_PATHS": "/live/*", "TMPDIR": str(temporary)}
    with asgi_server("shieldmw", "live_app:app", env=environment, cwd=tmp_path, workers=2) as server:
        session = server.process.pid

        async def killed() -> str:
            listener = Listener()
            assert await listener.ask(server)
            await until(lambda: listener.heard, TIMEOUT_S, "an event")
            server.process.kill()
            await until(lambda: listener.left_s, TIMEOUT_S, "the goodbye")
            return listener.heard

        heard = run(killed())
        assert "event: shed" in heard
        wait_until(lambda: not _session(session), TIMEOUT_S, "all processes to end", lambda: str(_session(session)))
        assert list(temporary.iterdir()) == []
        with socket.create_server((HOST, server.port)):
            pass


def test_an_app_that_has_the_middleware_is_shielded_once(tmp_path: Path) -> None:
    """A client has its whole burst, and the log says so once in each worker."""
    address = fresh_address()
    with asgi_server("shieldmw", "shielded_app:shielded", env=SETTINGS, cwd=tmp_path) as server:
        answers = [ask(server, address, "/hello") for _ in range(BURST + 1)]
        assert server.log().count("the inner one steps aside") == 1
    assert [answer.status for answer in answers] == [200] * BURST + [429]
