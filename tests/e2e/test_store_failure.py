"""Redis failures of every kind: no answer is a 5xx, none is late for long, and afterwards the limits hold again.

Every server here is a real one. Times are bounded generously, since the machine may be busy; what shows that the
breaker keeps requests off the store is the number of calls that reach it.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from e2e.clients import fresh_address
from servers import HOST, AsgiKind, HttpServer, RedisKind, RedisServer, asgi_server, redis_server, wait_until

BURST = 10
LIMITS = {"SHIELD_IP_LIMIT": "10/day"}
MODES = ["local", "open", "closed"]

BUDGET_S = 0.05

# A request that waits for the store beyond its budget waits for 5 s (redis-py) or for ever.
SLOWEST_S = 2.0

# Five failures open the breaker; requests under way at that moment fail too, and here there is one at a time.
FAILURES_IN_A_ROW = 5

PATIENCE_S = 15.0


@pytest.fixture(params=["valkey", "redis"])
def own(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server of its own, since these tests mistreat it."""
    kind: RedisKind = request.param
    with redis_server(kind) as server:
        yield server


@contextmanager
def shielded(url: str, tmp_path: Path, mode: str, kind: AsgiKind = "uvicorn", **more: str) -> Iterator[HttpServer]:
    """The app inside the shield, one worker, its store at a URL."""
    env = {"SHIELD_REDIS_URL": url, "SHIELD_ON_REDIS_FAILURE": mode, **LIMITS, **more}
    with asgi_server(kind, "shielded_app:shielded", env=env, cwd=tmp_path) as server:
        yield server


@dataclass(frozen=True)
class Answer:
    """One answer and how long it took."""

    response: httpx.Response
    seconds: float

    @property
    def status(self) -> int:
        """Its status."""
        return self.response.status_code

    @property
    def by_closed(self) -> bool:
        """Whether it was refused because there is no store, rather than by a limit."""
        return self.status == 429 and self.response.json()["type"].endswith("#temporary-reduced-capacity")

    @property
    def by_limit(self) -> bool:
        """Whether a limit refused it."""
        return self.status == 429 and self.response.json()["type"].endswith("#quota-exceeded")


class Visitor:
    """A guest that asks for one thing, one request at a time, and insists on answers that are never 5xx."""

    def __init__(self, client: httpx.Client, server: HttpServer) -> None:
        self._client = client
        self._url = f"{server.base_url}/echo"
        self._server = server

    def ask(self) -> Answer:
        """One answer: the app's own word for word, or a 429."""
        began = time.monotonic()
        response = self._client.post(self._url, content=b"untouched")
        answer = Answer(response, time.monotonic() - began)
        assert answer.status in (200, 429), f"{answer.status}\n{self._server.log()[-2000:]}"
        if answer.status == 200:
            assert response.content == b"untouched"
            assert response.headers["content-type"] == "application/octet-stream"
        assert answer.seconds < SLOWEST_S
        return answer

    def ask_often(self, times: int) -> list[Answer]:
        """The answers to ``times`` requests."""
        return [self.ask() for _ in range(times)]


@contextmanager
def visiting(server: HttpServer, address: str = HOST) -> Iterator[Visitor]:
    """A visitor on a keep-alive connection, from an address of this machine."""
    with httpx.Client(timeout=30, transport=httpx.HTTPTransport(local_address=address)) as client:
        yield Visitor(client, server)


def expect(mode: str, answers: list[Answer], left: int) -> None:
    """What a mode promises while the store is away, to one who had so many units left."""
    if mode == "local":
        assert [answer.status for answer in answers] == [200] * left + [429] * (len(answers) - left)
        assert all(answer.by_limit for answer in answers[left:])
    elif mode == "open":
        assert all(answer.status == 200 for answer in answers)
        assert not any("ratelimit" in answer.response.headers for answer in answers)
    else:
        assert all(answer.by_closed for answer in answers)
        assert all(int(answer.response.headers["retry-after"]) >= 1 for answer in answers)
        assert all(answer.response.headers["cache-control"] == "no-store" for answer in answers)


def shared_limit_is_back(visitor: Visitor, own: RedisServer, *holds: int) -> None:
    """The bucket in the store decides again: it is charged there, holds what it should, and then refuses.

    Less than a burst where the worker charged what it had admitted without the store, but for the request that
    finds the store back.
    """
    client = own.client()

    def charged() -> bool:
        visitor.ask()
        return any(bytes(key).endswith(b":ip") for key in client.scan_iter())

    wait_until(charged, PATIENCE_S, "the first charge in the store")
    passed = 1 + sum(answer.status == 200 for answer in visitor.ask_often(BURST))
    assert passed in holds
    assert visitor.ask().by_limit
    client.flushall()
    # What the worker remembers of the refusal is forgotten once it hears that the store has lost its data.
    wait_until(lambda: visitor.ask().status == 200, PATIENCE_S, "the bucket that the store has lost")
    assert [answer.status for answer in visitor.ask_often(BURST)] == [200] * (BURST - 1) + [429]


# --- away from the start --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_worker_starts_without_its_store(own: RedisServer, tmp_path: Path, mode: str) -> None:
    """It serves at once, as the mode says, and joins the store when that comes."""
    own.kill()
    with shielded(own.url, tmp_path, mode) as server, visiting(server) as visitor:
        expect(mode, visitor.ask_often(BURST + 5), BURST)
        own.start()
        shared_limit_is_back(visitor, own, 1 if mode == "local" else BURST)


@pytest.mark.parametrize("kind", ["granian", "hypercorn", "shieldmw"])
def test_every_server_starts_without_its_store(tmp_path: Path, kind: AsgiKind) -> None:
    """Not only uvicorn: nobody listens at the store's address, and the app is served with local buckets."""
    target = "apps:app" if kind == "shieldmw" else "shielded_app:shielded"
    env = {"SHIELD_REDIS_URL": "unix:///nonexistent/redis.sock", **LIMITS}
    with asgi_server(kind, target, env=env, cwd=tmp_path) as server, visiting(server) as visitor:
        expect("local", visitor.ask_often(BURST + 5), BURST)


def test_a_worker_starts_with_a_store_that_hangs(own: RedisServer, tmp_path: Path) -> None:
    """A store that accepts connections and says nothing delays the start by about a second, no more."""
    own.pause()
    with shielded(own.url, tmp_path, "local") as server, visiting(server) as visitor:
        expect("local", visitor.ask_often(BURST + 5), BURST)
        own.resume()
        shared_limit_is_back(visitor, own, 1)


# --- away in the middle of traffic ----------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_killed_store(own: RedisServer, tmp_path: Path, mode: str) -> None:
    """Killed between two requests: the next is as the mode says, and `local` has not forgotten what was spent."""
    with shielded(own.url, tmp_path, mode) as server, visiting(server) as visitor:
        assert [answer.status for answer in visitor.ask_often(4)] == [200] * 4
        own.kill()
        expect(mode, visitor.ask_often(BURST + 5), BURST - 4)
        own.start()
        # At least five of the six are owed: the first to find it gone may have been charged. More where the worker
        # hears that all buckets are full again before it asks again, and so lets more pass by itself.
        shared_limit_is_back(visitor, own, *(range(1, 6) if mode == "local" else (BURST,)))


@pytest.mark.parametrize("mode", MODES)
def test_a_paused_store(own: RedisServer, tmp_path: Path, mode: str) -> None:
    """Hung (SIGSTOP): as the mode says; resumed, the bucket in the store is in force with what it had charged."""
    with shielded(own.url, tmp_path, mode) as server, visiting(server) as visitor:
        assert [answer.status for answer in visitor.ask_often(4)] == [200] * 4
        own.pause()
        # A take that times out may still be charged when the store goes on: in `local`, charged twice.
        expect(mode, visitor.ask_often(BURST + 5), BURST - 4)
        own.resume()
        wait_until(lambda: "the store answers again" in asked(visitor, server), PATIENCE_S, "the breaker to close")
        assert all(answer.by_limit for answer in visitor.ask_often(BURST + 1)[BURST:])


def test_what_passed_without_the_store_counts_when_it_is_back(own: RedisServer, tmp_path: Path) -> None:
    """Four with the store, three without it: three are left of ten, although the store had heard of four."""
    unit_ms = 86_400_000 // BURST
    redis = own.client()
    with (
        shielded(own.url, tmp_path, "local") as server,
        visiting(server) as visitor,
        visiting(server, fresh_address()) as other,
    ):
        assert [answer.status for answer in visitor.ask_often(4)] == [200] * 4
        (bucket,) = redis.scan_iter("*:ip")
        own.pause()
        other.ask_often(FAILURES_IN_A_ROW)  # these may be charged when the store goes on
        assert [answer.status for answer in visitor.ask_often(3)] == [200] * 3
        own.resume()
        wait_until(lambda: "the store answers again" in asked(other, server), PATIENCE_S, "the breaker to close")
        wait_until(lambda: redis.pttl(bucket) > 6 * unit_ms, PATIENCE_S, "the three to be charged", server.log)
        assert [answer.status for answer in visitor.ask_often(4)] == [200] * 3 + [429]


def asked(visitor: Visitor, server: HttpServer) -> str:
    """The log after one more request."""
    visitor.ask()
    return server.log()


def test_two_workers_of_a_killed_store_share_the_limit(own: RedisServer, tmp_path: Path) -> None:
    """They have heard of each other, the store dies, and together they let pass what one bucket holds."""
    token = "t" * 32
    more = {"SHIELD_ADMIN_TOKEN": token, "SHIELD_CAPACITY": "100", "SHIELD_SECRET": "s" * 32}
    with (
        shielded(own.url, tmp_path, "local", "uvicorn", **more) as one,
        shielded(own.url, tmp_path, "local", "uvicorn", **more) as other,
    ):
        wait_until(
            lambda: [workers_of(server, token) for server in (one, other)] == [2, 2], PATIENCE_S, "both to be counted"
        )
        own.kill()
        for server in (one, other):
            with visiting(server) as visitor:
                expect("local", visitor.ask_often(BURST), BURST // 2)


def workers_of(server: HttpServer, token: str) -> int | None:
    """How many workers this one has heard of; from a new address each time, since one may not ask so often."""
    with httpx.Client(transport=httpx.HTTPTransport(local_address=fresh_address())) as operator:
        status = operator.get(f"{server.base_url}/-/shield/status", headers={"authorization": f"Bearer {token}"})
    workers: int | None = status.json()["workers"]
    return workers


def test_a_restarted_store(own: RedisServer, tmp_path: Path) -> None:
    """Restarted empty between two requests: nobody notices but by a fuller bucket."""
    with shielded(own.url, tmp_path, "closed") as server, visiting(server) as visitor:
        for _ in range(3):
            assert [answer.status for answer in visitor.ask_often(2)] == [200] * 2
            own.restart()
            wait_until(lambda: visitor.ask().status == 200, PATIENCE_S, "the store")
        shared_limit_is_back(visitor, own, BURST - 1)


def test_a_store_that_comes_and_goes_under_traffic(own: RedisServer, tmp_path: Path) -> None:
    """Killed, started, paused and resumed at any moment of other people's requests: every answer is 200 or 429."""
    with shielded(own.url, tmp_path, "local", SHIELD_IP_LIMIT="100000/second") as server:
        faults = ((own.kill, own.start), (own.pause, own.resume), (own.stop, own.start))
        over = threading.Event()
        counts: list[int] = []
        failures: list[BaseException] = []

        def traffic() -> None:
            count = 0
            try:
                with visiting(server) as visitor:
                    while not over.is_set():
                        assert visitor.ask().status == 200
                        count += 1
            except BaseException as error:
                failures.append(error)
            counts.append(count)

        threads = [threading.Thread(target=traffic) for _ in range(8)]
        for thread in threads:
            thread.start()
        try:
            for number, (harm, heal) in enumerate(faults, 1):
                harm()
                wait_for_log(server, "the store is away", number)
                heal()
                wait_for_log(server, "the store answers again", number)
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert not failures, failures
        assert all(count > 10 for count in counts)


def wait_for_log(server: HttpServer, line: str, times: int) -> None:
    """Wait until a line has been logged so many times."""
    wait_until(lambda: server.log().count(line) >= times, PATIENCE_S, f"'{line}', {times} times", server.log)


# --- off the store --------------------------------------------------------------------------------


class Listener:
    """A TCP port that accepts and counts connections, and hangs or resets each."""

    def __init__(self, treat: Callable[[socket.socket], None]) -> None:
        self.accepted = 0
        self._treat = treat
        self._socket = socket.create_server((HOST, 0))
        self.port = int(self._socket.getsockname()[1])
        self._kept: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.accepted += 1
            self._kept.append(connection)
            self._treat(connection)

    def close(self) -> None:
        """Stop accepting and close what is open."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()
        for connection in self._kept:
            connection.close()


def hang(connection: socket.socket) -> None:
    """Say nothing."""


def end(connection: socket.socket) -> None:
    """Close at once."""
    connection.close()


@pytest.mark.parametrize("treat", [hang, end])
@pytest.mark.parametrize("mode", MODES)
def test_the_breaker_keeps_requests_off_the_store(
    treat: Callable[[socket.socket], None], mode: str, tmp_path: Path
) -> None:
    """Of three hundred requests five meet the store, and one a second after that; all the others wait for nothing."""
    listener = Listener(treat)
    try:
        with shielded(f"redis://{HOST}:{listener.port}", tmp_path, mode) as server, visiting(server) as visitor:
            listener.accepted, began = 0, time.monotonic()
            answers = visitor.ask_often(300)
            elapsed_s = time.monotonic() - began
            accepted = listener.accepted
            expect(mode, answers, BURST)
            # Mode, deny list, API keys, seats and waiting room are polled beside the requests, and changes are
            # listened to: each half second while that fails, at most.
            probes, polls = int(elapsed_s) + 1, 6 * (int(elapsed_s / 0.5) + 1)
            assert accepted <= FAILURES_IN_A_ROW + probes + polls
            waited = sum(answer.seconds >= BUDGET_S for answer in answers)
            quick = sorted(answer.seconds for answer in answers)[len(answers) * 9 // 10]
            assert quick < BUDGET_S, f"{waited} of {len(answers)} requests waited for the store"
    finally:
        listener.close()


def test_a_paused_store_is_left_alone(own: RedisServer, tmp_path: Path) -> None:
    """When it goes on it finds the five takes that timed out, and a probe for each second, not three hundred."""
    client = own.client()
    with shielded(own.url, tmp_path, "open") as server, visiting(server) as visitor:
        visitor.ask()
        before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
        own.pause()
        began = time.monotonic()
        answers = visitor.ask_often(300)
        elapsed_s = time.monotonic() - began
        own.resume()
        assert all(answer.status == 200 for answer in answers)
        wait_until(client.ping, PATIENCE_S, "the store")
        sent = client.info("commandstats")["cmdstat_evalsha"]["calls"] - before
        assert sent <= FAILURES_IN_A_ROW + int(elapsed_s) + 1
