"""The answers of the clusters and sentinels in `servers`, on which the store relies."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from servers import (
    HOST,
    RedisCluster,
    RedisSentinels,
    RedisServer,
    slot_of,
    wait_until,
)
from store.fleets import ONCE

# Two keys of one slot.
A, B = "test:{tag}:a", "test:{tag}:b"
SLOT = slot_of(A)

TAKES_TWO = "redis.call('SET', KEYS[1], 1, 'PX', 60000) redis.call('SET', KEYS[2], 1, 'PX', 60000) return 2"


def put(cluster: RedisCluster, key: str) -> None:
    """A key where it belongs."""
    cluster.command(cluster.owner(slot_of(key)), "SET", key, "1", "PX", 60_000)


_Connection: Any = redis.Connection


def answers(node: RedisServer, *commands: tuple[str | int, ...]) -> list[Any]:
    """What a node answers to commands that are sent together on one connection, errors included."""
    connection: Any = _Connection(host=HOST, port=node.port, protocol=2, socket_timeout=5)
    replies: list[Any] = []
    try:
        connection.connect()
        connection.send_packed_command(connection.pack_commands(commands))
        for _ in commands:
            try:
                replies.append(connection.read_response())
            except redis.ResponseError as error:
                replies.append(error)
    finally:
        connection.disconnect()
    return replies


# --- a cluster ------------------------------------------------------------------------------------


def test_a_cluster_has_three_masters_with_a_replica_each(cluster: RedisCluster) -> None:
    """Six processes, all slots owned, every master with its own replica, and the URL names all of them."""
    masters = cluster.masters()
    assert len(masters) == 3
    assert len({id(cluster.replicas(master)[0]) for master in masters}) == 3
    assert {cluster.owner(slot).port for slot in (0, 8000, 16_383)} == {master.port for master in masters}
    assert cluster.url == "redis+cluster://" + ",".join(f"{HOST}:{node.port}" for node in cluster.nodes)


def test_what_lies_in_a_cluster_is_seen_whole(cluster: RedisCluster) -> None:
    """Keys of all masters are listed, counted and checked for a TTL; commands are counted by node."""
    for number in range(30):
        put(cluster, f"key-{number}")
    cluster.command(cluster.owner(slot_of("stays")), "SET", "stays", "1")
    assert cluster.keys() == sorted([*(f"key-{number}" for number in range(30)), "stays"])
    assert sum(cluster.dbsizes()) == 31
    assert all(cluster.dbsizes())
    assert sorted(cluster.everything()) == cluster.keys()
    assert cluster.keys_without_ttl() == ["stays"]
    wait_until(lambda: sum(cluster.calls("set")) == 62, 5, "the replicas")
    cluster.reset()
    assert cluster.keys() == []
    assert sum(cluster.calls("set", "migrate")) == 0


def test_a_slot_is_moved_step_by_step(cluster: RedisCluster) -> None:
    """Begun, a key at a time, finished: the keys are where they should be after each step, and all nodes agree."""
    put(cluster, A)
    put(cluster, B)
    move = cluster.move(SLOT)
    move.begin()
    assert cluster.owner(SLOT) is move.source
    assert move.migrate(A) == 1
    assert cluster.client(move.target).keys() == [A.encode()]
    assert cluster.client(move.source).keys() == [B.encode()]
    move.finish()
    assert cluster.owner(SLOT) is move.target
    told = [answers(node, ("GET", A))[0] for node in cluster.masters() if node is not move.target]
    assert [reply.port for reply in told] == [move.target.port] * 2
    assert cluster.keys() == [A, B]
    assert cluster.keys_without_ttl() == []
    cluster.move(SLOT, move.source).run()
    assert cluster.owner(SLOT) is move.source


def test_a_reset_ends_a_move(cluster: RedisCluster) -> None:
    """A test that stops in the middle of a move does not harm the next."""
    move = cluster.move(SLOT)
    move.begin()
    cluster.reset()
    assert answers(move.source, ("GET", A)) == [None]


def test_valkey_moves_a_slot_by_itself(cluster: RedisCluster) -> None:
    """As a whole, without ASK: since Valkey 9."""
    if cluster.kind != "valkey":
        pytest.skip("Redis 7 cannot")
    put(cluster, A)
    target = cluster.other(cluster.owner(SLOT))
    cluster.move_at_once(SLOT, target)
    assert cluster.client(target).keys() == [A.encode()]


@ONCE
def test_a_dead_master_is_replaced(cluster: RedisCluster) -> None:
    """Killed: its replica owns the slots and the keys; started again, it is that one's replica."""
    put(cluster, A)
    dead = cluster.owner(SLOT)
    [replica] = cluster.replicas(dead)
    wait_until(lambda: cluster.command(replica, "DBSIZE"), 5, "the replica")
    cluster.hurry()
    dead.kill()
    cluster.wait_until_converged()
    assert cluster.owner(SLOT) is replica
    assert cluster.keys() == [A]
    cluster.reset()
    assert cluster.replicas(replica) == [dead]


def test_a_replica_takes_over_politely(cluster: RedisCluster) -> None:
    """CLUSTER FAILOVER: master and replica change places."""
    old = cluster.owner(SLOT)
    [replica] = cluster.replicas(old)
    cluster.fail_over(replica)
    assert cluster.owner(SLOT) is replica
    assert cluster.replicas(replica) == [old]


# --- what a cluster answers -----------------------------------------------------------------------


def test_another_node_answers_moved(cluster: RedisCluster) -> None:
    """Before NOSCRIPT and whatever the script; a replica says so too, and nothing has been done."""
    owner = cluster.owner(SLOT)
    for node in (cluster.other(owner), *cluster.replicas(owner)):
        [reply] = answers(node, ("EVALSHA", "0" * 40, 1, A))
        assert isinstance(reply, redis.exceptions.MovedError)
        assert (reply.slot_id, reply.host, reply.port) == (SLOT, HOST, owner.port)
    [unknown] = answers(owner, ("EVALSHA", "0" * 40, 1, A))
    assert isinstance(unknown, redis.exceptions.NoScriptError)


def test_keys_of_two_slots_are_refused(cluster: RedisCluster) -> None:
    """Even where one node owns both: a script's declared keys are of one slot."""
    owner = cluster.owner(SLOT)
    near = next(f"test:{{{n}}}:a" for n in range(1000) if cluster.owner(slot_of(f"test:{{{n}}}:a")) is owner)
    [reply] = answers(owner, ("EVAL", TAKES_TWO, 2, A, near))
    assert isinstance(reply, redis.exceptions.ClusterCrossSlotError)


def test_a_key_that_is_not_there_is_asked_for_elsewhere(cluster: RedisCluster) -> None:
    """On the move, the source keeps what it still has; for the rest it says ASK, and ASKING opens the target once."""
    put(cluster, A)
    move = cluster.move(SLOT)
    move.begin()
    here, there = answers(move.source, ("GET", A), ("GET", B))
    assert here == b"1"
    assert isinstance(there, redis.exceptions.AskError)
    assert not isinstance(there, redis.exceptions.MovedError)
    assert (there.slot_id, there.host, there.port) == (SLOT, HOST, move.target.port)
    asking, taken, again = answers(move.target, ("ASKING",), ("SET", B, 1, "PX", 60_000), ("GET", B))
    assert (asking, taken) == (b"OK", b"OK")
    assert isinstance(again, redis.exceptions.MovedError)


@pytest.mark.parametrize("moved", [[], [A]], ids=["both are new", "one has moved"])
def test_two_keys_on_the_move_are_told_to_try_again(cluster: RedisCluster, moved: list[str]) -> None:
    """TRYAGAIN until the move is over, for two keys that do not exist as for two that are apart: waiting is in vain."""
    for key in moved:
        put(cluster, key)
        put(cluster, B)
    move = cluster.move(SLOT)
    move.begin()
    if moved:
        move.migrate(*moved)
    [source] = answers(move.source, ("EVAL", TAKES_TWO, 2, A, B))
    _, target = answers(move.target, ("ASKING",), ("EVAL", TAKES_TWO, 2, A, B))
    again = redis.exceptions.TryAgainError
    assert isinstance(source, again if moved else redis.exceptions.AskError)
    assert isinstance(target, again)
    move.finish()
    assert answers(move.target, ("EVAL", TAKES_TWO, 2, A, B)) == [2]


def test_a_node_may_be_named_or_not(cluster: RedisCluster) -> None:
    """MOVED names a host, or none at all: the one that was asked is meant."""
    asked = cluster.other(cluster.owner(SLOT))
    cluster.hurry()  # names are gossip
    try:
        for kind, host in (("hostname", "localhost"), ("unknown-endpoint", ""), ("ip", HOST)):
            for node in cluster.nodes:
                cluster.command(node, "CONFIG SET", "cluster-announce-hostname", "localhost")
                cluster.command(node, "CONFIG SET", "cluster-preferred-endpoint-type", kind)
            wait_until(lambda host=host: answers(asked, ("GET", A))[0].host == host, 10, kind)  # type: ignore[misc]
            [[_, _, [endpoint, *_], *_], *_] = answers(asked, ("CLUSTER", "SLOTS"))[0]
            assert endpoint == (host.encode() or None)
    finally:
        for node in cluster.nodes:
            cluster.command(node, "CONFIG SET", "cluster-announce-hostname", "")
            cluster.command(node, "CONFIG SET", "cluster-preferred-endpoint-type", "ip")


def test_every_node_hears_what_any_publishes(cluster: RedisCluster) -> None:
    """Pub/Sub is the cluster's, not a slot's: a replica hears what a master of other slots says."""
    [replica] = cluster.replicas(cluster.owner(SLOT))
    client: Any = cluster.client(replica)
    with client.pubsub() as pubsub:
        pubsub.subscribe("channel")
        wait_until(lambda: pubsub.get_message(timeout=1), 5, "the subscription")
        cluster.command(cluster.other(cluster.owner(SLOT)), "PUBLISH", "channel", "word")
        message: Any = wait_until(lambda: pubsub.get_message(timeout=1), 5, "the word")
        assert message["data"] == b"word"


# --- sentinels ------------------------------------------------------------------------------------


def test_sentinels_name_the_master(sentinels: RedisSentinels) -> None:
    """Three sentinels, one master, replicas that follow it, and a URL that names the sentinels and the service."""
    master = sentinels.master()
    master.client().set("key", "1", px=60_000)
    for replica in sentinels.running:
        wait_until(lambda replica=replica: replica.client().get("key") == b"1", 5, "the replica")  # type: ignore[misc]
    hosts = ",".join(f"{HOST}:{sentinel.port}" for sentinel in sentinels.sentinels)
    assert sentinels.url == f"redis+sentinel://{hosts}/shield"


def test_dead_sentinels_come_back(sentinels: RedisSentinels) -> None:
    """Killed and started again, a sentinel knows the master, and the URL of some of them is that of the service."""
    first, *others = sentinels.sentinels
    first.kill()
    assert sentinels.master() in sentinels.servers
    assert str(first.port) not in sentinels.url_of(others)
    sentinels.reset()
    assert first.is_running
