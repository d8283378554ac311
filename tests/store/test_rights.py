"""The rights of a store's user: those in the runbook are enough, and each missing one is named."""

from __future__ import annotations

import pytest

from servers import RedisServer
from shieldmw.core.mode import Mode, ModeChange, ModeState
from shieldmw.gate.fleet.changes import ChangeListener
from shieldmw.store.documents import MODE
from shieldmw.store.fleet import RedisStore
from shieldmw.store.rights import missing_rights
from store.fleets import until
from store.rights import rights, user_without
from store.stores import all_keys, calls, opened, run

# Select, INFO and what a cluster is asked are needed in other places than one server's database 0.
ELSEWHERE = ("+select", "+info", "+asking", "+cluster|slots")
NEEDED = [right for right in rights() if right[0] in "+~&" and right not in ELSEWHERE]


def missing(url: str) -> list[str]:
    """What a check says."""

    async def work() -> list[str]:
        async with opened(url) as store:
            assert isinstance(store, RedisStore)
            return await missing_rights(store)

    return run(work())


def test_the_rights_of_the_runbook_are_enough(server: RedisServer) -> None:
    """Nothing is missing, and nothing is left behind."""
    assert missing(user_without(server, None)) == []
    assert all_keys(server.client()) == []


@pytest.mark.parametrize("right", NEEDED)
def test_a_right_that_is_missing_is_named(server: RedisServer, right: str) -> None:
    """By what would give it, in one line."""
    lines = missing(user_without(server, right))
    if right.startswith("&"):
        ways = ("PUBLISH", "SUBSCRIBE")
        assert lines == [f"may not {way} to shield:{{control}}:changes: add &shield:*" for way in ways]
    else:
        assert [line.rpartition(": add ")[2] for line in lines] == [right], lines
    server.client().flushall()


def test_a_user_that_may_not_publish_flips_all_the_same(server: RedisServer) -> None:
    """The answer says what was done, and the audit has it."""
    url = user_without(server, "&shield:*")

    async def work() -> None:
        async with opened(url) as store:
            change = ModeChange(Mode.EMERGENCY, "operator", "flood")
            changed, stored = await store.set_document(MODE, change, was=ModeState(), expected_version=None)
            assert changed
            assert stored.state.mode is (await store.document(MODE)).state.mode is Mode.EMERGENCY
            assert len(await store.audit(1)) == 1

    run(work())


def test_a_worker_that_may_not_listen_says_so_once(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """However often it tries; the mode is polled all the same."""
    url = user_without(server, "&shield:*")

    async def work() -> None:
        async with opened(url) as store:
            listener = ChangeListener(store, lambda change: None)
            listener.AGAIN_S = 0.01  # seconds between two tries
            await listener.start()
            client = server.client()
            await until(lambda: calls(client, "auth") >= 3, "three tries")
            await listener.stop()

    run(work())
    assert [record.message.partition(" (")[0] for record in caplog.records] == [
        "changes in the store are only polled: its user may not listen"
    ]
