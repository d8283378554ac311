"""A server whose memory is full: operators' changes and seats still work, only buckets cannot be charged."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from servers import RedisServer
from shieldmw.core.api_keys import ApiKey
from shieldmw.core.client import Identity
from shieldmw.core.deny import DenyEntry
from shieldmw.core.load import WorkerLoad
from shieldmw.core.metrics import FLEET_DECISIONS
from shieldmw.core.mode import Mode, ModeChange, ModeState
from shieldmw.core.seats import Audience, Capacity, Report
from shieldmw.core.waiting import EMPTY
from shieldmw.errors import NotApplied
from shieldmw.gate.fleet.mode_watch import ModeWatch
from shieldmw.store.documents import MODE
from shieldmw.store.port import AuditEntry
from store.stores import one, opened, run, slow_limit, someone, take

NOBODY = Audience(0, 0, 0)
ENTRY = DenyEntry(ip_network("198.51.100.0/24"), 2_000_000_000, "operator", "flood")
KEY = ApiKey("a" * 64, Identity("alice"), 1_700_000_000)


@pytest.fixture
def full(server: RedisServer) -> Iterator[RedisServer]:
    """The shared server, which has known a fleet for a while and now takes nothing that needs memory."""

    async def a_while_ago() -> None:
        async with opened(server.url, secret=None) as store:
            await store.secret()
            await store.begin_epoch()
            await store.add_api_key(KEY)

    run(a_while_ago())
    client = server.client()
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 1)
    yield server
    client.config_set("maxmemory", 0)


def test_the_switch_works(full: RedisServer) -> None:
    """To emergency and back, with its audit."""

    async def work() -> None:
        async with opened(full.url, secret=None) as store:
            for mode in (Mode.EMERGENCY, Mode.NORMAL):
                changed, stored = await store.set_document(
                    MODE, ModeChange(mode, "operator", "flood"), was=ModeState(), expected_version=None
                )
                assert changed
                assert stored.state.mode is (await store.document(MODE)).state.mode is mode
            assert len(await store.audit(10)) == 2
            await store.restore_document(MODE, ModeState(version=7, mode=Mode.EMERGENCY))
            assert (await store.document(MODE)).state.version == 7

    run(work())


def test_networks_are_denied(full: RedisServer) -> None:
    """And let in again; a list that was lost is told again."""

    async def work() -> None:
        async with opened(full.url, secret=None) as store:
            await store.deny(ENTRY)
            assert await store.undeny(str(ENTRY.network), "operator")
            full.client().delete("shield:{control}:deny")
            assert await store.restore_deny([ENTRY])
            assert not await store.restore_deny([])

    run(work())


def test_keys_are_revoked(full: RedisServer) -> None:
    """Workers read the table and the secret."""

    async def work() -> None:
        async with opened(full.url, secret=None) as store:
            before = await store.api_keys(None)
            assert before is not None
            assert set(before.entries) == {KEY.digest}
            assert await store.revoke_api_keys([KEY.digest]) == 1
            after = await store.api_keys(before.version)
            assert after is not None
            assert set(after.entries) == set()

    run(work())


def test_clients_are_reset(full: RedisServer) -> None:
    """And that is noted and seen."""

    async def work() -> None:
        async with opened(full.url, secret=None) as store:
            epoch = (await store.document(MODE)).epoch
            await store.note(AuditEntry(0, "operator", "reset", "", "full", ""))
            await store.refill(someone(), ["ip"])
            assert (await store.document(MODE)).epoch != epoch
            assert len(await store.audit(1)) == 1

    run(work())


def test_seats_are_divided_and_given_back(full: RedisServer) -> None:
    """The waiting room goes on, too."""

    async def work() -> None:
        async with opened(full.url, secret=None) as store:
            grant = await store.seats(Report("one", Audience(0, 3, 0), NOBODY), Capacity(2, 2))
            assert grant.seats == 2
            await store.release_seats("one")
            assert (await store.queue(2, 0, EMPTY)).given == 2

    run(work())


def test_workers_report_their_load(full: RedisServer) -> None:
    """An operator sees who is drowned."""

    async def work() -> None:
        async with opened(full.url, secret=None) as store:
            load = WorkerLoad("one", "web-1", 1, 1_800_000_000.0, 0, 0, 0, NOBODY, NOBODY, NOBODY, 0)
            await store.report_load(load)
            assert await store.loads(load.at_s) == [load]

    run(work())


def test_decisions_of_the_fleet_are_told(full: RedisServer) -> None:
    """Like all that operators look at."""

    async def work() -> None:
        async with opened(full.url, secret=None) as store:
            counted = [1] * len(FLEET_DECISIONS.series)
            assert await store.decided("one", counted, [0] * len(counted)) == counted

    run(work())


def test_buckets_are_not_charged(full: RedisServer) -> None:
    """The worker is told that nothing was done, and decides by itself."""

    async def work() -> None:
        async with opened(full.url, secret=None) as store:
            with pytest.raises(NotApplied):
                await take(store, one(slow_limit(10)))

    run(work())


def test_a_store_that_is_full_and_empty_of_ours_is_read(server: RedisServer) -> None:
    """Full of other people's data: the mode is normal, and can be changed."""
    client = server.client()
    client.config_set("maxmemory", 1)

    async def work() -> None:
        async with opened(server.url) as store:
            await ModeWatch(store).refresh()
            assert (await store.document(MODE)).state.mode is Mode.NORMAL
            await store.set_document(MODE, ModeChange(Mode.EMERGENCY, "x", ""), was=ModeState(), expected_version=None)
            assert (await store.document(MODE)).state.mode is Mode.EMERGENCY

    try:
        run(work())
    finally:
        client.config_set("maxmemory", 0)
