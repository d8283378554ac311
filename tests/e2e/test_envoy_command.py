"""`shieldmw envoy` as a process: where it listens, what it says, who may connect, and how it ends."""

from __future__ import annotations

import signal
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import httpx
import pytest

from cli.commands import invoke
from doors.envoy.wire import DATA, GOAWAY, PING, START, Client, Reply, call, frames_in, message, raw
from e2e.clients import ask, fresh_address
from e2e.test_envoy import config, upstream
from servers import HOST, HttpServer, clean_environment, envoy, envoy_shield, free_port, redis_server, wait_until
from servers.places import own_directory
from servers.processes import end_group, read, spawn
from shieldmw.doors.envoy.protos.health_pb2 import HealthCheckResponse
from shieldmw.doors.envoy.protos.rate_limit_pb2 import RateLimitRequest

WAIT_S = 20.0
LIMIT = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
HEALTH = "/grpc.health.v1.Health/Check"
NOT_SERVING = HealthCheckResponse(status=HealthCheckResponse.NOT_SERVING).SerializeToString()
SERVING = HealthCheckResponse(status=HealthCheckResponse.SERVING).SerializeToString()


@contextmanager
def connected(where: int | Path) -> Iterator[socket.socket]:
    """A connection to a port or a unix socket."""
    with socket.socket(socket.AF_INET if isinstance(where, int) else socket.AF_UNIX) as connection:
        connection.settimeout(WAIT_S)
        connection.connect((HOST, where) if isinstance(where, int) else str(where))
        yield connection


def health(connection: socket.socket) -> Reply:
    """The answer to a health check."""
    client = Client()
    stream = client.ask(b"", HEALTH)
    connection.sendall(client.take_out())
    while not (stream in client.replies and client.replies[stream].ended):
        data = connection.recv(65_536)
        assert data, "the connection has ended"
        client.receive(data)
    return client.replies[stream]


def is_healthy(where: int | Path) -> bool:
    with connected(where) as connection:
        return health(connection).message[5:] == SERVING


def test_it_says_where_it_listens_and_is_healthy() -> None:
    """With its store, secrets masked; a health check needs no settings."""
    with redis_server("valkey") as store, envoy_shield({"SHIELD_REDIS_URL": store.tcp_url}) as shield:
        assert f"shieldmw: gRPC for Envoy on {HOST}:{shield.port}, store redis://{HOST}:{store.port}" in shield.log()
        assert is_healthy(shield.port)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(number: signal.Signals) -> None:
    """Clients and health checks are told, one that acknowledges is let go at once, and the exit status is 0."""
    with envoy_shield({}) as shield, connected(shield.port) as connection:
        connection.sendall(START)
        connection.recv(65_536)
        shield.process.send_signal(number)
        data = b""
        while not any(kind == PING and not flags for kind, flags, *_ in frames_in(data)):
            data += connection.recv(65_536)
        assert next(frames_in(data))[0] == GOAWAY or GOAWAY in [kind for kind, *_ in frames_in(data)]
        with pytest.raises(ConnectionRefusedError), connected(shield.port):
            """Nobody else may come in."""
        connection.sendall(call(1, b"", HEALTH))
        data = b""
        while not any(kind == DATA for kind, *_ in frames_in(data)):
            data += connection.recv(65_536)
        assert next(payload for kind, _, _, payload in frames_in(data) if kind == DATA) == message(NOT_SERVING)
        connection.sendall(raw(PING, 1, 0, bytes(8)))
        while connection.recv(65_536):
            """Until the connection ends."""
        assert shield.process.wait(WAIT_S) == 0
        assert "Traceback" not in shield.log()


def test_a_client_that_does_not_go_does_not_hold_it_up() -> None:
    """Its connection is closed after some seconds."""
    with envoy_shield({}) as shield, connected(shield.port) as connection:
        connection.sendall(START)
        connection.recv(65_536)
        assert shield.terminate() == 0


def test_a_unix_socket_is_for_its_own_user() -> None:
    """Nobody else may connect; what a killed process left behind is replaced."""
    with own_directory() as folder:
        path, log = folder / "s", folder / "log"
        path.touch()
        path.unlink()
        for _ in range(2):
            command = [sys.executable, "-m", "shieldmw", "envoy", "--listen", f"unix:{path}"]
            process = spawn(command, log, folder, clean_environment({}))
            try:
                wait_until(lambda: "gRPC for Envoy on unix:" in read(log), WAIT_S, "it to listen", lambda: read(log))
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
                assert is_healthy(path)
            finally:
                process.kill()
                end_group(process)
            log.unlink()


def test_garbage_hurts_nobody_else() -> None:
    """Random bytes, HTTP/1 and a half-open connection beside a client that is answered."""
    with envoy_shield({}) as shield, connected(shield.port) as half:
        half.sendall(START[:10])
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" * 99, START + b"\xff" * 4096, START + raw(9, 0, 1)):
            with connected(shield.port) as connection:
                connection.sendall(garbage)
                while connection.recv(65_536):
                    """Until the connection ends."""
        assert is_healthy(shield.port)
        assert "shieldmw.doors.envoy.server gRPC: not HTTP/2 without TLS: 1; the last from 127.0.0.1:" in shield.log()


def test_while_one_of_two_is_gone_the_other_answers() -> None:
    """Stopped, started again, and the other killed: Envoy, which refuses without an answer, refuses nobody."""
    with upstream() as app, redis_server("valkey") as store, ExitStack() as stack:
        env = {"SHIELD_REDIS_URL": store.tcp_url, "SHIELD_IP_LIMIT": "off", "SHIELD_REDIS_TIMEOUT_MS": "5000"}
        first, second = (stack.enter_context(envoy_shield(env)) for _ in range(2))
        proxy = stack.enter_context(envoy(config("envoy.yaml", app, first.port, second.port), concurrency=2))
        statuses: list[int] = []
        done, address = Event(), fresh_address()

        def clients() -> None:
            while not done.is_set():
                statuses.append(ask(proxy, address, "/").status)

        threads = [Thread(target=clients) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            _more(statuses, 50)
            assert first.terminate() == 0
            _more(statuses, 50)
            stack.enter_context(envoy_shield(env, port=first.port))
            _more(statuses, 50)
            healthy = "cluster.shield.membership_healthy"
            wait_until(lambda: proxy.counter(healthy) == 2, WAIT_S, "both to be healthy")
            second.kill()
            _more(statuses, 50)
        finally:
            done.set()
            for thread in threads:
                thread.join()
    assert {status: statuses.count(status) for status in set(statuses)} == {200: len(statuses)}


def _more(statuses: list[int], count: int) -> None:
    """Wait for so many more answers."""
    until = len(statuses) + count
    wait_until(lambda: len(statuses) >= until, WAIT_S, f"{count} more answers")


# --- mistakes and warnings ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listen", "status", "said"),
    [
        ("9001", 2, "'9001' is no address"),
        ("127.0.0.1:0", 2, "is no address"),
        ("unix:", 2, "is no path for a unix socket"),
        ("unix:/no/such/folder/s", 1, "there is no folder /no/such/folder"),
        ("no-such-host.invalid:9001", 1, "cannot listen on no-such-host.invalid:9001"),
    ],
)
def test_a_wrong_address_is_said(listen: str, status: int, said: str) -> None:
    """In one line, before anything is started."""
    ran = invoke("envoy", "--listen", listen)
    assert ran.status == status
    assert said in ran.err
    assert "Traceback" not in ran.err


def test_a_port_that_is_taken_is_said() -> None:
    """With its address."""
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        ran = invoke("envoy", "--listen", f"{HOST}:{port}")
    assert (ran.status, f"cannot listen on {HOST}:{port}" in ran.err) == (1, True)


def test_wrong_settings_are_said() -> None:
    """As by all commands: status 2."""
    ran = invoke("envoy", SHIELD_IP_LIMIT="nonsense")
    assert (ran.status, "SHIELD_IP_LIMIT" in ran.err) == (2, True)


def test_what_others_can_reach_is_warned_of() -> None:
    """Anyone who connects could name any client; and a dry run is said."""
    with own_directory() as folder:
        log, port = folder / "log", free_port()
        command = [sys.executable, "-m", "shieldmw", "envoy", "--listen", f"0.0.0.0:{port}"]
        server = HttpServer(port, spawn(command, log, folder, clean_environment({"SHIELD_DRY_RUN": "true"})), log)
        try:
            wait_until(lambda: "gRPC for Envoy on" in server.log(), WAIT_S, "it to listen", server.log)
            assert f"warning: --listen 0.0.0.0:{port} can be reached from other machines" in server.log()
            assert "SHIELD_DRY_RUN=true: nothing is refused" in server.log()
        finally:
            end_group(server.process)


RULES = '[{"name": "search", "path": "/search", "limits": "2/hour"}]'
TOKEN = "an-admin-token-of-some-length"


def limited(connection: socket.socket) -> None:
    """Ask the rate limit service once about the rule, and wait for the answer."""
    request = RateLimitRequest(domain="web")
    request.descriptors.add().entries.add(key="generic_key", value="search")
    client = Client()
    stream = client.ask(request.SerializeToString(), LIMIT)
    connection.sendall(client.take_out())
    while not (stream in client.replies and client.replies[stream].ended):
        data = connection.recv(65_536)
        assert data, "the connection has ended"
        client.receive(data)


def test_its_metrics_are_served_to_operators() -> None:
    """On a listener of their own, as with `shieldmw serve`: each answer is counted."""
    operators = f"{HOST}:{free_port()}"
    with redis_server("valkey") as store:
        env = {"SHIELD_REDIS_URL": store.tcp_url, "SHIELD_ADMIN_TOKEN": TOKEN, "SHIELD_RULES": RULES}
        with envoy_shield(env, args=("--admin", operators)) as shield:
            for _ in range(3):
                with connected(shield.port) as connection:
                    limited(connection)

            def metrics() -> str:
                with suppress(httpx.TransportError):
                    token = {"authorization": f"Bearer {TOKEN}"}
                    return httpx.get(f"http://{operators}/-/shield/metrics", headers=token).text
                return ""

            line = 'shield_decisions_total{class="guest",outcome="%s",reason="%s",worker="0"} %s.0'
            wait_until(lambda: line % ("refused", "quota", 1) in metrics(), WAIT_S, "the metrics", shield.log)
            assert line % ("allowed", "within_limits", 2) in metrics()


@pytest.mark.parametrize(
    ("env", "line"),
    [
        ({}, "--admin needs a store that it shares with this process: set SHIELD_REDIS_URL to a Redis"),
        ({"SHIELD_REDIS_URL": "redis://127.0.0.1:1"}, "SHIELD_ADMIN_TOKEN: unset, so there are no admin routes"),
    ],
)
def test_admin_routes_that_cannot_be_served_are_told(env: dict[str, str], line: str) -> None:
    """In one line that says what would be right."""
    where = ("--listen", f"{HOST}:{free_port()}", "--admin", f"{HOST}:{free_port()}")
    ran = invoke("envoy", *where, **{"SHIELD_REDIS_URL": "embedded://", **env})
    assert ran.status == 2
    assert line in " ".join(ran.printed.split())
