"""The secret that keys all digests: set, or made once by the fleet and kept in the store."""

from __future__ import annotations

import asyncio

import pytest

from servers import RedisServer
from shieldmw.core.api_keys import ApiKey, derive_digest_key, digest
from shieldmw.core.client import Identity
from shieldmw.errors import StoreError
from shieldmw.store.fleet import RedisStore
from shieldmw.store.keys import Keys
from store.stores import SECRET_KEY, all_keys, one, opened, proven, redis_store, run, slow_limit, take

KEPT_MS = 3_600_000


async def takes(*stores: RedisStore) -> list[bool]:
    """Whether one unit of one bucket with burst 2 is there for each store in turn."""
    return [(await take(store, one(slow_limit(2)))).allowed for store in stores]


def test_the_first_worker_makes_the_secret_for_all(server: RedisServer) -> None:
    """Workers with candidates of their own share buckets, and the secret kept is the first one's."""

    async def work() -> None:
        async with (
            opened(server.url, secret=None, candidate=b"1" * 32) as first,
            opened(server.url, secret=None, candidate=b"2" * 32) as second,
        ):
            assert await takes(first, second, first, second) == [True, True, False, False]

    run(work())
    assert server.client().get(SECRET_KEY) == (b"1" * 32).hex().encode()


def test_workers_that_start_together_agree(server: RedisServer) -> None:
    """Twenty at the same moment: one secret, one bucket."""

    async def work() -> None:
        stores = [redis_store(server.url, secret=None, candidate=bytes([65 + number]) * 32) for number in range(20)]
        outcomes = await asyncio.gather(*(take(store, one(slow_limit(7))) for store in stores))
        assert sum(outcome.allowed for outcome in outcomes) == 7
        await asyncio.gather(*(store.aclose() for store in stores))

    run(work())
    assert len(all_keys(server.client())) == 2


def test_after_flushall_the_fleet_puts_its_secret_back(server: RedisServer) -> None:
    """A poll of the API keys heals it, so that a worker that starts later shares the buckets."""
    client = server.client()

    async def work() -> None:
        async with (
            opened(server.url, secret=None, candidate=b"1" * 32) as old,
            opened(server.url, secret=None, candidate=b"3" * 32) as late,
        ):
            await take(old, one(slow_limit(2)))
            before = client.get(SECRET_KEY)
            client.flushall()
            await old.api_keys(None)
            assert client.get(SECRET_KEY) == before
            assert await takes(old, late, old) == [True, True, False]

    run(work())


def test_after_flushall_a_newcomer_may_be_first(server: RedisServer) -> None:
    """If a new worker's secret is there before the poll, the old ones take that over: one fleet, one bucket."""
    client = server.client()

    async def work() -> None:
        async with (
            opened(server.url, secret=None, candidate=b"1" * 32) as old,
            opened(server.url, secret=None, candidate=b"3" * 32) as late,
        ):
            await take(old, one(slow_limit(2)))
            client.flushall()
            assert await takes(late) == [True]
            table = await old.api_keys(None)
            assert table is not None
            assert table.digest_key == derive_digest_key(b"3" * 32)
            assert await takes(old, late) == [True, False]

    run(work())


def test_a_changed_secret_is_told_even_where_the_version_is_known(server: RedisServer) -> None:
    """After FLUSHALL another worker's secret and first key make version 1 again: it is not the version 1 known."""
    client = server.client()

    async def work() -> None:
        async with (
            opened(server.url, secret=None, candidate=b"1" * 32) as old,
            opened(server.url, secret=None, candidate=b"3" * 32) as late,
        ):
            before = await old.api_keys(None)
            assert before is not None
            await old.add_api_key(ApiKey(digest("lost", before.digest_key), Identity("alice"), 0))
            known = await old.api_keys(before.version)
            assert known is not None
            client.flushall()
            fresh = await late.api_keys(None)
            assert fresh is not None
            await late.add_api_key(ApiKey(digest("new", fresh.digest_key), Identity("bob"), 0))
            table = await old.api_keys(known.version)
            assert table is not None, "the worker keeps a key that is lost, and never learns the new one"
            assert (proven(table, "lost"), proven(table, "new")) == (None, Identity("bob"))

    run(work())


def test_after_flushall_a_version_is_not_used_again(server: RedisServer) -> None:
    """A worker that knows version 1 is told of the version that came after FLUSHALL, under a secret that is set."""
    client = server.client()

    async def work() -> None:
        async with opened(server.url) as store:
            await store.add_api_key(ApiKey("a" * 64, Identity("alice"), 0))
            known = await store.api_keys(None)
            assert known is not None
            client.flushall()
            await store.add_api_key(ApiKey("b" * 64, Identity("bob"), 0))
            table = await store.api_keys(known.version)
            assert table is not None, "the worker keeps a key that is lost, and never learns the new one"
            assert set(table.entries) == {"b" * 64}

    run(work())


def test_a_secret_that_is_set_is_not_kept_in_the_store(server: RedisServer) -> None:
    """Nothing but buckets and API keys lies there, whatever the store is asked."""

    async def work() -> None:
        async with opened(server.url, secret=b"s" * 32) as store:
            await take(store, one(slow_limit(2)))
            await store.api_keys(None)
            await store.add_api_key(ApiKey("a" * 64, Identity("alice"), 0))
            table = await store.api_keys(None)
            assert table is not None
            assert table.digest_key == derive_digest_key(b"s" * 32)

    run(work())
    client = server.client()
    assert SECRET_KEY not in all_keys(client)
    assert not any(b"s" * 32 in (client.dump(key) or b"") for key in all_keys(client))


def test_different_secrets_are_different_fleets(server: RedisServer) -> None:
    """On one server with one prefix they share no bucket, and each finds its own under the key it should."""

    async def work() -> None:
        async with (
            opened(server.url, secret=b"s" * 32) as ours,
            opened(server.url, secret=b"t" * 32) as theirs,
        ):
            assert await takes(ours, ours, theirs, ours, theirs) == [True, True, True, False, True]

    run(work())
    expected = [Keys("shield", each * 32).bucket(one(slow_limit(2))[0]) for each in (b"s", b"t")]
    assert all_keys(server.client()) == sorted(expected)


def test_a_secret_that_is_set_wins_over_the_one_kept(server: RedisServer) -> None:
    """A fleet that sets its secret later is not bound by what lies in the store."""
    server.client().set(SECRET_KEY, (b"1" * 32).hex(), px=KEPT_MS)

    async def work() -> None:
        async with opened(server.url, secret=b"s" * 32) as store:
            await take(store, one(slow_limit(2)))

    run(work())
    assert Keys("shield", b"s" * 32).bucket(one(slow_limit(2))[0]) in all_keys(server.client())


@pytest.mark.parametrize(
    "kept",
    [
        b"no hex",
        b"",
        b"\xff\xfe",
        b"abc",  # an odd number of digits
        b"00" * 15,  # shorter than 128 bits
    ],
)
def test_a_secret_that_cannot_be_one_is_an_error(server: RedisServer, kept: bytes) -> None:
    """A StoreError that says what to do and does not show what lies there; it is not overwritten."""
    client = server.client()
    client.set(SECRET_KEY, kept, px=KEPT_MS)

    async def work() -> None:
        async with opened(server.url, secret=None) as store:
            for ask in (lambda: take(store, one(slow_limit(2))), lambda: store.api_keys(None)):
                with pytest.raises(StoreError, match="set SHIELD_SECRET") as caught:
                    await ask()
                assert len(kept) < 10 or kept.decode() not in str(caught.value)

    run(work())
    assert client.get(SECRET_KEY) == kept
