"""Error replies of servers: the exceptions they become, and those after which we reconnect."""

from __future__ import annotations

import pytest

from shieldmw.errors import NotApplied, NotPermitted, StoreError
from shieldmw.store.redis.calls import Ask, ClusterDown, Moved, Redirected, TryAgain
from shieldmw.store.redis.failures import ScriptForgotten, failure_of, means_server_replaced

LEAVES = [
    ("READONLY You can't write against a read only replica.", NotApplied),
    ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", NotApplied),
    ("NOREPLICAS Not enough good replicas to write.", NotApplied),
    ("LOADING Redis is loading the dataset in memory", NotApplied),
    ("NOAUTH Authentication required.", NotApplied),
    ("CLUSTERDOWN The cluster is down", ClusterDown),
    # as servers before version 7 quote it
    ("Error running script (call to f_1): @user_script:14: -READONLY You can't write", NotApplied),
]
STAYS = [
    ("BUSY Redis is busy running a script", NotApplied),
    ("MISCONF Redis is configured to save RDB snapshots", NotApplied),
    ("OOM command not allowed when used memory > 'maxmemory'.", NotApplied),
    ("Error running script (call to f_1): @user_script:14: -OOM command not allowed", NotApplied),
    ("TRYAGAIN Multiple keys request during rehashing of slot", TryAgain),
    ("NOSCRIPT No matching script.", ScriptForgotten),
    ("NOPERM User default has no permissions to run the 'eval' command", NotPermitted),
    ("EXECABORT Transaction discarded because of: NOPERM no permissions", NotPermitted),
    ("EXECABORT Transaction discarded because of previous errors.", StoreError),
    ("WRONGTYPE Operation against a key", StoreError),
    ("ERR READONLY is no code here", StoreError),
    ("", StoreError),
]


@pytest.mark.parametrize(("reply", "kind"), [*LEAVES, *STAYS])
def test_an_error_reply_has_an_exception_by_its_code(reply: str, kind: type[StoreError]) -> None:
    """The exception is of exactly that class, with the server's own words."""
    error = failure_of(reply)
    assert type(error) is kind
    assert str(error) == reply


def test_a_server_that_may_have_been_replaced_is_told_by_its_errors() -> None:
    """And by no other ones."""
    assert [reply for reply, _ in [*LEAVES, *STAYS] if means_server_replaced(reply)] == [reply for reply, _ in LEAVES]


@pytest.mark.parametrize(
    ("reply", "kind", "host", "port"),
    [
        ("MOVED 3999 127.0.0.1:6381", Moved, "127.0.0.1", 6381),
        ("ASK 3999 node-1.example:6381", Ask, "node-1.example", 6381),
        ("MOVED 3999 :6381", Moved, "", 6381),
        ("MOVED 3999 ::1:6381", Moved, "::1", 6381),
    ],
)
def test_a_redirection_names_the_node(reply: str, kind: type[Redirected], host: str, port: int) -> None:
    """An empty host is that of the node that answered."""
    error = failure_of(reply)
    assert isinstance(error, Redirected)
    assert (type(error), error.host, error.port, str(error)) == (kind, host, port, reply)


@pytest.mark.parametrize("reply", ["MOVED", "MOVED 3999", "ASK 3999 a:b", "MOVED 3999 a", "MOVED 1 2 3 4", "ASK  "])
def test_a_redirection_to_nowhere_is_a_plain_error(reply: str) -> None:
    """Nobody follows it."""
    assert type(failure_of(reply)) is StoreError
