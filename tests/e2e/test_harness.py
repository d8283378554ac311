"""Tests of the harness: what the other end-to-end tests assume about their servers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Subprotocol

import servers
from servers import (
    AsgiKind,
    ForwardedFor,
    HttpServer,
    NotReady,
    RedisKind,
    RedisServer,
    asgi_server,
    keys_without_ttl,
    nginx,
    redis_server,
    require,
    wait_until,
)
from servers.places import MOST_PORTS, on_free_port

ASGI_KINDS: list[AsgiKind] = ["uvicorn", "granian", "hypercorn", "shieldmw"]
GRACEFUL: list[AsgiKind] = ["uvicorn", "granian", "hypercorn"]


@pytest.fixture(scope="module", params=ASGI_KINDS)
def bare(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    """The bare app under each server."""
    with asgi_server(request.param, "apps:app", env={}, cwd=tmp_path_factory.mktemp("cwd")) as server:
        yield server


# --- ASGI servers ---------------------------------------------------------------------------------


def test_a_server_answers(bare: HttpServer) -> None:
    """A request over a real socket reaches the app."""
    answer = httpx.get(f"{bare.base_url}/hello")
    assert (answer.status_code, answer.text) == (200, "hello")


def test_a_websocket_echoes(bare: HttpServer) -> None:
    """Text, bytes, subprotocol and close code pass through."""
    with connect(f"{bare.ws_url}/ws", subprotocols=[Subprotocol("chat")]) as websocket:
        websocket.send("text")
        websocket.send(b"\x00bytes")
        assert (websocket.recv(5), websocket.recv(5)) == ("text", b"\x00bytes")
        assert websocket.subprotocol == "chat"
        websocket.send("close 4001")
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv(5)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as asked")


def test_events_stream(bare: HttpServer) -> None:
    """Server-sent events arrive while the endless answer is still under way."""
    with httpx.stream("GET", f"{bare.base_url}/sse") as answer:
        lines = answer.iter_lines()
        first = [next(lines) for _ in range(5)]
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert first == ["id: 0", "data: tick 0", "", "id: 1", "data: tick 1"]


def test_bodies_stream_both_ways(bare: HttpServer) -> None:
    """Chunked bodies come whole in both directions."""
    chunks = [bytes([number]) * 10_000 for number in range(20)]
    assert httpx.post(f"{bare.base_url}/echo", content=iter(chunks)).content == b"".join(chunks)
    assert httpx.get(f"{bare.base_url}/stream?n=3").text == "chunk 0\nchunk 1\nchunk 2\n"


def test_an_exception_in_the_app_is_a_500(bare: HttpServer) -> None:
    """The server outlives an app that raises, and its log tells."""
    assert httpx.get(f"{bare.base_url}/boom").status_code == 500
    wait_until(lambda: "boom" in bare.log(), 5, "the traceback", bare.log)
    assert httpx.get(f"{bare.base_url}/hello").status_code == 200


def test_lifespan_state_reaches_requests(bare: HttpServer) -> None:
    """Every server under test supports lifespan state."""
    worker = int(httpx.get(f"{bare.base_url}/pid").text)
    assert httpx.get(f"{bare.base_url}/state").json()["started_in"] == worker


@pytest.mark.parametrize("kind", GRACEFUL)
def test_the_bare_app_has_no_shield(kind: AsgiKind, tmp_path: Path) -> None:
    """Without the middleware /who answers null, so a test cannot mistake one app for the other."""
    with asgi_server(kind, "apps:app", env={}, cwd=tmp_path) as server:
        assert httpx.get(f"{server.base_url}/who").json() is None


@pytest.mark.parametrize("kind", GRACEFUL)
def test_several_workers_all_serve(kind: AsgiKind, tmp_path: Path) -> None:
    """With two workers, both have started the app before the first test request, and none is left behind."""
    with asgi_server(kind, "apps:app", env={}, cwd=tmp_path, workers=2) as server:
        started = [int(line.split()[-1]) for line in server.log().splitlines() if "app started in" in line]
    assert len(set(started)) == 2
    wait_until(lambda: not any(_lives(worker) for worker in started), 5, "the workers to end")


def _lives(pid: int) -> bool:
    """Whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("kind", GRACEFUL)
def test_terminate_runs_the_shutdown(kind: AsgiKind, tmp_path: Path) -> None:
    """SIGTERM ends a server politely: the app's shutdown runs and the exit code says so."""
    with asgi_server(kind, "apps:app", env={}, cwd=tmp_path) as server:
        # uvicorn ends by raising the signal again, so its code is that of the signal.
        assert server.terminate() == (-15 if kind == "uvicorn" else 0)
        assert "app ended in" in server.log()


def test_a_server_sees_no_foreign_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SHIELD_* of the caller are not inherited, those given are passed on."""
    monkeypatch.setenv("SHIELD_FOREIGN", "1")
    env = servers.clean_environment({"SHIELD_GIVEN": "1"})
    command = [sys.executable, "-c", "import os; print(*sorted(k for k in os.environ if 'SHIELD_' in k))"]
    seen = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, check=True, text=True).stdout
    assert seen.split() == ["SHIELD_GIVEN"]


@pytest.mark.parametrize(("args", "client"), [((), "127.0.0.1"), (("--proxy-headers",), "203.0.113.7")])
def test_uvicorn_trusts_no_proxy_headers_unless_asked(args: tuple[str, ...], client: str, tmp_path: Path) -> None:
    """By default the peer is the client; `--proxy-headers` in args wins over that."""
    with asgi_server("uvicorn", "apps:app", env={}, cwd=tmp_path, args=args) as server:
        httpx.get(f"{server.base_url}/hello", headers={"x-forwarded-for": "203.0.113.7"})
        wait_until(lambda: _client_of(server, "/hello") == client, 5, f"{client} in the log", server.log)


def _client_of(server: HttpServer, path: str) -> str | None:
    """The client that uvicorn's access log names for a path."""
    found = re.search(rf"(\S+):\d+ - \"GET {path} ", server.log())
    return found[1] if found else None


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The error carries the server's own words."""
    failing = asgi_server("uvicorn", "no_such_module:app", env={}, cwd=tmp_path)
    with pytest.raises(NotReady, match="no_such_module"), failing:
        pass


# --- Redis and Valkey -----------------------------------------------------------------------------


@pytest.fixture(params=["valkey", "redis"])
def own(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server of its own for a test that mistreats it."""
    with redis_server(request.param) as server:
        yield server


def test_both_addresses_answer(store: RedisServer) -> None:
    """PING is answered on the unix socket and on the TCP port, by the same server."""
    assert store.url.startswith("unix://")
    assert store.tcp_url.startswith("redis://127.0.0.1:")
    store.client(store.tcp_url).set("key", "value", ex=60)
    assert store.client(store.url).get("key") == b"value"


def test_a_restarted_server_is_empty(own: RedisServer) -> None:
    """A restart keeps the addresses and loses the data, and old clients connect anew."""
    client, before = own.client(), (own.url, own.tcp_url, own.pid)
    client.set("key", "value")
    own.restart()
    assert (own.url, own.tcp_url) == before[:2]
    assert own.pid != before[2]
    assert client.get("key") is None


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_a_server_that_is_down_refuses(own: RedisServer, way: str) -> None:
    """Stopped or killed, it answers nobody on either address until it is started again."""
    getattr(own, way)()
    for url in own.url, own.tcp_url:
        with pytest.raises(redis.ConnectionError):
            own.client(url).ping()
    own.ensure_running()
    assert own.client(own.tcp_url).ping()


def test_a_paused_server_hangs(own: RedisServer) -> None:
    """Paused, it lets clients wait until their time is up; resumed, it answers."""
    for url in own.url, own.tcp_url:
        client = own.client(url, timeout=0.2)
        client.ping()
        own.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        own.resume()
        assert client.ping()


def test_a_paused_server_can_be_stopped(own: RedisServer) -> None:
    """Stopping resumes first, so no test has to."""
    own.pause()
    began = time.monotonic()
    own.stop()
    assert time.monotonic() - began < 4


@pytest.mark.parametrize("kind", ["valkey", "redis"])
def test_configuration_reaches_the_server(kind: RedisKind) -> None:
    """Underscores stand for dashes, and a password is part of the URLs."""
    with redis_server(kind, maxmemory_policy="allkeys-lru", requirepass="p:/@ß") as server:
        client = server.client(server.tcp_url)
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}
        assert server.client().ping()
        with pytest.raises(redis.AuthenticationError):
            server.client(server.url.replace("://:p", "://:q")).ping()


def test_tls_is_verified() -> None:
    """The TLS port works with the authority made for it, and not without."""
    with redis_server("redis", tls=True) as server:
        assert server.client(server.tls_url).ping()
        with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
            server.client(server.tls_url.partition("?")[0]).ping()


def test_tls_needs_redis() -> None:
    """The Valkey of the wheel has no TLS, and the harness says so instead of hanging."""
    with pytest.raises(ValueError, match="kind 'redis'"), redis_server("valkey", tls=True):
        pass


# --- the store's fixtures -------------------------------------------------------------------------


def test_keys_without_a_ttl_are_found(own: RedisServer) -> None:
    """Exactly the keys that would stay for ever are named."""
    client = own.client()
    client.set("leaves", "1", ex=60)
    client.set("stays", "1")
    client.hset("stays too", "field", "1")
    assert keys_without_ttl(client) == ["stays", "stays too"]


def test_a_test_that_leaves_a_key_for_ever_fails(tmp_path: Path) -> None:
    """The autouse check reports such a key as an error of that test alone, and the next test starts empty."""
    shutil.copy(servers.APPS / "conftest.py", tmp_path)
    (tmp_path / "test_inner.py").write_text(
        "def test_bad(store): store.client().set('for ever', 1)\n"
        "def test_good(store): assert store.client().dbsize() == 0\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(tmp_path), str(tmp_path)]
    options = ["-p", "no:cacheprovider", "-o", f"pythonpath={servers.REPOSITORY / 'tests'}"]
    result = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "4 passed, 2 errors" in result.stdout, result.stdout
    assert "keys without a TTL: for ever" in result.stdout, result.stdout


def test_the_store_starts_empty_and_running(store: RedisServer) -> None:
    """Whatever the test before did; the next one relies on it."""
    assert store.client().dbsize() == 0
    store.client().set("key", 1, ex=60)
    store.kill()


# --- nginx ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forwarded_for", "seen"),
    [("append", "203.0.113.7, 127.0.0.1"), ("replace", "127.0.0.1"), ("pass", "203.0.113.7")],
)
def test_nginx_sets_the_forwarded_header(forwarded_for: ForwardedFor, seen: str, tmp_path: Path) -> None:
    """The upstream sees X-Forwarded-For as the test chose."""
    with (
        asgi_server("uvicorn", "apps:app", env={}, cwd=tmp_path) as upstream,
        nginx(upstream.base_url, forwarded_for=forwarded_for) as proxy,
    ):
        answer = httpx.get(f"{proxy.base_url}/headers", headers={"x-forwarded-for": "203.0.113.7"})
    assert answer.headers["server"].startswith("nginx")
    assert answer.json()["x-forwarded-for"] == [seen]


def test_nginx_passes_streams_and_websockets(tmp_path: Path) -> None:
    """Events arrive unbuffered, and a WebSocket is upgraded through the proxy; SIGTERM ends nginx cleanly."""
    with (
        asgi_server("uvicorn", "apps:app", env={}, cwd=tmp_path) as upstream,
        nginx(upstream.base_url) as proxy,
    ):
        with httpx.stream("GET", f"{proxy.base_url}/sse") as answer:
            assert next(answer.iter_lines()) == "id: 0"
        with connect(f"{proxy.ws_url}/ws") as websocket:
            websocket.send("through")
            assert websocket.recv(5) == "through"
        assert httpx.post(f"{proxy.base_url}/echo", content=b"x" * 500_000).content == b"x" * 500_000
        assert proxy.terminate() == 0


# --- waiting and binaries -------------------------------------------------------------------------


def test_waiting_returns_the_value() -> None:
    """The first truthy value ends the wait."""
    values = iter([0, None, "", "here"])
    assert wait_until(lambda: next(values), 5, "a value") == "here"


def test_waiting_in_vain_says_for_what() -> None:
    """The message has the time, what was waited for, the last value and the end of the log."""
    with pytest.raises(NotReady, match=r"(?s)after 0.05 s .* for the moon \(last: 0\).*end of the log.*dark"):
        wait_until(lambda: 0, 0.05, "the moon", lambda: "dark")


def test_a_taken_port_leads_to_another() -> None:
    """A clash leads to another port, but not for ever; any other failure is told at once."""
    tried: list[int] = []

    def start(port: int) -> int:
        """Succeed at the third port only."""
        tried.append(port)
        if len(tried) != 3:
            raise NotReady("bind: Address already in use")
        return port

    def broken(port: int) -> int:
        """Fail for another reason."""
        tried.append(port)
        raise NotReady("no such option")

    assert on_free_port(start) == tried[2]
    with pytest.raises(NotReady):
        on_free_port(start)
    assert len(tried) == 3 + MOST_PORTS
    with pytest.raises(NotReady):
        on_free_port(broken)
    assert len(tried) == 4 + MOST_PORTS


def test_a_missing_binary_skips_here_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be had is skipped on a developer's machine only."""
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-binary"):
        require("no-such-binary")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no-such-binary"):
        require("no-such-binary")
    assert require("sh").endswith("/sh")
