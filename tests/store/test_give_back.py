"""give_back.lua: giving back never admits more than the burst, and foreign data in one bucket affects no other."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import redis

from servers import RedisServer
from shieldmw.core.bucket import EPOCH_S, Charge, Outcome, TakeRequest
from shieldmw.core.lease import Lease, Unspent
from shieldmw.core.limits import US_PER_S, Limit
from shieldmw.store import scripts
from shieldmw.store.fleet import RedisStore
from store.stores import all_keys, everything, now_us, one, opened, run, slow_limit

KEPT_MS = 3_600_000
UNIT_US = 1000
BURST = 1000
FAST = Limit("ip", US_PER_S // UNIT_US, 1, BURST)


class Tally:
    """How many units passed, and when by the clock of Redis the first and the last did."""

    def __init__(self) -> None:
        self.times_us: list[int] = []

    def note(self, outcome: Outcome | None, at_us: int, cost: int = 1) -> bool:
        """Whether it passed."""
        if outcome is None or not outcome.allowed:
            return False
        self.times_us += [at_us] * cost
        return True

    def assert_promise(self) -> None:
        """No window holds more than burst + rate * D."""
        for first, start_us in enumerate(self.times_us):
            for last in (first + BURST, len(self.times_us) - 1):
                if first <= last < len(self.times_us):
                    units, span_us = last - first + 1, self.times_us[last] - start_us
                    assert units <= BURST + span_us // UNIT_US, f"{units} units in {span_us} us"


async def drain(store: RedisStore, tally: Tally) -> None:
    """Take as much as passes, in ever smaller pieces."""
    for piece in (512, 256, 128, 64, 32, 16, 8, 4, 2, 1):
        (outcome,) = await store.take([TakeRequest(one(FAST, piece))])
        tally.note(outcome, outcome.now_us, piece)


def past(client: redis.Redis, tat_us: int) -> None:
    """Wait until the clock of Redis shows a time."""
    while now_us(client) < tat_us:
        pass


def test_a_lease_given_back_under_another_lets_nothing_more_pass(server: RedisServer) -> None:
    """Two workers lease, one gives back, the other spends when the bucket is full again, then everyone takes."""
    client = server.client()
    tally = Tally()

    async def work() -> None:
        async with opened(server.url) as one_worker, opened(server.url) as other:
            first = (await one_worker.take([TakeRequest(one(FAST), 1000)]))[0]
            second = (await other.take([TakeRequest(one(FAST), 1000)]))[0]
            assert first.leased > 50 < second.leased
            tally.note(first, first.now_us)
            tally.note(second, second.now_us)
            lease = Lease(one(FAST), second)
            await one_worker.give_back(Lease(one(FAST), first).unspent(now_us(client)))
            past(client, second.tats_us[0] - second.leased * UNIT_US)
            at_us = now_us(client)
            while tally.note(lease.spend(at_us), at_us):
                pass
            await drain(other, tally)
        tally.assert_promise()

    run(work())


def test_a_lease_given_back_late_lets_nothing_more_pass(server: RedisServer) -> None:
    """A give back that was under way while the bucket refilled and was charged by others."""
    client = server.client()
    tally = Tally()

    async def work() -> None:
        async with opened(server.url) as store:
            (first,) = await store.take([TakeRequest(one(FAST), 1000)])
            tally.note(first, first.now_us)
            unspent = Lease(one(FAST), first).unspent(first.now_us)
            past(client, first.tats_us[0] - 10 * UNIT_US)
            (half,) = await store.take([TakeRequest(one(FAST, BURST // 2))])
            assert tally.note(half, half.now_us, BURST // 2)
            await store.give_back(unspent)
            await drain(store, tally)
        tally.assert_promise()

    run(work())


def test_a_lease_that_was_charged_behind_is_given_back(server: RedisServer) -> None:
    """By the same worker, in the same call and after it: the TAT is then as if nothing had been taken ahead."""
    client = server.client()
    charges = one(slow_limit(1000))

    async def work() -> None:
        async with opened(server.url) as store:
            first, *behind = await store.take([TakeRequest(charges, 40), TakeRequest(charges), TakeRequest(charges)])
            behind += await store.take([TakeRequest(charges)])
            lease = Lease(charges, first)
            for outcome in behind:
                lease.absorb(outcome)
            await store.give_back(lease.unspent(first.now_us))
            (key,) = all_keys(client)
            assert int(client.get(key) or 0) == first.now_us + 4 * charges[0].step_us
            assert first.leased == 40

    run(work())


# --- only the exact ceiling -------------------------------------------------------------------------


def key_of(charge: Charge) -> str:
    """A bucket under the name of its limit."""
    return charge.limit.name


def unspent(name: str, ceiling_us: int, give_us: int) -> Unspent:
    """What is given back of a bucket, whatever was really leased."""
    return Unspent(one(slow_limit(100, name))[0], ceiling_us, give_us)


def given_back(server: RedisServer, *given: Unspent) -> int:
    """Give it back in one call; how many buckets took something back."""

    async def work() -> int:
        async with opened(server.url) as store:
            return await scripts.give_back(store.redis.run, given, key_of)

    return run(work())


@pytest.mark.parametrize("off_us", [-1, 0, 1])
def test_only_a_tat_at_exactly_the_ceiling_goes_back(server: RedisServer, off_us: int) -> None:
    """A microsecond more, or less, and somebody else has charged the bucket: nothing is written, not even a TTL."""
    client = server.client()
    ceiling_us = now_us(client) + 60 * US_PER_S
    client.set("a", ceiling_us + off_us, px=KEPT_MS)
    before = everything(client)
    assert given_back(server, unspent("a", ceiling_us, 10 * US_PER_S)) == (off_us == 0)
    if off_us:
        assert everything(client) == before
    else:
        assert client.get("a") == str(ceiling_us - 10 * US_PER_S).encode()


def test_a_bucket_that_is_gone_stays_gone(server: RedisServer) -> None:
    """Full again, or reset by an operator: giving back makes no key."""
    assert given_back(server, unspent("a", now_us(server.client()) + US_PER_S, US_PER_S // 2)) == 0
    assert all_keys(server.client()) == []


def test_what_is_given_back_twice_counts_once(server: RedisServer) -> None:
    """In one call or in two: after the first the TAT is no longer the ceiling."""
    client = server.client()
    ceiling_us = now_us(client) + 60 * US_PER_S
    client.set("a", ceiling_us, px=KEPT_MS)
    given = unspent("a", ceiling_us, US_PER_S)
    assert given_back(server, given) == 1
    assert given_back(server, given) == 0
    client.set("a", ceiling_us, px=KEPT_MS)
    given_back(server, given, given)
    assert client.get("a") == str(ceiling_us - US_PER_S).encode()


@pytest.mark.parametrize(
    "tat_us", [10**15 + 1, 2**53 - 1, 9_007_199_254_740_881, 1_234_567_890_123_457], ids=lambda tat_us: str(tat_us)
)
@pytest.mark.parametrize("give_us", [1, 7, 999_999_999_999])
def test_no_digit_is_lost(server: RedisServer, tat_us: int, give_us: int) -> None:
    """Up to 2^53 the TAT that is left is exact, in decimal digits and nothing else."""
    client = server.client()
    client.set("a", tat_us, px=KEPT_MS)
    assert given_back(server, unspent("a", tat_us, give_us)) == 1
    assert client.get("a") == str(tat_us - give_us).encode()


@pytest.mark.parametrize("left_us", [2_000_001, 2_000_999, 5_000_000, 3_600 * US_PER_S])
def test_the_ttl_lasts_until_the_bucket_is_full_and_no_longer(server: RedisServer, left_us: int) -> None:
    """Never less: a key that is gone is a full bucket. And never as long as it was before.

    A key is there during the millisecond that is told as its end.
    """
    client = server.client()
    full_us = now_us(client) + left_us
    client.set("a", full_us + 60 * US_PER_S, px=10 * KEPT_MS)
    assert given_back(server, unspent("a", full_us + 60 * US_PER_S, 60 * US_PER_S)) == 1
    gone_us = (client.pexpiretime("a") + 1 - EPOCH_S * 1000) * 1000
    assert 0 < gone_us - full_us <= 2000


@pytest.mark.parametrize("give_us", [60 * US_PER_S, 61 * US_PER_S, 10**15])
def test_a_bucket_that_is_full_by_what_comes_back_is_deleted(server: RedisServer, give_us: int) -> None:
    """Whether it is so to the microsecond or by far more: a TAT that is over is no TAT."""
    client = server.client()
    ceiling_us = now_us(client) + 60 * US_PER_S
    client.set("a", ceiling_us, px=KEPT_MS)
    assert given_back(server, unspent("a", ceiling_us, give_us)) == 1
    assert all_keys(client) == []


@pytest.mark.parametrize("text", ["1", "0", "-5", "007", "1e15", "0x10", "5.0", " 5", "abc", "nan", "inf", ""])
def test_a_text_that_is_not_the_ceilings_own_digits_is_left_alone(server: RedisServer, text: str) -> None:
    """Also where it is a number to Lua: only what take.lua wrote is given back."""
    client = server.client()
    client.set("a", text, px=KEPT_MS)
    before = everything(client)
    for ceiling_us in (5, 7, 16, 10**15):
        assert given_back(server, unspent("a", ceiling_us, 1)) == 0
    assert everything(client) == before


@pytest.mark.parametrize("seed", range(8))
def test_any_trace_ends_as_the_model_says(server: RedisServer, seed: int) -> None:
    """Leases, charges and give backs of several clients at random, several in a call, against a model in Python."""
    client = server.client()
    chance = random.Random(seed)
    limits = [slow_limit(1000, name) for name in "abcd"]
    model: dict[str, int] = {}
    held: list[Unspent] = []

    async def work() -> None:
        async with opened(server.url) as store:
            for _ in range(120):
                limit = chance.choice(limits)
                what = chance.random()
                if what < 0.55:
                    ask = TakeRequest(one(limit, chance.randrange(1, 4)), chance.choice([0, 0, 5, 40]))
                    (outcome,) = await scripts.take(store.redis.run, [ask], key_of)
                    if outcome.allowed:
                        model[limit.name] = outcome.tats_us[0]
                        held.extend(Lease(ask.charges, outcome).unspent(outcome.now_us) if outcome.leased else ())
                elif what < 0.9 and held:
                    chance.shuffle(held)
                    given, held[:] = held[: chance.randrange(1, 4)], held[3:]
                    expected, seen = 0, dict(model)
                    for bucket in given:
                        name = bucket.charge.limit.name
                        if seen.get(name) == bucket.ceiling_us:
                            model[name] = bucket.ceiling_us - bucket.give_us
                            expected += 1
                    assert await scripts.give_back(store.redis.run, given, key_of) == expected
                elif what < 0.95:
                    client.delete(limit.name)
                    model.pop(limit.name, None)
                assert {name: int(client.get(name) or 0) for name in all_keys(client)} == model

    run(work())
    assert model


# --- garbage ----------------------------------------------------------------------------------------


def as_list(client: redis.Redis) -> None:
    """Not a string at all."""
    client.rpush("broken", "x")
    client.pexpire("broken", KEPT_MS)


def as_text(text: str) -> Callable[[redis.Redis], None]:
    """A text that is no TAT."""

    def put(client: redis.Redis) -> None:
        client.set("broken", text, px=KEPT_MS)

    return put


@pytest.mark.parametrize(
    "garbage",
    [as_list, *map(as_text, ("abc", "nan", "inf", "-inf", "1e400", "1e300", ""))],
    ids=["list", "abc", "nan", "inf", "-inf", "1e400", "1e300", "empty"],
)
def test_garbage_in_one_bucket_harms_no_other(server: RedisServer, garbage: Callable[[redis.Redis], None]) -> None:
    """Whatever lies in the bucket before it, the next one takes back what is its own; the garbage stays as it was."""
    client = server.client()
    garbage(client)
    lying = client.dump("broken")
    good, broken = one(slow_limit(100, "good")), one(slow_limit(100, "broken"))

    async def work() -> None:
        async with opened(server.url) as store:
            (outcome,) = await scripts.take(store.redis.run, [TakeRequest(good, 5)], key_of)
            own = Lease(good, outcome).unspent(outcome.now_us)
            assert await scripts.give_back(store.redis.run, (Unspent(broken[0], 5, 5), *own), key_of) == 1
            assert client.get("good") == str(outcome.tats_us[0] - 5 * good[0].limit.unit_us).encode()
            assert client.dump("broken") == lying

    run(work())
