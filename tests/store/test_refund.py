"""refund.lua: an unspent charge is refunded, but never beyond a full bucket."""

from __future__ import annotations

import random

import pytest

from servers import RedisServer
from shieldmw.core import bucket
from shieldmw.core.bucket import Charge, Outcome, TakeRequest
from shieldmw.core.limits import US_PER_S, Limit
from shieldmw.store import scripts
from shieldmw.store.redis.connection import RedisConnection
from store.stores import AMPLE_S, now_us, run, slow_limit, someone

KEY = "bucket"
UNIT_US = 500
FAST = Limit("ip", US_PER_S // UNIT_US, 1, 200)


def key_of(_: Charge) -> str:
    """There is only one bucket."""
    return KEY


class Bucket:
    """One bucket in a server, and what it would hold had the charges that go back never been made."""

    def __init__(self, redis: RedisConnection, limit: Limit) -> None:
        self.limit = limit
        self.true_us: int | None = None
        self._redis = redis

    async def charge(self, cost: int, *, is_kept: bool = True) -> Outcome:
        """Charge it."""
        charge = Charge(someone(), self.limit, cost)
        (outcome,) = await scripts.take(self._redis.run, [TakeRequest((charge,))], key_of)
        if is_kept and outcome.allowed:
            self.true_us = max(self.true_us or 0, outcome.now_us) + charge.step_us
        return outcome

    async def refund(self, outcome: Outcome, cost: int) -> int:
        """Give a charge back."""
        charge = Charge(someone(), self.limit, cost)
        return await scripts.refund(self._redis.run, charge, outcome.tats_us[0], outcome.now_us, key_of)


def test_a_charge_that_nobody_followed_goes_back_whole(server: RedisServer) -> None:
    """The bucket is what it was, to the last digit; one that was full is full."""
    client = server.client()

    async def work() -> None:
        redis = RedisConnection(server.url, AMPLE_S)
        one = Bucket(redis, slow_limit(5))
        alone = await one.charge(2)
        assert await one.refund(alone, 2) == 2 * one.limit.unit_us
        assert not client.exists(KEY)
        first = await one.charge(2)
        second = await one.charge(3)
        assert await one.refund(second, 3) == 3 * one.limit.unit_us
        assert client.get(KEY) == str(first.tats_us[0]).encode()
        await redis.aclose()

    run(work())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_refunds_under_others_let_nothing_more_pass(server: RedisServer, seed: int) -> None:
    """Charges of others, kept or given back, in any order: the TAT is never earlier than without what was given back.

    And later by no more than the times that the charges stood.
    """
    dice = random.Random(seed)
    client = server.client()

    async def work() -> None:
        redis = RedisConnection(server.url, AMPLE_S)
        one = Bucket(redis, FAST)
        open_charges: list[tuple[Outcome, int]] = []
        stood_us = 0
        for _ in range(1500):
            cost = dice.choice([1, 1, 2, 5])
            if open_charges and dice.random() < 0.45:
                outcome, cost = open_charges.pop(dice.randrange(len(open_charges)))
                await one.refund(outcome, cost)
                stood_us += now_us(client) - outcome.now_us
            elif len(open_charges) < 8 and dice.random() < 0.5:
                outcome = await one.charge(cost, is_kept=False)
                if outcome.allowed:
                    open_charges.append((outcome, cost))
            else:
                await one.charge(cost)
            if open_charges:
                continue
            kept, now = client.get(KEY), now_us(client)
            tat_us = max(int(kept or 0), now)
            true_us = max(one.true_us or 0, now)
            assert true_us <= tat_us <= true_us + stood_us
        await redis.aclose()

    run(work())


def test_a_bucket_that_was_made_full_again_takes_nothing_back(server: RedisServer) -> None:
    """An operator was faster."""
    client = server.client()

    async def work() -> None:
        redis = RedisConnection(server.url, AMPLE_S)
        one = Bucket(redis, slow_limit(5))
        outcome = await one.charge(2)
        client.delete(KEY)
        assert await one.refund(outcome, 2) == 0
        assert not client.exists(KEY)
        await redis.aclose()

    run(work())


@pytest.mark.parametrize("garbage", ["abc", "nan", "inf", "-5", "1e300", "9" * 30, ""])
def test_garbage_stays_as_it_is(server: RedisServer, garbage: str) -> None:
    """It was written by somebody else; the next charge replaces it."""
    client = server.client()
    client.set(KEY, garbage, px=60_000)

    async def work() -> None:
        redis = RedisConnection(server.url, AMPLE_S)
        assert await Bucket(redis, slow_limit(5)).refund(Outcome(True, 1, (2,)), 1) == 0
        await redis.aclose()

    run(work())
    assert client.get(KEY) == garbage.encode()


def test_the_reference_agrees_on_what_a_refund_restores() -> None:
    """A charge and its refund at the same time leave what core/bucket would have said without both."""
    limit = slow_limit(5)
    ask = TakeRequest((Charge(someone(), limit, 2),))
    taken = bucket.take([7_000_000], ask, 1_000_000)
    assert taken.tats_us[0] - ask.charges[0].step_us == 7_000_000
