"""The options of `shieldmw serve` that granian carries out, each seen by what it does on a real socket."""

from __future__ import annotations

import os
import select
import signal
import socket
import ssl
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from e2e.clients import TIMEOUT_S
from servers import HOST, HttpServer, asgi_server, clean_environment, wait_until, write_certificates
from servers.places import on_free_port, own_directory
from servers.processes import end_group, spawn

SETTINGS = {"SHIELD_REDIS_URL": "memory://"}

HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


# --- heads and connections ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent", [b"", HEAD, HEAD + b"\r\n", HEAD + b"\r\n" + HEAD], ids=["nothing", "half", "idle", "half of the next"]
)
def test_a_head_that_does_not_end_is_dropped(sent: bytes, tmp_path: Path) -> None:
    """Slow headers hold no connection, nor does a client that says nothing at all, or nothing more."""
    args = ("--header-timeout", "0.5", "--http", "1")
    with asgi_server("shieldmw", "apps:app", env=SETTINGS, cwd=tmp_path, args=args) as server:
        with socket.create_connection((HOST, server.port), TIMEOUT_S) as connection:
            began_s = time.monotonic()
            connection.sendall(sent)
            while connection.recv(65_536):
                pass
        assert 0.4 < time.monotonic() - began_s < 5


def test_a_body_and_an_answer_may_take_longer(tmp_path: Path) -> None:
    """The time-out is for heads: an answer that takes three times as long comes, and the connection stays for it."""
    args = ("--header-timeout", "0.5")
    with (
        asgi_server("shieldmw", "apps:app", env=SETTINGS, cwd=tmp_path, args=args) as server,
        httpx.Client(timeout=TIMEOUT_S) as client,
    ):
        assert client.get(f"{server.base_url}/slow?ms=1500").text == "slow"


@pytest.mark.parametrize(("args", "kept"), [((), True), (("--no-keep-alive",), False)])
def test_keep_alive_can_be_turned_off(args: tuple[str, ...], kept: bool, tmp_path: Path) -> None:
    """Without it the server closes after one answer."""
    with (
        asgi_server("shieldmw", "apps:app", env=SETTINGS, cwd=tmp_path, args=args) as server,
        socket.create_connection((HOST, server.port), TIMEOUT_S) as connection,
    ):
        connection.sendall(HEAD + b"\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        readable, _, _ = select.select([connection], [], [], 0.5)
        assert bool(readable) is not kept
        assert kept or connection.recv(1) == b""


@pytest.mark.parametrize(("backlog", "least", "most"), [(128, 128, 140), (1024, 300, 300)])
def test_the_backlog_is_how_many_wait_to_be_accepted(backlog: int, least: int, most: int, tmp_path: Path) -> None:
    """While the worker stands still so many connections are made, and no more."""
    args = ("--backlog", str(backlog))
    with asgi_server("shieldmw", "apps:app", env=SETTINGS, cwd=tmp_path, args=args) as server, ExitStack() as stack:
        worker = int(httpx.get(f"{server.base_url}/pid").text)
        os.kill(worker, signal.SIGSTOP)
        stack.callback(os.kill, worker, signal.SIGCONT)
        connections = [stack.enter_context(socket.socket()) for _ in range(300)]
        for connection in connections:
            connection.setblocking(False)
            connection.connect_ex((HOST, server.port))
        wait_until(lambda: _connected(connections) >= least, 5, f"{least} connections")
        assert _connected(connections) <= most


def _connected(connections: list[socket.socket]) -> int:
    return len(select.select([], connections, [], 0)[1])


# --- where it listens -----------------------------------------------------------------------------


def test_a_unix_socket_has_its_permissions_and_goes_with_the_server(tmp_path: Path) -> None:
    """It serves there instead of on the port, with the given mode, and leaves no file behind."""
    args = ("--uds-permissions", "660")
    with asgi_server("shieldmw", "apps:app", env=SETTINGS, cwd=tmp_path, args=args, uds=True) as server:
        assert server.uds is not None
        assert _hello(server.uds) == "hello"
        assert stat.S_IMODE(server.uds.stat().st_mode) == 0o660
        assert f"on unix:{server.uds}" in server.log()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, server.port))
        assert server.terminate() == 0
        assert not server.uds.exists()


def test_a_socket_that_a_killed_server_left_behind_is_no_obstacle(tmp_path: Path) -> None:
    """The next one starts."""
    with own_directory() as folder:
        path = folder / "s"
        with socket.socket(socket.AF_UNIX) as killed:
            killed.bind(str(path))
        with _served(tmp_path, "--uds", str(path)):
            assert _hello(path) == "hello"


@contextmanager
def _served(folder: Path, *args: str) -> Iterator[HttpServer]:
    """A server that does not answer plain HTTP on its port, so its log tells when it serves."""

    def start(port: int) -> HttpServer:
        log = folder / f"{port}.log"
        listen = args if "--uds" in args else ("--port", str(port), *args)
        command = [sys.executable, "-m", "shieldmw", "serve", "apps:app", *listen]
        server = HttpServer(port, spawn(command, log, folder, clean_environment(SETTINGS)), log)
        wait_until(lambda: "Started worker-1" in server.log(), TIMEOUT_S, "the worker to start", server.log)
        return server

    server = on_free_port(start)
    try:
        yield server
    finally:
        end_group(server.process)


def _hello(path: Path) -> str:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), timeout=TIMEOUT_S) as client:
        return client.get("http://localhost/hello").text


# --- TLS and HTTP/2 -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate for loopback, and the authority that signed it."""
    folder = tmp_path_factory.mktemp("certificates")
    write_certificates(folder)
    return folder


def _tls(certificates: Path) -> tuple[str, ...]:
    return ("--tls-cert", str(certificates / "server.crt"), "--tls-key", str(certificates / "server.key"))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_is_served_to_old_and_new_clients(version: ssl.TLSVersion, certificates: Path, tmp_path: Path) -> None:
    """With a certificate and its key it is https, verified by the authority that signed it."""
    trusting = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
    trusting.minimum_version = trusting.maximum_version = version
    with _served(tmp_path, *_tls(certificates)) as server, httpx.Client(verify=trusting, timeout=TIMEOUT_S) as client:
        assert client.get(f"https://{HOST}:{server.port}/hello").text == "hello"
        assert f"on https://{HOST}:{server.port}" in server.log()


@pytest.mark.parametrize(("http", "spoken"), [("1", "HTTP/1.1"), ("auto", "HTTP/2"), ("2", "HTTP/2")])
def test_clients_speak_the_http_version_that_is_served(
    http: str, spoken: str, certificates: Path, tmp_path: Path
) -> None:
    """A client that offers both by ALPN gets what `--http` says."""
    trusting = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
    with (
        _served(tmp_path, "--http", http, *_tls(certificates)) as server,
        httpx.Client(verify=trusting, http2=True, timeout=TIMEOUT_S) as client,
    ):
        answer = client.get(f"https://{HOST}:{server.port}/hello")
        assert (answer.text, answer.http_version) == ("hello", spoken)


# --- the log --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "is_told"), [("info", True), ("warning", False)])
def test_the_log_level_is_that_of_server_and_shield(level: str, is_told: bool, tmp_path: Path) -> None:
    """What is below it is not written: neither of granian's start, nor of a refusal."""
    settings = {**SETTINGS, "SHIELD_IP_LIMIT": "1/hour"}
    with asgi_server("shieldmw", "apps:app", env=settings, cwd=tmp_path, args=("--log-level", level)) as server:
        statuses = [httpx.get(f"{server.base_url}/hello").status_code for _ in range(2)]
        assert server.terminate() == 0
        assert statuses == [200, 429]
        assert ("Spawning worker-1" in server.log()) is is_told
        assert ("refused quota" in server.log()) is is_told


# --- a dry run ----------------------------------------------------------------------------------------


def test_a_dry_run_says_at_its_start_and_of_evictions_that_nothing_happens(tmp_path: Path) -> None:
    """A guest's stream goes on in an emergency without seats for guests; the log says what would have been."""
    token = "an-admin-token-of-some-length"
    env = {"SHIELD_DRY_RUN": "true", "SHIELD_LIVE_PATHS": "/stream", "SHIELD_ADMIN_TOKEN": token, **SETTINGS}
    with asgi_server("shieldmw", "apps:app", env=env, cwd=tmp_path) as server:
        assert "shieldmw: SHIELD_DRY_RUN=true: nothing is refused" in server.log()
        with (
            httpx.Client(timeout=TIMEOUT_S) as client,
            client.stream("GET", f"{server.base_url}/stream?n=1000") as live,
        ):
            events = live.iter_lines()
            assert next(events)
            headers = {"authorization": f"Bearer {token}", "shield-actor": "a-test"}
            body = {"mode": "emergency"}
            with httpx.Client(timeout=TIMEOUT_S) as operator:
                answer = operator.put(f"{server.base_url}/-/shield/mode", headers=headers, json=body).json()
            assert answer["dry_run"] is True
            line = "1 live guest would have had to leave"
            wait_until(lambda: line in server.log(), TIMEOUT_S, "the line of the eviction", server.log)
            assert "guest had to leave" not in server.log()
            assert [next(events) for _ in range(3)], "the stream goes on"
