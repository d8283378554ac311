"""A worker whose store is a Redis Cluster: slots move and masters die, and no visitor sees more than a limit."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.addresses import clients_at
from e2e.clients import client, fresh_address
from e2e.test_exactness import WORKERS, flood, settings
from servers import HttpServer, RedisCluster, asgi_server, redis_cluster, slot_of, wait_until
from shieldmw.core.limits import parse_limits
from shieldmw.store.keys import Keys

PATIENCE_S = 20.0
SECRET = "a secret of at least 32 characters"
ADMIN_TOKEN = "the token of the operator"
VISITORS = 6


ONCE = pytest.mark.parametrize("shared_cluster", ["valkey"], indirect=True, scope="module")


@pytest.fixture(scope="module", params=["valkey", "redis"])
def shared_cluster(request: pytest.FixtureRequest) -> Iterator[RedisCluster]:
    """A cluster of each kind for this module."""
    with redis_cluster(request.param) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: RedisCluster) -> Iterator[RedisCluster]:
    """The cluster, whole and empty; fails a test after which a key would stay there for ever."""
    shared_cluster.reset()
    yield shared_cluster
    shared_cluster.wait_until_converged()
    assert shared_cluster.keys_without_ttl() == []


@contextmanager
def shielded(cluster: RedisCluster, cwd: Path, **more: str) -> Iterator[HttpServer]:
    """The app behind the middleware, one worker."""
    env = {"SHIELD_REDIS_URL": cluster.url, "SHIELD_SECRET": SECRET, "SHIELD_IP_LIMIT": "100000/second", **more}
    with asgi_server("uvicorn", "shielded_app:shielded", env=env, cwd=cwd) as server:
        yield server


class Crowd:
    """Visitors that ask without a pause, each from its own address, and insist on 200."""

    def __init__(self, server: HttpServer) -> None:
        self.failures: list[BaseException] = []
        self.counts = [0] * VISITORS
        self.addresses = [fresh_address() for _ in range(VISITORS)]
        self._server = server
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._visit, args=(number,)) for number in range(VISITORS)]

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        self.go_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        assert not self.failures, f"{self.failures}\n{self._server.log()[-2000:]}"

    def _visit(self, number: int) -> None:
        try:
            with client(self.addresses[number]) as visitor:
                while not self._over.is_set():
                    answer = visitor.get(f"{self._server.base_url}/pid")
                    assert answer.status_code == 200, answer.text
                    assert answer.text == str(self._server.process.pid)
                    self.counts[number] += 1
        except BaseException as error:
            self.failures.append(error)

    def go_on(self, more: int = 10) -> None:
        """Wait until each of them has had some more answers, or one has failed."""
        wanted = [count + more for count in self.counts]

        def have() -> bool:
            return bool(self.failures) or all(a >= b for a, b in zip(self.counts, wanted, strict=True))

        wait_until(have, PATIENCE_S, "answers", self._server.log)


def slot_of_guest(address: str) -> int:
    """The slot of the buckets of an address."""
    guest = clients_at(address).network
    return slot_of(Keys("shield", SECRET.encode()).bucket_of(guest, "ip"))


def takes(cluster: RedisCluster) -> int:
    """How many scripts have run on all nodes."""
    return sum(cluster.calls("evalsha"))


def test_a_dead_master_costs_nobody_an_answer(cluster: RedisCluster, tmp_path: Path) -> None:
    """A master dies under traffic: every answer is 200, by the same process, and the cluster decides again."""
    with shielded(cluster, tmp_path) as server, Crowd(server) as crowd:
        dead = cluster.owner(slot_of_guest(crowd.addresses[0]))  # somebody has to miss it
        cluster.hurry()
        if cluster.kind == "valkey":  # either way with one of the kinds: it takes seconds
            dead.kill()
        else:
            cluster.hang(dead)
        wait_until(lambda: "the store is away" in server.log(), PATIENCE_S, "the breaker", server.log)
        cluster.wait_until_converged()
        wait_until(lambda: settled(server), PATIENCE_S, "the store", server.log)
        crowd.go_on()
        before = takes(cluster)
        crowd.go_on(50)
        wait_until(lambda: takes(cluster) > before, PATIENCE_S, "charges in the cluster", server.log)


def settled(server: HttpServer) -> bool:
    """Whether the last word on the store is that it answers."""
    log = server.log()
    return log.rfind("the store answers again") > log.rfind("the store is away")


@ONCE
def test_moving_slots_are_noticed_by_nobody(cluster: RedisCluster, tmp_path: Path) -> None:
    """Slots of control and of buckets move under traffic: every answer is 200, and the store was never away."""
    with shielded(cluster, tmp_path, SHIELD_REDIS_TIMEOUT_MS="5000") as server, Crowd(server) as crowd:
        names = cluster.keys()
        for slot in sorted({slot_of(name) for name in names})[:10]:
            move = cluster.move(slot)
            move.begin()
            crowd.go_on(3)
            move.finish()
            crowd.go_on(3)
        assert "the store is away" not in server.log()


@ONCE
def test_a_bucket_is_exact_while_its_slot_moves(cluster: RedisCluster, tmp_path: Path) -> None:
    """Four workers and fifty connections on one bucket that wanders from node to node: no more than it holds."""
    [bucket] = parse_limits("100/second", name="ip", burst=40)
    env = settings(cluster.nodes[0], SHIELD_SECRET=SECRET, SHIELD_IP_LIMIT="100/second", SHIELD_IP_BURST="40")
    env["SHIELD_REDIS_URL"] = cluster.url
    with (
        asgi_server("shieldmw", "apps:app", env=env, cwd=tmp_path, workers=WORKERS) as server,
        beside(lambda: cluster.move(slot_of_guest("127.0.0.1")).run()) as moves,
    ):
        got = asyncio.run(flood(server, cluster.nodes[0].client(), b"/who"))
    assert len(moves) > 3
    assert set(got.tally.statuses) == {200, 429}
    assert bucket.burst <= got.tally.allowed <= got.most(bucket)


@contextmanager
def beside(work: Callable[[], None]) -> Iterator[list[float]]:
    """Do something again and again meanwhile; when it was done."""
    over, done, failures = threading.Event(), list[float](), list[BaseException]()

    def repeat() -> None:
        try:
            while not over.wait(0.1):
                work()
                done.append(time.monotonic())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()
    assert not failures, failures


@ONCE
def test_every_worker_obeys_the_switch(cluster: RedisCluster, tmp_path: Path) -> None:
    """Flipped on a cluster, and flipped back after the master of the mode's slot was killed."""
    env = {"SHIELD_ADMIN_TOKEN": ADMIN_TOKEN, "SHIELD_RULES": '[{"name": "m", "path": "/who", "emergency": "members"}]'}
    with shielded(cluster, tmp_path, **env) as server, client(fresh_address()) as guest:

        def flip(mode: str) -> bool:
            headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
            with client(fresh_address(), headers) as operator:
                return operator.put(f"{server.base_url}/-/shield/mode", json={"mode": mode}).status_code == 200

        def sees(status: int) -> bool:
            return guest.get(f"{server.base_url}/who").status_code == status

        assert flip("emergency")
        wait_until(lambda: sees(503), PATIENCE_S, "the emergency", server.log)
        cluster.hurry()
        cluster.owner(slot_of("shield:{control}:mode")).kill()
        cluster.wait_until_converged()
        assert sees(503)
        wait_until(lambda: flip("normal"), PATIENCE_S, "the switch", server.log)
        wait_until(lambda: sees(200), PATIENCE_S, "the end of the emergency", server.log)
