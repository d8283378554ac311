"""A Redis Cluster: three masters with a replica each, whose slots a test may move and whose nodes it may kill.

Everything is told to the nodes in their own words (CLUSTER MEET, SETSLOT, MIGRATE), so that redis-cli is not
needed and a test can stop in the middle of a move.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot

from .places import HOST, on_free_port
from .redis import RedisKind, RedisServer, redis_server
from .tls import trust
from .waiting import wait_until

SLOTS = 16_384
MASTERS = 3

# A node that says nothing for so long is replaced; the votes take another half to one second. The first is for
# tests that kill nobody: on a busy machine a node may well be silent for a second.
PATIENT_MS, HASTY_MS = 10_000, 1000

# Starting takes two seconds by itself: so long does a new master wait before it serves.
CONVERGED_S = 30.0

# CLUSTER SLOTS as one node sees it: (first slot, last slot) -> the ports of the master and its replicas.
Slots = dict[tuple[int, int], list[int]]


@dataclass
class RedisCluster:
    """A running cluster. At first the nodes 0, 1, 2 are the masters of a third of the slots each, 3, 4, 5 their
    replicas; nothing is persisted but who is who, so a node that is started again is empty until it has caught up.
    """

    kind: RedisKind
    nodes: list[RedisServer]
    password: str | None = None
    certificates: Path | None = None
    ids: dict[int, str] = field(default_factory=dict)
    _hung: set[int] = field(default_factory=set)
    _clients: dict[int, redis.Redis] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """`redis+cluster://` with every node, or `rediss+cluster://`."""
        return self.url_of(self.nodes)

    def url_of(self, nodes: Iterable[RedisServer]) -> str:
        """The same with some of the nodes, by which the others must be found."""
        login = self.nodes[0].tcp_url.removeprefix("redis://").rpartition("@")[0]
        hosts = ",".join(f"{HOST}:{node.port}" for node in nodes)
        place = f"+cluster://{login}{'@' if login else ''}{hosts}"
        return f"redis{place}" if self.certificates is None else f"rediss{place}?{trust(self.certificates)}"

    def client(self, node: RedisServer) -> redis.Redis:
        """A plain client of one node, which follows nothing; closed with the cluster.

        By TLS where nodes have only that: each names the others' ports for the way that it is asked by.
        """
        if node.port not in self._clients:
            self._clients[node.port] = node.client(None if self.certificates is None else node.tls_url)
        return self._clients[node.port]

    def command(self, node: RedisServer, *command: str | int) -> Any:
        """One command to one node; a connection that was cut since the last one is made again."""
        execute: Any = self.client(node).execute_command
        try:
            return execute(*command)
        except redis.ConnectionError:
            return execute(*command)

    # --- who is who

    @property
    def running(self) -> list[RedisServer]:
        """The nodes that have not been killed, stopped or hung."""
        return [node for node in self.nodes if node.pid is not None and node.port not in self._hung]

    def masters(self) -> list[RedisServer]:
        """The running nodes that say they are masters and have slots, in the order of their slots."""
        ports = [ports[0] for _, ports in sorted(self.slots(self.running[0]).items())]
        return [node for port in dict.fromkeys(ports) for node in self.running if node.port == port]

    def replicas(self, master: RedisServer) -> list[RedisServer]:
        """The running replicas of a master."""
        known = [ports for ports in self.slots(self.running[0]).values() if ports[0] == master.port]
        return [node for node in self.running if any(node.port in ports[1:] for ports in known)]

    def owner(self, slot: int) -> RedisServer:
        """The master of a slot."""
        [port] = [ports[0] for (first, last), ports in self.slots(self.running[0]).items() if first <= slot <= last]
        return next(node for node in self.nodes if node.port == port)

    def other(self, node: RedisServer) -> RedisServer:
        """A master that is not this one."""
        return next(master for master in self.masters() if master is not node)

    def slots(self, node: RedisServer) -> Slots:
        """Which node owns which slots, as one of them sees it."""
        return {
            (int(first), int(last)): [int(port) for _, port, *_ in owners]
            for first, last, *owners in self.command(node, "CLUSTER SLOTS")
        }

    # --- what lies in it

    def keys(self) -> list[str]:
        """The names of the keys on all masters, sorted; one that lies on two nodes is named twice."""
        return sorted(bytes(key).decode() for master in self.masters() for key in self.client(master).scan_iter())

    def keys_without_ttl(self) -> list[str]:
        """The keys that would stay for ever, on any master, whether their slot is on the move or not."""
        found = []
        for master in self.masters():
            client: Any = self.client(master)
            keys = list(client.scan_iter(count=1000))
            with client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.execute_command("ASKING")
                    pipeline.pttl(key)
                ttls = pipeline.execute()[1::2]
            found += [bytes(key).decode() for key, ttl in zip(keys, ttls, strict=True) if ttl == -1]
        return sorted(found)

    def everything(self) -> dict[str, tuple[bytes, int]]:
        """Each key's serialised value and when it ends, on all masters."""
        found = {}
        for master in self.masters():
            client: Any = self.client(master)
            for key in client.scan_iter(count=1000):
                found[bytes(key).decode()] = (client.dump(key), client.pexpiretime(key))
        return found

    def dbsizes(self) -> list[int]:
        """How many keys lie on each master."""
        return [int(self.command(master, "DBSIZE")) for master in self.masters()]

    def calls(self, *commands: str) -> list[int]:
        """How often each running node has run these commands, those of scripts included."""
        stats: list[Any] = [self.client(node).info("commandstats") for node in self.running]
        return [sum(each.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in commands) for each in stats]

    # --- what a test may do to it

    def hang(self, node: RedisServer) -> None:
        """Freeze a node (SIGSTOP) until `reset`: it is connected to, and answers nothing."""
        node.pause()
        self._hung.add(node.port)

    def hurry(self, node_timeout_ms: int = HASTY_MS) -> None:
        """From now on a master that is gone is replaced within two seconds."""
        for node in self.running:
            self.command(node, "CONFIG SET", "cluster-node-timeout", node_timeout_ms)

    def reset(self) -> None:
        """Whole again, patient, empty, without scripts, statistics at zero, no slot on the move."""
        self._hung.clear()
        for node in self.nodes:
            node.ensure_running()
        self.wait_until_converged()
        self.hurry(PATIENT_MS)
        self._settle()
        self.flush()
        for node in self.nodes:
            self.command(node, "CONFIG RESETSTAT")

    def flush(self) -> None:
        """Empty, without scripts."""
        for master in self.masters():
            for command in ("FLUSHALL", "SCRIPT FLUSH"):
                self.command(master, command)

    def _settle(self) -> None:
        """End the moves that a test left half done; the keys are dropped, so that none lies on two nodes."""
        for master in self.masters():
            for node in self.command(master, "CLUSTER NODES").values():
                for move in node["migrations"]:
                    self.command(master, "CLUSTER", "SETSLOT", int(move["slot"]), "STABLE")

    def move(self, slot: int, target: RedisServer | None = None) -> SlotMove:
        """A move of a slot to a master (any other, if not said), of which nothing has been done yet."""
        source = self.owner(slot)
        return SlotMove(self, slot, source, target or self.other(source))

    def move_at_once(self, slot: int, target: RedisServer) -> None:
        """Let the nodes move a slot by themselves, as a whole: Valkey 9 only. Returns when all agree."""
        source = self.owner(slot)
        self.command(source, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", self.ids[target.port])
        wait_until(lambda: self.owner(slot) is target, CONVERGED_S, f"slot {slot} to arrive", self.log)
        self.wait_until_converged()

    def fail_over(self, replica: RedisServer) -> None:
        """Let a replica take its master's place, politely: nothing is lost. Returns when all agree."""
        self.hurry()  # nobody votes twice about the same slots within two of these times
        orders = 0
        began_s = time.monotonic()

        def promoted() -> bool:
            nonlocal orders
            if self.command(replica, "ROLE")[0] == b"master":
                return True
            if time.monotonic() - began_s >= orders:  # ask again each second: a vote may be refused
                self.command(replica, "CLUSTER", "FAILOVER")
                orders += 1
            return False

        wait_until(promoted, CONVERGED_S, "the replica's promotion", self.log)
        self.wait_until_converged()
        self.hurry(PATIENT_MS)

    def wait_until_converged(self, timeout: float = CONVERGED_S) -> None:
        """Wait until all running nodes serve all slots, agree on who owns them, and no owner is down."""
        wait_until(self._is_converged, timeout, "the cluster to converge", self.log)

    def _is_converged(self) -> bool:
        """Whether all running nodes say the same, and that it is well, and are what they are said to be."""
        running = {node.port for node in self.running}
        views = []
        for node in self.running:
            if self.command(node, "CLUSTER INFO")["cluster_state"] != "ok":
                return False
            views.append({range_: (ports[0], set(ports[1:]) & running) for range_, ports in self.slots(node).items()})
        followed = {replica: master for master, replicas in views[0].values() for replica in replicas}
        members = followed.keys() | {master for master, _ in views[0].values()}
        return (
            members == running
            and all(view == views[0] for view in views)
            and all(self._follows(node, followed.get(node.port)) for node in self.running)
        )

    def _follows(self, node: RedisServer, master: int | None) -> bool:
        """Whether a node is in step with a master, or is one itself where it should follow none."""
        replication: Any = self.client(node).info("replication")
        return (replication.get("master_port"), replication.get("master_link_status", "up")) == (master, "up")

    def log(self) -> str:
        """The ends of what all nodes have logged."""
        return "\n".join(f"--- node {number} ---\n{node.log()[-500:]}" for number, node in enumerate(self.nodes))

    # --- how it is made

    def join(self) -> None:
        """Make one cluster of six nodes that know nothing of each other."""
        for number, node in enumerate(self.nodes):
            self.ids[node.port] = self.command(node, "CLUSTER", "MYID").decode()
            self.command(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for number, node in enumerate(self.nodes[:MASTERS]):
            first, last = SLOTS * number // MASTERS, SLOTS * (number + 1) // MASTERS - 1
            self.command(node, "CLUSTER", "ADDSLOTSRANGE", first, last)
        for number, node in enumerate(self.nodes):
            for other in self.nodes[:number]:
                bus: Any = self.client(other).config_get("cluster-port")
                self.command(node, "CLUSTER", "MEET", HOST, other.port, bus["cluster-port"])
        for master, replica in zip(self.nodes[:MASTERS], self.nodes[MASTERS:], strict=True):
            wait_until(partial(self._follow, master, replica), CONVERGED_S, "a replica to follow", self.log)
        self.wait_until_converged()

    def _follow(self, master: RedisServer, replica: RedisServer) -> bool:
        """Whether a node could be made a replica: it must have met the master."""
        with suppress(redis.ResponseError):
            self.command(replica, "CLUSTER", "REPLICATE", self.ids[master.port])
            return True
        return False


@dataclass(frozen=True)
class SlotMove:
    """A slot on its way from one master to another, step by step, as redis-cli does it."""

    cluster: RedisCluster
    slot: int
    source: RedisServer
    target: RedisServer

    def begin(self) -> None:
        """From now on the source answers ASK for each key that it does not have."""
        ids = self.cluster.ids
        self.cluster.command(self.target, "CLUSTER", "SETSLOT", self.slot, "IMPORTING", ids[self.source.port])
        self.cluster.command(self.source, "CLUSTER", "SETSLOT", self.slot, "MIGRATING", ids[self.target.port])

    def migrate(self, *keys: str) -> int:
        """Move these keys, or all that are left; how many there were."""
        moved = list(keys) or self.left()
        login = [] if self.cluster.password is None else ["AUTH", self.cluster.password]
        if moved:
            self.cluster.command(self.source, "MIGRATE", HOST, self.target.port, "", 0, 5000, *login, "KEYS", *moved)
        return len(moved)

    def left(self) -> list[str]:
        """The keys that are still at the source."""
        keys: list[bytes] = self.cluster.command(self.source, "CLUSTER", "GETKEYSINSLOT", self.slot, 10_000)
        return [key.decode() for key in keys]

    def finish(self) -> None:
        """Move what is left, give the slot to the target, and tell all masters; returns when all agree."""
        while self.migrate():
            pass
        others = [node for node in self.cluster.masters() if node not in (self.source, self.target)]
        for node in (self.target, self.source, *others):
            self.cluster.command(node, "CLUSTER", "SETSLOT", self.slot, "NODE", self.cluster.ids[self.target.port])
        self.cluster.wait_until_converged()

    def run(self) -> None:
        """All of it."""
        self.begin()
        self.finish()


def slot_of(key: str) -> int:
    """The slot of a key, by its hash tag."""
    return int(key_slot(key.encode()))


@contextmanager
def redis_cluster(
    kind: RedisKind, *, password: str | None = None, tls_only: Path | None = None, **config: str | int
) -> Iterator[RedisCluster]:
    """A cluster of one kind of server, ready to serve; `tls_only` and `config` are each node's, as for `redis_server`.

    Dead masters are replaced slowly unless the test says `hurry()`.
    """
    options: dict[str, str | int] = {
        "cluster_enabled": "yes",
        "cluster_config_file": "nodes.conf",
        "cluster_node_timeout": HASTY_MS,  # a patient node joins slowly
        "cluster_replica_validity_factor": 0,  # a replica may always stand for election
        "repl_diskless_sync_delay": 0,
        "shutdown_timeout": 0,  # do not wait for replicas
        "repl_ping_replica_period": 1,  # Redis 7 shows no replica in CLUSTER SLOTS that has heard nothing yet
        **({} if password is None else {"requirepass": password, "masterauth": password}),
        **({} if tls_only is None else {"tls_cluster": "yes"}),
        **config,
    }
    with ExitStack() as stack:
        nodes = [
            # The bus has a port of its own: port + 10000, the default, may not exist or be another's.
            on_free_port(
                lambda bus: stack.enter_context(
                    redis_server(kind, tls=False, tls_only=tls_only, cluster_port=bus, **options)
                )
            )
            for _ in range(2 * MASTERS)
        ]
        cluster = RedisCluster(kind, nodes, password, tls_only)
        cluster.join()
        cluster.hurry(PATIENT_MS)
        yield cluster
