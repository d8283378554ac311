"""settle.lua: what is owed moves any TAT, never beyond an empty bucket, and the key ends when that is full."""

from __future__ import annotations

import pytest

from servers import RedisServer
from shieldmw.core.bucket import EPOCH_S, Charge
from shieldmw.core.debts import Debt, Owed
from shieldmw.core.limits import US_PER_S
from shieldmw.store import scripts
from store.stores import now_us, one, opened, run, slow_limit

LIMIT = slow_limit(10)
KEPT_MS = 3_600_000
EPOCH_MS = EPOCH_S * 1000


def key_of(charge: Charge) -> str:
    """A bucket under the name of its limit."""
    return charge.limit.name


def settle(server: RedisServer, *owed: Owed) -> None:
    """Charge it in one call."""

    async def work() -> None:
        async with opened(server.url) as store:
            await scripts.settle(store._redis.run, owed, key_of)

    run(work())


def owing(owed_us: int, name: str = "ip") -> Owed:
    """What is owed of a bucket."""
    return Debt(one(slow_limit(10, name))[0], LIMIT.unit_us, 0, owed_us).owed(0)


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
    """So is one whose TAT is past, or none."""
    client = server.client()
    if stored is not None:
        client.set("ip", stored, px=KEPT_MS)
    before_us = now_us(client)
    settle(server, owing(5 * US_PER_S))
    assert before_us <= int(client.get("ip") or 0) - 5 * US_PER_S <= now_us(client)


def test_a_bucket_cannot_be_emptier_than_empty(server: RedisServer) -> None:
    """What is owed beyond that is forgiven, and the other bucket of the call is charged as if it were alone."""
    client = server.client()
    before_us = now_us(client)
    settle(server, owing(LIMIT.tau_us + US_PER_S), owing(US_PER_S, "ip-2"))
    after_us = now_us(client)
    assert before_us <= int(client.get("ip") or 0) - LIMIT.tau_us <= after_us
    assert before_us <= int(client.get("ip-2") or 0) - US_PER_S <= after_us


def test_the_key_ends_when_the_bucket_is_full(server: RedisServer) -> None:
    """And not as it would have before; a key is there during the millisecond of its end."""
    client = server.client()
    client.set("ip", now_us(client) + US_PER_S, px=10 * KEPT_MS)
    settle(server, owing(60 * US_PER_S))
    tat_us, ends_ms = int(client.get("ip") or 0), client.pexpiretime("ip") - EPOCH_MS
    assert tat_us < (ends_ms + 1) * 1000 < tat_us + US_PER_S
