"""Every bucket's key expires when the bucket is full again, never earlier: a missing key is a full bucket."""

from __future__ import annotations

import asyncio

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servers import RedisServer
from shieldmw.core.api_keys import ApiKey
from shieldmw.core.bucket import EPOCH_S, Charge, TakeRequest
from shieldmw.core.client import Client, Identity
from shieldmw.core.limits import US_PER_S, Limit, aggregate
from shieldmw.core.load import WorkerLoad
from shieldmw.core.metrics import FLEET_DECISIONS
from shieldmw.core.mode import LONGEST_S
from shieldmw.core.seats import Audience
from shieldmw.core.top import Kind, Ranking, Tally, TopReport
from shieldmw.store import scripts
from store.stores import API_KEYS_KEY, SECRET_KEY, all_keys, answered, asked, now_us, one, opened, run, slow_limit, take

EPOCH_MS = EPOCH_S * 1000
CHARGED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def take_one(client: redis.Redis, limit: Limit, cost: int, key: str) -> tuple[int, int, int, int]:
    """Take from a bucket: the script's time, the TAT, when the key ends (ms since 2025), the time after."""
    script = client.register_script(scripts.source("take"))
    with client.pipeline(transaction=True) as pipeline:
        script(keys=[key], args=asked([TakeRequest(one(limit, cost))])[1], client=pipeline)
        pipeline.pexpiretime(key)
        pipeline.time()
        (now, leased, tat_us), ends_ms, after = pipeline.execute()
    assert leased == 0
    after_us = (int(after[0]) - EPOCH_S) * US_PER_S + int(after[1])
    return now, tat_us, ends_ms - EPOCH_MS, after_us


def check(now: int, tat_us: int, ends_ms: int, after_us: int) -> None:
    """A key is there until the millisecond of its end is over: not before the TAT, and no more than 1 ms after it.

    Debian's Redis reads the clock again when it sets the key, so the end is compared with the time afterwards.
    """
    assert (ends_ms + 1) * 1000 > tat_us
    ttl_ms = max(1, -(-(tat_us - now) // 1000))
    assert ends_ms <= after_us // 1000 + ttl_ms


@CHARGED
@given(
    period_s=st.sampled_from([1, 60, 3600, 86_400]),
    amount=st.sampled_from([1, 3, 7, 100, 1000, 300_000, 1_000_000]) | st.integers(1, 1_000_000),
    burst=st.integers(1, 40_000),
    share=st.floats(0, 1),
)
def test_a_key_ends_no_earlier_than_its_bucket_is_full(
    shared_server: RedisServer, period_s: int, amount: int, burst: int, share: float
) -> None:
    """Whatever the limit and however much is taken, in one piece or two."""
    limit = Limit("ip", amount, period_s, burst)
    client = shared_server.client()
    client.flushall()
    cost = max(1, int(burst * share))
    for part in (cost, burst - cost):
        now, tat_us, ends_ms, after_us = take_one(client, limit, part, "key")
        if ends_ms == -2 - EPOCH_MS:
            assert after_us >= tat_us
        elif part:
            check(now, tat_us, ends_ms, after_us)
    client.close()


@pytest.mark.parametrize("unit_us", [1, 10, 999, 1000, 1001, 2500, 10_000])
def test_a_short_ttl_is_never_rounded_down(server: RedisServer, unit_us: int) -> None:
    """Whatever part of a millisecond the clock shows, over hundreds of keys."""
    client = server.client()
    limit = Limit("ip", US_PER_S // unit_us, 1, 5)
    for number in range(500):
        now, tat_us, ends_ms, after_us = take_one(client, limit, 1, f"key {number}")
        if ends_ms == -2 - EPOCH_MS:
            assert after_us >= tat_us
        else:
            check(now, tat_us, ends_ms, after_us)


@pytest.mark.parametrize(
    ("amount", "burst", "requests"),
    [
        (100, 40, 200),  # where an expiry of floor(2 * burst / rate) seconds let 200 of 200 through
        (1000, 3, 200),
        (1000, 1, 200),
        (10, 1, 200),
        (100_000, 2, 500),  # a bucket that is full again within a fraction of a millisecond
        (1_000_000, 1, 500),
    ],
)
def test_expiry_gives_nothing_away(server: RedisServer, amount: int, burst: int, requests: int) -> None:
    """At most burst + rate * D pass in the time D by the clock of Redis, however fast keys come and go."""

    async def work() -> tuple[int, int]:
        limit = Limit("ip", amount, 1, burst)
        async with opened(server.url) as store:
            outcomes = await asyncio.gather(*(take(store, one(limit)) for _ in range(requests)))
        times = [outcome.now_us for outcome in outcomes]
        span_us = max(times) - min(times)
        return sum(outcome.allowed for outcome in outcomes), burst + span_us // limit.unit_us

    allowed, most = run(work())
    assert min(burst, requests) <= allowed <= most


def test_an_idle_bucket_leaves_the_server_and_is_full(server: RedisServer) -> None:
    """When its key has gone the bucket is full, and it is not gone while the bucket is not."""
    client = server.client()
    script = client.register_script(scripts.source("take"))
    whole = [TakeRequest(one(Limit("ip", 1000, 1, 5), 5))]
    for _ in range(20):
        _, tat_us, *_ = take_one(client, Limit("ip", 1000, 1, 5), 5, "key")
        while True:
            with client.pipeline(transaction=True) as pipeline:
                pipeline.exists("key")
                pipeline.time()
                exists, _ = pipeline.execute()
            if not exists:
                break
        assert now_us(client) >= tat_us
        (outcome,) = answered(whole, script(keys=["key"], args=asked(whole)[1]))
        assert (outcome.allowed, outcome.tats_us) == (True, (outcome.now_us + 5000,))
        client.delete("key")


def test_every_key_of_every_operation_has_an_end(server: RedisServer) -> None:
    """Buckets, the secret and the API keys: none would stay for ever, nor leave during an event."""

    async def work() -> None:
        limit = slow_limit(3)
        site = Client("ip", "2001:db8::/56", "ip:2001:db8::/56")
        house = Client("ip", "2001:db8::/64", site.slot)
        async with opened(server.url, secret=None) as store:
            await take(store, [Charge(house, limit), Charge(site, aggregate(limit))])
            await store.add_api_key(ApiKey("a" * 64, Identity("alice"), 0))
            await store.revoke_api_keys(["b" * 64])
            await store.api_keys(None)

    run(work())
    client = server.client()
    keys = all_keys(client)
    assert len(keys) == 5
    assert {SECRET_KEY, API_KEYS_KEY} < set(keys)
    day_ms = 86_400_000
    for key in keys:
        # One unit of the site's aggregate, the fastest, is back in a quarter of a day.
        least = 365 * day_ms if key in (SECRET_KEY, API_KEYS_KEY) else day_ms // 4 - 60_000
        assert client.pttl(key) > least


@pytest.mark.parametrize("issued", [True, False])
def test_the_ends_of_kept_keys_move_on(server: RedisServer, issued: bool) -> None:
    """Whatever had shortened them: a worker that polls renews the secret, a change renews the API keys."""
    client = server.client()

    async def work() -> None:
        async with opened(server.url, secret=None) as store:
            await store.add_api_key(ApiKey("a" * 64, Identity("alice"), 0))
            await store.api_keys(None)
            client.persist(SECRET_KEY)
            client.persist(API_KEYS_KEY)
            if issued:
                await store.add_api_key(ApiKey("b" * 64, Identity("bob"), 0))
            else:
                await store.revoke_api_keys(["a" * 64])
            await store.api_keys(None)

    run(work())
    year_ms = 365 * 86_400_000
    assert all(client.pttl(key) > year_ms for key in all_keys(client))


def test_reports_of_workers_end_soon_after_the_last_worker(server: RedisServer) -> None:
    """A minute later nothing is left of a fleet."""

    async def work() -> None:
        async with opened(server.url) as store:
            load = WorkerLoad("one", "web-1", 1, 1_800_000_000.0, 0, 0, 0, Audience(), Audience(), Audience(), 0)
            await store.report_load(load)
            nothing = Tally(0, dict.fromkeys(Kind, Ranking({})))
            await store.report_top(TopReport("one", 1_800_000_000.0, 60.0, nothing, nothing))

    run(work())
    for table in ("shield:load", "shield:top"):
        assert 50_000 < server.client().pttl(table) <= 60_000


def test_the_fleets_decisions_outlast_an_outage_but_not_the_season(server: RedisServer) -> None:
    """The sums, and the part of each worker that there ever was."""

    async def work() -> None:
        async with opened(server.url) as store:
            size = len(FLEET_DECISIONS.series)
            await store.decided("one", [1] * size, [0] * size)

    run(work())
    for key in ("shield:{decided}", "shield:{decided}:one"):
        assert 7 * 86_400_000 < server.client().pttl(key) <= 8 * 86_400_000


def test_a_notice_outlasts_any_emergency(server: RedisServer) -> None:
    """A worker that starts in it finds that it was told."""

    async def work() -> None:
        async with opened(server.url) as store:
            assert await store.is_first("3-emergency", "worker")

    run(work())
    assert LONGEST_S * 1000 < server.client().pttl("shield:notice:3-emergency") <= 8 * 86_400_000
