"""settle.lua: a debt advances the TAT, never beyond an empty bucket, and the key expires when it is full."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servers import RedisServer
from shieldmw.core.bucket import EPOCH_S, FURTHEST_US, Charge
from shieldmw.core.debts import Debt, deepest_us, settled_us
from shieldmw.core.limits import US_PER_S, Limit
from shieldmw.store import scripts
from store.stores import now_us, one, opened, run, slow_limit

LIMIT = slow_limit(10)
SHORT = Limit("ip", 10, 1, 10)
KEPT_MS = 3_600_000
EPOCH_MS = EPOCH_S * 1000


def key_of(charge: Charge) -> str:
    """A bucket under the name of its limit."""
    return charge.limit.name


def settle(server: RedisServer, *debts: Debt) -> None:
    """Charge it in one call."""

    async def work() -> None:
        async with opened(server.url) as store:
            await scripts.settle(store.redis.run, debts, 0, "me", key_of)

    run(work())


def owing(owed_us: int, name: str = "ip", *, workers: int = 1, number: int = 1) -> Debt:
    """What is owed of a bucket."""
    return Debt(one(slow_limit(10, name))[0], workers, owed_us, owed_us, number)


@pytest.mark.parametrize("owed_us", [1, 7, 999_999_999])
def test_a_tat_moves_by_what_is_owed(server: RedisServer, owed_us: int) -> None:
    """To the last digit."""
    client = server.client()
    tat_us = now_us(client) + 86_400 * US_PER_S + 1
    client.set("ip", tat_us, px=KEPT_MS)
    settle(server, owing(owed_us))
    assert client.get("ip") == str(tat_us + owed_us).encode()


@pytest.mark.parametrize("stored", [None, b"nan", b"12", b"garbage"])
def test_a_full_bucket_is_charged_from_now_on(server: RedisServer, stored: bytes | None) -> None:
    """The same holds for a TAT in the past, and for a missing one."""
    client = server.client()
    if stored is not None:
        client.set("ip", stored, px=KEPT_MS)
    before_us = now_us(client)
    settle(server, owing(5 * US_PER_S))
    assert before_us <= int(client.get("ip") or 0) - 5 * US_PER_S <= now_us(client)


def test_a_bucket_is_overdrawn_by_one_bucket_at_most(server: RedisServer) -> None:
    """What is owed beyond that is forgiven, and the other bucket of the call is charged as if it were alone."""
    client = server.client()
    before_us = now_us(client)
    settle(server, owing(3 * LIMIT.tau_us), owing(US_PER_S, "ip-2"))
    after_us = now_us(client)
    assert before_us <= int(client.get("ip") or 0) - 2 * LIMIT.tau_us <= after_us
    assert before_us <= int(client.get("ip-2") or 0) - US_PER_S <= after_us


@pytest.mark.parametrize("buckets", [2, 2.001, 5, 2000])
def test_a_debt_of_a_shorter_limit_never_shortens_a_tat(server: RedisServer, buckets: float) -> None:
    """A deploy or a change of the mode has shortened the limit of a bucket that is charged far ahead: it stays so."""
    client = server.client()
    tat_us = now_us(client) + round(buckets * SHORT.tau_us) + 10_000_000
    client.set("ip", tat_us, px=KEPT_MS)
    settle(server, Debt(one(SHORT)[0], 1, SHORT.tau_us, SHORT.tau_us, 1))
    assert client.get("ip") == str(tat_us).encode()


@pytest.mark.parametrize("garbage", [b"inf", b"1e400", b"9" * 16, b"9" * 30])
def test_garbage_counts_as_a_day(server: RedisServer, garbage: bytes) -> None:
    """As where a request is charged; and it ends by itself, whatever the other debts of the call are."""
    client = server.client()
    client.set("ip", garbage)
    before_us = now_us(client)
    settle(server, Debt(one(SHORT)[0], 1, SHORT.tau_us, SHORT.tau_us, 1), owing(US_PER_S, "ip-2"))
    assert before_us <= int(client.get("ip") or 0) - FURTHEST_US <= now_us(client)
    assert 0 < client.pttl("ip") <= FURTHEST_US // 1000
    assert client.exists("ip-2")


@given(
    ahead_us=st.none() | st.integers(-10, 3 * SHORT.tau_us) | st.sampled_from([FURTHEST_US - 1, FURTHEST_US, 2**52]),
    owed_us=st.integers(1, 3 * SHORT.tau_us),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_script_and_its_twin_agree(server: RedisServer, ahead_us: int | None, owed_us: int) -> None:
    """To the microsecond, at a given time."""
    at_us = 60_000_000_000_000
    source = scripts.source("settle")
    for ours, tests in (
        ("redis.call('TIME')", f"{{'{EPOCH_S + at_us // US_PER_S}', '{at_us % US_PER_S}'}}"),
        ("return charged", "return redis.call('GET', KEYS[1])"),  # it may expire at once
    ):
        assert source.count(ours) == 1
        source = source.replace(ours, tests)
    client = server.client()
    client.delete("ip", "record")
    stored_us = None if ahead_us is None else at_us + ahead_us
    if stored_us is not None:
        client.set("ip", stored_us)
    settled = client.eval(source, 2, "ip", "record", 0, 1, owed_us, owed_us, 1, deepest_us(SHORT), KEPT_MS)
    assert int(settled) == settled_us(stored_us, owed_us, SHORT, at_us)


def test_a_debt_is_charged_once(server: RedisServer) -> None:
    """Sent again it moves nothing; what has grown of it does; another debt is charged as a whole."""
    client = server.client()
    moved = []
    settle(server, owing(5 * US_PER_S))
    tat_us = int(client.get("ip") or 0)
    for debt in (owing(5 * US_PER_S), owing(7 * US_PER_S), owing(7 * US_PER_S), owing(9 * US_PER_S, number=2)):
        settle(server, debt)
        moved.append(int(client.get("ip") or 0) - tat_us)
        tat_us += moved[-1]
    assert moved == [0, 2 * US_PER_S, 0, 9 * US_PER_S]


def test_a_debt_of_a_share_is_rounded_up(server: RedisServer) -> None:
    """A third of ten microseconds are four of the whole bucket."""
    client = server.client()
    tat_us = now_us(client) + 86_400 * US_PER_S
    client.set("ip", tat_us, px=KEPT_MS)
    settle(server, owing(10, workers=3))
    assert client.get("ip") == str(tat_us + 4).encode()


def test_the_key_ends_when_the_bucket_is_full(server: RedisServer) -> None:
    """And not as it would have before; a key is there during the millisecond of its end."""
    client = server.client()
    client.set("ip", now_us(client) + US_PER_S, px=10 * KEPT_MS)
    settle(server, owing(60 * US_PER_S))
    tat_us, ends_ms = int(client.get("ip") or 0), client.pexpiretime("ip") - EPOCH_MS
    assert tat_us < (ends_ms + 1) * 1000 < tat_us + US_PER_S
