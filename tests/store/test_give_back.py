"""give_back.lua: nothing that is given back lets more pass than the burst, and garbage in one bucket harms no other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from servers import RedisServer
from shieldmw.core.bucket import Ask, Charge, Outcome
from shieldmw.core.lease import Lease, Unspent
from shieldmw.core.limits import US_PER_S, Limit
from shieldmw.store import scripts
from shieldmw.store.shared import RedisStore
from store.stores import now_us, one, opened, run, slow_limit

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
        (outcome,) = await store.take([Ask(one(FAST, piece))])
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
            first = (await one_worker.take([Ask(one(FAST), 1000)]))[0]
            second = (await other.take([Ask(one(FAST), 1000)]))[0]
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
            (first,) = await store.take([Ask(one(FAST), 1000)])
            tally.note(first, first.now_us)
            unspent = Lease(one(FAST), first).unspent(first.now_us)
            past(client, first.tats_us[0] - 10 * UNIT_US)
            (half,) = await store.take([Ask(one(FAST, BURST // 2))])
            assert tally.note(half, half.now_us, BURST // 2)
            await store.give_back(unspent)
            await drain(store, tally)
        tally.assert_promise()

    run(work())


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

    def key_of(charge: Charge) -> str:
        return charge.limit.name

    async def work() -> None:
        async with opened(server.url) as store:
            (outcome,) = await scripts.take(store._redis.run, [Ask(good, 5)], key_of)
            own = Lease(good, outcome).unspent(outcome.now_us)
            assert await scripts.give_back(store._redis.run, (Unspent(broken[0], 5, 5), *own), key_of) == 1
            assert client.get("good") == str(outcome.tats_us[0] - 5 * good[0].limit.unit_us).encode()
            assert client.dump("broken") == lying

    run(work())
